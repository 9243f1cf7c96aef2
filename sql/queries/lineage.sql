-- Two states of a book beside each other.

-- name: entry_at
SELECT account_id, pool_id, entry_type, amount_micro, available_after_micro, reserved_after_micro, created_at_us
  FROM credit_ledger
 WHERE id = :id;

-- name: audit_row_at
SELECT hash
  FROM admin_audit_log
 WHERE seq = :seq;
