-- How far the ledger is: the number that tells of two answers which saw more.

-- name: ledger_sequence
SELECT coalesce(max(id), 0)
  FROM credit_ledger;
