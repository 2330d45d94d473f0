-- The key servers of standard providers: replicas of one another, asked in this order.

CREATE TABLE key_server (
    provider TEXT NOT NULL REFERENCES provider (name) ON DELETE CASCADE,
    host TEXT NOT NULL,
    port BIGINT NOT NULL,
    place BIGINT NOT NULL,
    -- SHA-256 of the certificate that somebody has accepted for it; none: it is known by the provider's CA, if by anything.
    pinned TEXT,
    PRIMARY KEY (provider, host, port)
);
INSERT INTO key_server (provider, host, port, place)
    SELECT name, server_host, server_port, 0 FROM provider WHERE kind = 'standard';
ALTER TABLE provider DROP COLUMN server_host;
ALTER TABLE provider DROP COLUMN server_port;
-- How much of a request's time one server may take.
ALTER TABLE provider ADD COLUMN timeout_ms BIGINT NOT NULL DEFAULT 10000;

-- A new certificate of ours that has not worked at a provider's servers yet, or only the request for one.
CREATE TABLE provider_pending (
    provider TEXT PRIMARY KEY REFERENCES provider (name) ON DELETE CASCADE,
    -- The private key, sealed under the controller's root key as that of the provider itself.
    sealed_key TEXT NOT NULL,
    request TEXT,
    certificate TEXT,
    created BIGINT NOT NULL
);

-- Where keys for a cluster's VMs come from, if not from the default provider of all.
CREATE TABLE cluster_provider (
    cluster_id TEXT PRIMARY KEY REFERENCES cluster (id) ON DELETE CASCADE,
    provider TEXT NOT NULL REFERENCES provider (name) ON DELETE CASCADE
);

-- What events have told last of a provider, so that each change is told once: the state of the provider and of each of its
-- servers, and how long a certificate was still good.
CREATE TABLE provider_told (
    provider TEXT NOT NULL REFERENCES provider (name) ON DELETE CASCADE,
    subject TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (provider, subject)
);
