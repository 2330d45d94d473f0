-- One text for SQLite and PostgreSQL. IDs and names are TEXT, times are microseconds since 1970, small structures JSON.
-- Nothing here is a key: `sealed` columns hold ciphertext under the controller's root key.

CREATE TABLE setting (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- Numbers that must grow in the order in which transactions commit; a database sequence would not.
CREATE TABLE counter (
    name TEXT PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counter (name, value) VALUES ('event', 0);

CREATE TABLE cluster (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created BIGINT NOT NULL
);

CREATE TABLE datastore (
    id TEXT PRIMARY KEY,
    cluster_id TEXT NOT NULL REFERENCES cluster (id),
    name TEXT NOT NULL UNIQUE,
    directory TEXT NOT NULL,
    created BIGINT NOT NULL,
    UNIQUE (cluster_id, directory)
);

CREATE TABLE host (
    id TEXT PRIMARY KEY,
    cluster_id TEXT NOT NULL REFERENCES cluster (id),
    name TEXT NOT NULL UNIQUE,
    address TEXT NOT NULL,
    created BIGINT NOT NULL
);

CREATE TABLE enrolment (
    id TEXT PRIMARY KEY,
    cluster_id TEXT NOT NULL REFERENCES cluster (id),
    secret_hash TEXT NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    used BIGINT
);

CREATE TABLE vm (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    cluster_id TEXT NOT NULL REFERENCES cluster (id),
    datastore_id TEXT NOT NULL REFERENCES datastore (id),
    directory TEXT NOT NULL,
    -- The VM's description as it lies in its home; none while the home is being made.
    config TEXT,
    -- Where it runs, or ran last.
    host_id TEXT REFERENCES host (id),
    power TEXT NOT NULL,
    created BIGINT NOT NULL,
    UNIQUE (datastore_id, directory)
);

-- Which keys each VM needs: drawn from `config`, so that a key's users can be found.
CREATE TABLE vm_key (
    vm_id TEXT NOT NULL REFERENCES vm (id) ON DELETE CASCADE,
    provider TEXT NOT NULL,
    key_ref TEXT NOT NULL,
    PRIMARY KEY (vm_id, key_ref)
);
CREATE INDEX vm_key_by_key ON vm_key (key_ref);

CREATE TABLE provider (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    server_host TEXT NOT NULL,
    server_port BIGINT NOT NULL,
    ca TEXT NOT NULL,
    certificate TEXT NOT NULL,
    sealed_key TEXT NOT NULL,
    is_default BIGINT NOT NULL,
    created BIGINT NOT NULL
);

CREATE TABLE task (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    vm_id TEXT NOT NULL,
    vm_name TEXT NOT NULL,
    user_name TEXT NOT NULL,
    state TEXT NOT NULL,
    step TEXT NOT NULL,
    work TEXT NOT NULL,
    problem TEXT,
    progress_done BIGINT NOT NULL,
    progress_total BIGINT NOT NULL,
    created BIGINT NOT NULL,
    ended BIGINT
);
-- The rule "one task per VM at a time", where no race gets round it.
CREATE UNIQUE INDEX task_open_by_vm ON task (vm_id) WHERE ended IS NULL;
CREATE INDEX task_by_time ON task (created);

CREATE TABLE event (
    id BIGINT PRIMARY KEY,
    time BIGINT NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    message TEXT NOT NULL
);

CREATE TABLE account (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    created BIGINT NOT NULL
);

CREATE TABLE session (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    secret_hash TEXT NOT NULL UNIQUE,
    created BIGINT NOT NULL,
    expires BIGINT NOT NULL
);
