-- Trusted key providers: the trust authority's signed description of its services, as the hosts get it.
CREATE TABLE trusted_provider (
    name TEXT PRIMARY KEY REFERENCES provider (name) ON DELETE CASCADE,
    -- Signed by the trust administrators; no secret.
    description TEXT NOT NULL,
    imported BIGINT NOT NULL
);

-- The trusted clusters, whose hosts are told of it; no row at all means every cluster.
CREATE TABLE trusted_cluster (
    provider TEXT NOT NULL REFERENCES trusted_provider (name) ON DELETE CASCADE,
    cluster_id TEXT NOT NULL REFERENCES cluster (id),
    PRIMARY KEY (provider, cluster_id)
);
