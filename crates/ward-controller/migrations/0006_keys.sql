-- Keys that lie at key servers and that Ward made or uses: since when nothing needs each, and whether it is being destroyed.
-- One that was destroyed is in it no longer.

CREATE TABLE server_key (
    key_ref TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    -- Whether Ward made it. One that was there before is somebody else's to destroy.
    made BIGINT NOT NULL,
    -- Since when nothing needs it; none while something does.
    unneeded BIGINT,
    -- Since when it is being destroyed: nothing may begin to need it.
    destroying BIGINT
);
CREATE INDEX server_key_by_provider ON server_key (provider);

-- Of keys from before there was this table it is not known which of them Ward made.
INSERT INTO server_key (key_ref, provider, made)
    SELECT key_ref, MIN(provider), 0 FROM vm_key WHERE key_ref LIKE '%"kind":"standard"%' GROUP BY key_ref;

-- Tells of each change of which keys are needed where.
INSERT INTO counter (name, value) VALUES ('keys', 0);

CREATE INDEX vm_by_host ON vm (host_id);

-- The problem that an event tells of: its code, its cause, and what to do about it.
ALTER TABLE event ADD COLUMN problem TEXT;
