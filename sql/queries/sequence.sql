-- The ledger sequence: a response with a higher number reflects more entries.

-- name: ledger_sequence
SELECT coalesce(max(id), 0)
  FROM credit_ledger;
