-- The first successful response to a request with an idempotency key. It is committed together with the effect of the
-- request.
CREATE TABLE idempotency_keys (
    id            INTEGER PRIMARY KEY,
    -- 'admin:SUB' or 'service:SUB', by the token.
    caller        TEXT NOT NULL,
    key           TEXT NOT NULL
        CONSTRAINT idempotency_key_has_1_to_255_characters CHECK (length(key) BETWEEN 1 AND 255),
    -- SHA-256 of method, path and body.
    fingerprint   BLOB NOT NULL CONSTRAINT idempotency_fingerprint_has_32_bytes CHECK (length(fingerprint) = 32),
    status        INTEGER NOT NULL CONSTRAINT idempotency_status_is_success CHECK (status BETWEEN 200 AND 299),
    body          BLOB NOT NULL,
    -- In service uptime, which counts only while the service runs. Setting the machine's clock does not move it.
    created_at_us INTEGER NOT NULL,
    -- Over all columns but the id; src/minibill/api/idempotency.py computes it.
    checksum      INTEGER NOT NULL
        CONSTRAINT idempotency_checksum_has_63_bits CHECK (checksum >= 0)
) STRICT;

CREATE UNIQUE INDEX idempotency_one_per_caller_and_key ON idempotency_keys (caller, key);

CREATE TRIGGER idempotency_responses_are_never_changed BEFORE UPDATE ON idempotency_keys
BEGIN SELECT RAISE(ABORT, 'idempotency_responses_are_never_changed'); END;
