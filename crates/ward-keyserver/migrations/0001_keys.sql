-- What the server knows about itself. `master_check` is a constant sealed under the master key: it tells at once whether
-- the master key file belongs to this database.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY NOT NULL,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- One row for each key. `number` is the order of creation. Dates are seconds since 1970. `sealed` is the key's bytes,
-- sealed under the master key and bound to id, owner, algorithm and length; NULL once destroyed.
CREATE TABLE object (
    number                INTEGER PRIMARY KEY,
    id                    TEXT    NOT NULL UNIQUE,
    owner                 TEXT    NOT NULL,
    creator_fingerprint   BLOB    NOT NULL,
    algorithm             INTEGER NOT NULL,
    length                INTEGER NOT NULL,
    usage                 INTEGER NOT NULL,
    state                 INTEGER NOT NULL,
    initial_date          INTEGER NOT NULL,
    last_change_date      INTEGER NOT NULL,
    activation_date       INTEGER,
    process_start_date    INTEGER,
    protect_stop_date     INTEGER,
    deactivation_date     INTEGER,
    destroy_date          INTEGER,
    compromise_occurrence_date INTEGER,
    compromise_date       INTEGER,
    revocation_code       INTEGER,
    revocation_message    TEXT,
    digest                BLOB    NOT NULL,
    sealed                BLOB
) STRICT;
CREATE INDEX object_owner ON object (owner, number);

-- What clients said of their keys. `value` is the whole attribute as KMIP 1.4 writes it.
CREATE TABLE attribute (
    object  TEXT    NOT NULL REFERENCES object (id),
    name    TEXT    NOT NULL,
    idx     INTEGER NOT NULL,
    value   BLOB    NOT NULL,
    PRIMARY KEY (object, name, idx)
) STRICT, WITHOUT ROWID;

-- The names of keys, which are unique for each owner.
CREATE TABLE object_name (
    owner   TEXT NOT NULL,
    value   TEXT NOT NULL,
    object  TEXT NOT NULL REFERENCES object (id),
    PRIMARY KEY (owner, value)
) STRICT, WITHOUT ROWID;

-- Every operation that was asked for.
CREATE TABLE audit (
    sequence   INTEGER PRIMARY KEY,
    at_ms      INTEGER NOT NULL,
    peer       TEXT    NOT NULL,
    operation  TEXT    NOT NULL,
    object     TEXT,
    result     TEXT    NOT NULL
) STRICT;

CREATE TABLE operation_count (
    operation TEXT    PRIMARY KEY NOT NULL,
    count     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER audit_counted AFTER INSERT ON audit BEGIN
    INSERT INTO operation_count (operation, count) VALUES (NEW.operation, 1)
    ON CONFLICT (operation) DO UPDATE SET count = count + 1;
END;
