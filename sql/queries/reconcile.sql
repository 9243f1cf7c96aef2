-- The last reconciliation.

-- name: first_migration_at
-- When the book was made, by the machine's clock.
SELECT min(applied_at_us)
  FROM schema_migrations;

-- name: last_reconciliation
SELECT reconciled_at_us, report
  FROM reconciliations
 WHERE id = 1;

-- name: record_reconciliation
-- An earlier one does not replace a later one. Without an audit row of its own it keeps the one that was seen before.
INSERT INTO reconciliations (id, reconciled_at_us, report, audit_seq, audit_hash)
VALUES (1, :reconciled_at_us, :report, :audit_seq, :audit_hash)
ON CONFLICT (id) DO UPDATE
   SET reconciled_at_us = excluded.reconciled_at_us,
       report = excluded.report,
       audit_seq = coalesce(excluded.audit_seq, audit_seq),
       audit_hash = coalesce(excluded.audit_hash, audit_hash)
 WHERE excluded.reconciled_at_us >= reconciled_at_us;
