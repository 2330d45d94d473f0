-- Which keys may be given where, what is kept of VMs that left, repeated requests, the wish that a task ends.

-- In which clusters a VM has ever needed a key: their hosts have held it. It is written by whoever writes vm_key, and stays.
CREATE TABLE key_cluster (
    key_ref TEXT NOT NULL,
    cluster_id TEXT NOT NULL REFERENCES cluster (id) ON DELETE CASCADE,
    PRIMARY KEY (key_ref, cluster_id)
);
INSERT INTO key_cluster (key_ref, cluster_id)
    SELECT DISTINCT vm_key.key_ref, vm.cluster_id FROM vm_key JOIN vm ON vm.id = vm_key.vm_id;

-- What was said of a VM that was taken out of the inventory while its home stays, for when it comes back. The permissions on
-- it stay too, under its ID.
CREATE TABLE vm_left (
    vm_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    -- Where it was.
    cluster_id TEXT NOT NULL,
    template BIGINT NOT NULL,
    -- The storage policy of each component that somebody put under one, JSON.
    policies TEXT NOT NULL,
    since BIGINT NOT NULL
);

-- Requests that carried an Idempotency-Key, and what came of them: a task or a recryption, written down with it, or an answer.
DROP TABLE request_key;
CREATE TABLE request_key (
    user_id TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    value TEXT NOT NULL,
    -- The hash of the request, which may hold a password.
    sealed_request TEXT NOT NULL,
    -- The answer, which may hold a secret.
    sealed_answer TEXT,
    task_id TEXT,
    recryption_id TEXT,
    -- The hash of what the user might do then.
    rights TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (user_id, value)
);

-- Whether somebody has asked that the task ends where it can.
ALTER TABLE task ADD COLUMN cancelled BIGINT NOT NULL DEFAULT 0;
