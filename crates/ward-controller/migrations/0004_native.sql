-- Native key providers. Their rows in `provider` have no server.

CREATE TABLE native_provider (
    name TEXT PRIMARY KEY REFERENCES provider (name) ON DELETE CASCADE,
    -- The same in all versions of the key, and in every restored copy of the provider.
    key_id TEXT NOT NULL,
    tpm_required BIGINT NOT NULL,
    -- When the key as it is now was backed up; none since it was made or updated.
    backed_up BIGINT,
    -- When somebody was last told that it is not.
    reminded BIGINT
);

CREATE TABLE native_key (
    provider TEXT NOT NULL REFERENCES native_provider (name) ON DELETE CASCADE,
    version BIGINT NOT NULL,
    -- The key, sealed under the controller's root key.
    sealed_kdk TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (provider, version)
);

-- The clusters whose hosts have the key; no row at all means every cluster.
CREATE TABLE native_cluster (
    provider TEXT NOT NULL REFERENCES native_provider (name) ON DELETE CASCADE,
    cluster_id TEXT NOT NULL REFERENCES cluster (id),
    PRIMARY KEY (provider, cluster_id)
);

-- Providers that were deleted although VMs needed them: only a backup brings those VMs back.
CREATE TABLE native_removed (
    name TEXT PRIMARY KEY,
    key_id TEXT NOT NULL,
    removed BIGINT NOT NULL,
    reminded BIGINT NOT NULL
);
