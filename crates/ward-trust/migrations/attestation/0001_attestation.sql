-- What the service knows about itself. `generation` counts changes of the configuration, so that a running service
-- notices those that the command line makes. `token_key` and `check` are sealed under the root key.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY NOT NULL,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The TPM makers' CAs, in the order in which they were imported: a root before what it issued.
CREATE TABLE tpm_ca (
    number INTEGER PRIMARY KEY,
    sha256 TEXT    NOT NULL UNIQUE,
    root   INTEGER NOT NULL,
    der    BLOB    NOT NULL
) STRICT;

-- Endorsement keys that were imported by themselves.
CREATE TABLE pinned_ek (
    name  TEXT PRIMARY KEY NOT NULL,
    label TEXT NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;

-- Policies and base images, as JSON.
CREATE TABLE policy (
    name  TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE base_image (
    name    TEXT NOT NULL,
    version TEXT NOT NULL,
    value   TEXT NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID;

-- Hosts whose attestation key proved to live in their TPM. `captured` is what a host last proved to have booted,
-- `report` the last verdict on it; both JSON.
CREATE TABLE host (
    ek             TEXT    PRIMARY KEY NOT NULL,
    label          TEXT    NOT NULL UNIQUE,
    ak             TEXT    NOT NULL UNIQUE,
    ek_public      BLOB    NOT NULL,
    ek_certificate BLOB,
    ak_record      TEXT    NOT NULL,
    admitted       INTEGER NOT NULL,
    enrolled_ms    INTEGER NOT NULL,
    attested_ms    INTEGER,
    report         TEXT,
    captured       TEXT
) STRICT, WITHOUT ROWID;

-- Endorsement keys of the hosts that an administrator let in, or removed: that counts more than how a host enrolled.
CREATE TABLE decision (
    ek       TEXT    PRIMARY KEY NOT NULL,
    admitted INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What hosts asked for, and how it ended. `proven`: whether who asked had proven to be that host. What is not proven is
-- kept for a while only.
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
