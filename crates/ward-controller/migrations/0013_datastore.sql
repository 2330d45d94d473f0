-- Whether a VM home has ever been on a datastore: such a one bears Ward's mark, which an empty mount point lacks.
ALTER TABLE datastore ADD COLUMN used BIGINT NOT NULL DEFAULT 0;
UPDATE datastore SET used = 1 WHERE id IN (SELECT datastore_id FROM vm);
