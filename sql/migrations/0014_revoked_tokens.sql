-- Rejected token ids, kept until the token would have expired anyway. Times are in service uptime
-- (0012_idempotency_keys.sql).
CREATE TABLE revoked_tokens (
    token_id      TEXT NOT NULL PRIMARY KEY
        CONSTRAINT revoked_tokens_id_has_1_to_255_characters CHECK (length(token_id) BETWEEN 1 AND 255),
    revoked_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- For SQLite's integrity check.
CREATE INDEX revoked_tokens_integrity_copy ON revoked_tokens (revoked_at_us);

-- Subjects whose tokens are rejected if they were issued before a time. Kept until the last such token would have expired
-- anyway.
CREATE TABLE revoked_subjects (
    sub              TEXT NOT NULL PRIMARY KEY
        CONSTRAINT revoked_subjects_sub_has_1_to_128_characters CHECK (length(sub) BETWEEN 1 AND 128),
    -- Wall-clock time, like the times in tokens.
    issued_before_us INTEGER NOT NULL,
    revoked_at_us    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- For SQLite's integrity check.
CREATE INDEX revoked_subjects_integrity_copy ON revoked_subjects (revoked_at_us, issued_before_us);

CREATE TRIGGER revoked_subjects_times_never_decrease BEFORE UPDATE ON revoked_subjects
WHEN NEW.sub <> OLD.sub OR NEW.issued_before_us < OLD.issued_before_us OR NEW.revoked_at_us < OLD.revoked_at_us
BEGIN SELECT RAISE(ABORT, 'revoked_subjects_times_never_decrease'); END;
