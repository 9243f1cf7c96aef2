-- Comparison of a backup with the current database.

-- name: entry_until
-- The last entry with an id of at most :id.
SELECT id, account_id, pool_id, entry_type, amount_micro, available_after_micro, reserved_after_micro, created_at_us
  FROM credit_ledger
 WHERE id <= :id
 ORDER BY id DESC
 LIMIT 1;

-- name: first_entry
SELECT id, account_id, pool_id, entry_type, amount_micro, available_after_micro, reserved_after_micro, created_at_us
  FROM credit_ledger
 ORDER BY id
 LIMIT 1;

-- name: newest_entry
SELECT coalesce(max(id), 0)
  FROM credit_ledger;

-- name: count_entries_after
SELECT count(*)
  FROM credit_ledger
 WHERE id > :id;

-- name: newest_audit_row
SELECT coalesce(max(seq), 0)
  FROM admin_audit_log;

-- name: audit_row_at
SELECT hash
  FROM admin_audit_log
 WHERE seq = :seq;
