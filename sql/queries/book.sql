-- The book as a whole: whether it takes writes, and what it comes to for the metrics.

-- name: write_a_row
-- With take_the_row_back, a write that changes nothing and yet needs room on the disk as any other does. An UPDATE to the same
-- value would not: SQLite leaves a page alone that stays as it was.
INSERT INTO revoked_tokens (token_id, revoked_at_us)
VALUES (:token_id, 0);

-- name: take_the_row_back
DELETE FROM revoked_tokens
 WHERE token_id = :token_id;

-- name: balances_in_all
-- In two halves of 32 bits each, whose sums can't overflow: all of available, all of reserved.
SELECT coalesce(sum(available_micro >> 32), 0),
       coalesce(sum(available_micro & 4294967295), 0),
       coalesce(sum(reserved_micro >> 32), 0),
       coalesce(sum(reserved_micro & 4294967295), 0)
  FROM credit_balances;

-- name: debts_in_all
-- In two halves likewise.
SELECT coalesce(sum((original_micro - paid_micro) >> 32), 0),
       coalesce(sum((original_micro - paid_micro) & 4294967295), 0)
  FROM credit_debts
 WHERE paid_micro < original_micro;

-- name: webhooks_in_all
-- How many events the one that is furthest behind has yet to accept, those of types that it does not want included; and how
-- many fail.
SELECT coalesce(max((SELECT coalesce(max(id), 0) FROM credit_ledger) - entry_id
                    + (SELECT coalesce(max(id), 0) FROM events) - event_id), 0),
       count(failing_since_us)
  FROM webhooks
 WHERE is_enabled;

-- name: rows_in_all
-- Nothing in these tables is ever deleted, and ids run from 1 without gaps: the last one is how many there are.
SELECT coalesce((SELECT max(id) FROM credit_accounts), 0),
       coalesce((SELECT max(id) FROM credit_lots), 0),
       coalesce((SELECT max(id) FROM credit_ledger), 0),
       coalesce((SELECT max(id) FROM credit_reservations), 0),
       coalesce((SELECT max(id) FROM credit_campaigns), 0),
       coalesce((SELECT max(id) FROM credit_grants), 0),
       coalesce((SELECT max(seq) FROM admin_audit_log), 0);
