-- Host encryption mode: whether a host may hold keys, its host keys, whether it keeps keys over a restart.

CREATE TABLE host_crypto (
    host_id TEXT PRIMARY KEY REFERENCES host (id) ON DELETE CASCADE,
    -- The mode with what belongs to it, JSON. A host without a row is incapable.
    state TEXT NOT NULL
);
-- Hosts from before, of clusters that have keys, keep what they hold; they get a host key as soon as they answer.
INSERT INTO host_crypto (host_id, state)
    SELECT host.id, '{"mode":"prepared","attempt":"' || host.id || '"}' FROM host
    WHERE host.cluster_id IN (SELECT vm.cluster_id FROM vm JOIN vm_key ON vm_key.vm_id = vm.id)
        OR host.cluster_id IN (SELECT native_cluster.cluster_id FROM native_cluster)
        OR EXISTS (
            SELECT 1 FROM native_provider
            WHERE NOT EXISTS (SELECT 1 FROM native_cluster WHERE native_cluster.provider = native_provider.name)
        );

-- The dumps of which an event has told.
CREATE TABLE host_dump_told (
    host_id TEXT NOT NULL REFERENCES host (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    PRIMARY KEY (host_id, name)
);

-- Under which names host keys were asked for. They outlive their hosts: what a key server made and nobody heard of is found by
-- such a name.
CREATE TABLE host_key_attempt (
    attempt TEXT PRIMARY KEY,
    -- The host's name.
    host TEXT NOT NULL,
    since BIGINT NOT NULL
);
INSERT INTO host_key_attempt (attempt, host, since)
    SELECT host.id, host.name, host.created FROM host JOIN host_crypto ON host_crypto.host_id = host.id;

-- The keys that a host needs for itself: its host key, and those of its earlier ones that open dumps which it keeps.
CREATE TABLE host_key (
    host_id TEXT NOT NULL REFERENCES host (id) ON DELETE CASCADE,
    provider TEXT NOT NULL,
    key_ref TEXT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (host_id, key_ref)
);
CREATE INDEX host_key_by_provider ON host_key (provider);
CREATE INDEX host_key_by_key ON host_key (key_ref);

CREATE VIEW needed_key AS
    SELECT vm_key.key_ref AS key_ref, vm_key.provider AS provider, 'vm' AS owner, vm.name AS name
        FROM vm_key JOIN vm ON vm.id = vm_key.vm_id
    UNION ALL
    SELECT host_key.key_ref AS key_ref, host_key.provider AS provider, 'host' AS owner, host.name AS name
        FROM host_key JOIN host ON host.id = host_key.host_id;

-- Whether keys outlive a restart, sealed to TPMs. `object` is HOST-ID or CLUSTER-ID; what a host says counts before what its
-- cluster says.
CREATE TABLE key_persistence (
    object TEXT PRIMARY KEY,
    enabled BIGINT NOT NULL
);
