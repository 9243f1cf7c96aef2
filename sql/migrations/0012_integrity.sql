-- This file holds what proves the other rows: the hash chain, the count of commits, and the last reconciliation.

-- The hash chain. About every second the service appends a link. A link hashes the append-only rows since the previous link,
-- and the hash of that link. src/minibill/integrity/hash_chain.py defines the hash.
CREATE TABLE book_chain (
    number       INTEGER PRIMARY KEY,
    -- The last row of each table that the link covers.
    accounts     INTEGER NOT NULL,
    lots         INTEGER NOT NULL,
    reservations INTEGER NOT NULL,
    charges      INTEGER NOT NULL,
    debts        INTEGER NOT NULL,
    entries      INTEGER NOT NULL,
    grants       INTEGER NOT NULL,
    audit_rows   INTEGER NOT NULL,
    events       INTEGER NOT NULL,
    silent_ends  INTEGER NOT NULL,
    keys         INTEGER NOT NULL,
    -- The hash of the idempotency keys, which are pruned. It is part of the hash below; it can be checked while its keys
    -- exist.
    keys_hash    BLOB NOT NULL CONSTRAINT links_keys_hash_has_32_bytes CHECK (length(keys_hash) = 32),
    epochs       INTEGER NOT NULL,
    hash         BLOB NOT NULL CONSTRAINT links_hash_has_32_bytes CHECK (length(hash) = 32)
) STRICT;

CREATE TRIGGER links_are_consecutive BEFORE INSERT ON book_chain
WHEN NEW.number <> coalesce((SELECT max(number) FROM book_chain), 0) + 1
BEGIN SELECT RAISE(ABORT, 'links_are_consecutive'); END;

CREATE TRIGGER links_are_never_changed BEFORE UPDATE ON book_chain
BEGIN SELECT RAISE(ABORT, 'links_are_never_changed'); END;

CREATE TRIGGER links_are_never_deleted BEFORE DELETE ON book_chain
BEGIN SELECT RAISE(ABORT, 'links_are_never_deleted'); END;

-- The number of commits. The anchor file beside the database has the same number: src/minibill/db/anchor.py.
CREATE TABLE book_head (
    id              INTEGER PRIMARY KEY CONSTRAINT head_is_one_row CHECK (id = 1),
    -- The commits of the service, and the same number negated. A flipped bit in either shows.
    commits         INTEGER NOT NULL,
    negated_commits INTEGER NOT NULL CONSTRAINT head_copies_match CHECK (negated_commits = -commits)
) STRICT;

INSERT INTO book_head (id, commits, negated_commits) VALUES (1, 0, 0);

CREATE TRIGGER head_commits_increase_by_one BEFORE UPDATE ON book_head
WHEN NEW.commits <> OLD.commits + 1
BEGIN SELECT RAISE(ABORT, 'head_commits_increase_by_one'); END;

CREATE TRIGGER head_is_never_deleted BEFORE DELETE ON book_head
BEGIN SELECT RAISE(ABORT, 'head_is_never_deleted'); END;

-- The last reconciliation: one row, or none before the first. src/minibill/integrity/checks.py defines the checks.
CREATE TABLE reconciliations (
    id               INTEGER PRIMARY KEY CONSTRAINT reconciliation_is_one_row CHECK (id = 1),
    -- The time of the checked snapshot.
    reconciled_at_us INTEGER NOT NULL,
    -- The body of the API's response.
    report           TEXT NOT NULL
        CONSTRAINT reconciliation_report_is_an_object CHECK (json_valid(report) AND json_type(report) = 'object'),
    -- The newest audit row when its hash chain last passed the check. NULL both: the log was empty. The next check finds out
    -- if somebody deletes this row or rebuilds the hashes.
    audit_seq        INTEGER,
    audit_hash       BLOB CONSTRAINT reconciliation_audit_hash_has_32_bytes CHECK (length(audit_hash) = 32),
    CONSTRAINT reconciliation_has_audit_seq_and_hash CHECK ((audit_seq IS NULL) = (audit_hash IS NULL))
) STRICT;

-- For SQLite's integrity check.
CREATE INDEX reconciliations_integrity_copy ON reconciliations (reconciled_at_us, report);

CREATE TRIGGER reconciliation_audit_seq_never_decreases BEFORE UPDATE ON reconciliations
WHEN OLD.audit_seq IS NOT NULL
 AND (NEW.audit_seq IS NULL OR NEW.audit_seq < OLD.audit_seq)
BEGIN SELECT RAISE(ABORT, 'reconciliation_audit_seq_never_decreases'); END;

CREATE TRIGGER reconciliation_is_never_deleted BEFORE DELETE ON reconciliations
BEGIN SELECT RAISE(ABORT, 'reconciliation_is_never_deleted'); END;
