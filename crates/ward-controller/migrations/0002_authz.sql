-- Who may do what, the audit log, and requests that may be repeated.

ALTER TABLE account ADD COLUMN disabled BIGINT NOT NULL DEFAULT 0;

CREATE TABLE user_group (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created BIGINT NOT NULL
);

CREATE TABLE membership (
    group_id TEXT NOT NULL REFERENCES user_group (id) ON DELETE CASCADE,
    account_id TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    PRIMARY KEY (group_id, account_id)
);
CREATE INDEX membership_by_account ON membership (account_id);

-- The roles that users made; the built-in ones are in the program.
CREATE TABLE role (
    name TEXT PRIMARY KEY,
    privileges TEXT NOT NULL,
    created BIGINT NOT NULL
);

-- One role for each subject on each object. Either account_id or group_id is set. `object` is `root` or KIND/ID.
CREATE TABLE permission (
    id TEXT PRIMARY KEY,
    account_id TEXT REFERENCES account (id) ON DELETE CASCADE,
    group_id TEXT REFERENCES user_group (id) ON DELETE CASCADE,
    object TEXT NOT NULL,
    role TEXT NOT NULL,
    propagates BIGINT NOT NULL,
    created BIGINT NOT NULL,
    UNIQUE (account_id, object),
    UNIQUE (group_id, object)
);
CREATE INDEX permission_by_object ON permission (object);

-- Append-only. `entry` is the very text that was hashed, the hash of the entry before it within.
CREATE TABLE audit (
    id BIGINT PRIMARY KEY,
    entry TEXT NOT NULL,
    hash TEXT NOT NULL
);
INSERT INTO counter (name, value) VALUES ('audit', 0);

-- Which task a request began that carried an Idempotency-Key.
CREATE TABLE request_key (
    user_name TEXT NOT NULL,
    value TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    task_id TEXT NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    PRIMARY KEY (user_name, value)
);
