-- The last reconciliation.

-- name: first_migration_at
-- The creation time of the database, by the wall clock.
SELECT min(applied_at_us)
  FROM schema_migrations;

-- name: last_reconciliation
SELECT reconciled_at_us, report
  FROM reconciliations
 WHERE id = 1;

-- name: record_reconciliation
-- An earlier run never replaces a later one. If the audit log failed its check, the audit row of the previous run stays.
INSERT INTO reconciliations (id, reconciled_at_us, report, audit_seq, audit_hash)
VALUES (1, :reconciled_at_us, :report, :audit_seq, :audit_hash)
ON CONFLICT (id) DO UPDATE
   SET reconciled_at_us = excluded.reconciled_at_us,
       report = excluded.report,
       audit_seq = coalesce(excluded.audit_seq, audit_seq),
       audit_hash = coalesce(excluded.audit_hash, audit_hash)
 WHERE excluded.reconciled_at_us >= reconciled_at_us;
