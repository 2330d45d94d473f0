-- Operations on VMs: storage policies, templates, locked VMs, the age of keys, the recryption of many VMs.

ALTER TABLE vm ADD COLUMN template BIGINT NOT NULL DEFAULT 0;
-- Why the VM can't be used, if it can't.
ALTER TABLE vm ADD COLUMN locked TEXT;

CREATE TABLE policy (
    name TEXT PRIMARY KEY,
    encrypts BIGINT NOT NULL,
    -- Where keys come from; none means the default provider.
    provider TEXT,
    -- After how many days keys are replaced.
    rotate_days BIGINT,
    built_in BIGINT NOT NULL,
    created BIGINT NOT NULL
);
INSERT INTO policy (name, encrypts, built_in, created) VALUES ('VM Encryption Policy', 1, 1, 0);
INSERT INTO policy (name, encrypts, built_in, created) VALUES ('No Encryption Policy', 0, 1, 0);

-- Components that are under another policy than the built-in one that fits how they are.
CREATE TABLE vm_policy (
    vm_id TEXT NOT NULL REFERENCES vm (id) ON DELETE CASCADE,
    component TEXT NOT NULL,
    policy TEXT NOT NULL REFERENCES policy (name),
    PRIMARY KEY (vm_id, component)
);

-- Since when each key has been in use: when it was first seen in a VM's description.
CREATE TABLE key_age (
    key_ref TEXT PRIMARY KEY,
    since BIGINT NOT NULL
);
INSERT INTO key_age (key_ref, since)
    SELECT vm_key.key_ref, MIN(vm.created) FROM vm_key JOIN vm ON vm.id = vm_key.vm_id GROUP BY vm_key.key_ref;

-- After how many days a provider's keys are replaced.
CREATE TABLE rotation (
    provider TEXT PRIMARY KEY,
    days BIGINT NOT NULL
);

CREATE TABLE recryption (
    id TEXT PRIMARY KEY,
    user_name TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL,
    created BIGINT NOT NULL,
    ended BIGINT
);

CREATE TABLE recryption_vm (
    recryption_id TEXT NOT NULL REFERENCES recryption (id) ON DELETE CASCADE,
    vm_id TEXT NOT NULL,
    vm_name TEXT NOT NULL,
    state TEXT NOT NULL,
    task_id TEXT,
    problem TEXT,
    PRIMARY KEY (recryption_id, vm_id)
);
