-- What the service knows about itself; see the attestation service's table of this name.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY NOT NULL,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The attestation services whose tokens are accepted.
CREATE TABLE issuer (
    key_id TEXT PRIMARY KEY NOT NULL,
    name   TEXT NOT NULL,
    public TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Key providers: JSON, and the credentials at the key server, sealed under the root key.
CREATE TABLE provider (
    name        TEXT PRIMARY KEY NOT NULL,
    value       TEXT NOT NULL,
    credentials BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Each use of a provider, and each refusal. A row is on disk before the key leaves. `proven`: whether who asked had proven
-- to be that host. What is not proven is kept for a while only.
CREATE TABLE audit (
    sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms       INTEGER NOT NULL,
    host        TEXT    NOT NULL,
    proven      INTEGER NOT NULL,
    certificate TEXT    NOT NULL,
    operation   TEXT    NOT NULL,
    object      TEXT    NOT NULL,
    result      TEXT    NOT NULL
) STRICT;
CREATE INDEX audit_unproven ON audit (sequence) WHERE NOT proven;
