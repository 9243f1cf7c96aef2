-- The writes of admins. Each row carries the hash of the previous row; src/minibill/audit/log.py defines the hash.
CREATE TABLE admin_audit_log (
    seq            INTEGER PRIMARY KEY,
    -- The public id. It grows with seq, and jumps to the base of each new epoch.
    id             INTEGER NOT NULL,
    actor_id       TEXT NOT NULL CONSTRAINT audit_actor_has_1_to_128_characters CHECK (length(actor_id) BETWEEN 1 AND 128),
    action         TEXT NOT NULL,
    target_type    TEXT NOT NULL,
    target_id      TEXT NOT NULL,
    details        TEXT NOT NULL
        CONSTRAINT audit_details_are_an_object CHECK (json_valid(details) AND json_type(details) = 'object'),
    -- NULL each: the request had none.
    ip             TEXT,
    user_agent     TEXT,
    correlation_id TEXT,
    token_id       TEXT,
    created_at_us  INTEGER NOT NULL,
    previous_hash  BLOB NOT NULL,
    hash           BLOB NOT NULL CONSTRAINT audit_hash_has_32_bytes CHECK (length(hash) = 32)
) STRICT;

-- Each filter of the audit list together with the time, which orders the list.
CREATE INDEX audit_by_time ON admin_audit_log (created_at_us);
CREATE INDEX audit_by_actor ON admin_audit_log (actor_id, created_at_us);
CREATE INDEX audit_by_action ON admin_audit_log (action, created_at_us);
CREATE INDEX audit_by_target ON admin_audit_log (target_id, created_at_us);
CREATE INDEX audit_by_target_type ON admin_audit_log (target_type, created_at_us);
-- Writes whose details state the resulting row. src/minibill/integrity/audited_settings.py compares that row with its table.
-- The first condition saves a mint a tenth of its row: docs/internals/decisions/0020-compare-words-by-or.md.
CREATE INDEX audit_of_settings ON admin_audit_log (target_type, target_id, seq)
    WHERE action <> 'account.mint'
      AND action IN ('tiers.replace', 'membership.put', 'membership.delete', 'thresholds.replace', 'campaign.create',
                     'campaign.edit', 'campaign.activate', 'campaign.pause', 'campaign.complete', 'webhook.create',
                     'webhook.edit', 'webhook.rotate_secret', 'webhook.delete', 'token.revoke', 'debt.forgive');

CREATE TRIGGER audit_times_do_not_decrease BEFORE INSERT ON admin_audit_log
WHEN NEW.created_at_us < (SELECT created_at_us FROM admin_audit_log ORDER BY seq DESC LIMIT 1)
BEGIN SELECT RAISE(ABORT, 'audit_times_do_not_decrease'); END;

CREATE TRIGGER audit_rows_are_consecutive BEFORE INSERT ON admin_audit_log
WHEN NEW.seq <> coalesce((SELECT max(seq) FROM admin_audit_log), 0) + 1
  OR NEW.id <= max(coalesce((SELECT id FROM admin_audit_log ORDER BY seq DESC LIMIT 1), 0),
                   coalesce((SELECT max(base_id) FROM book_epochs), 0))
  OR NEW.previous_hash <> coalesce((SELECT hash FROM admin_audit_log ORDER BY seq DESC LIMIT 1), zeroblob(32))
BEGIN SELECT RAISE(ABORT, 'audit_rows_are_consecutive'); END;

CREATE TRIGGER audit_rows_are_never_changed BEFORE UPDATE ON admin_audit_log
BEGIN SELECT RAISE(ABORT, 'audit_rows_are_never_changed'); END;

CREATE TRIGGER audit_rows_are_never_deleted BEFORE DELETE ON admin_audit_log
BEGIN SELECT RAISE(ABORT, 'audit_rows_are_never_deleted'); END;
