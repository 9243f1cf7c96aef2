-- The database as a whole: the write probe, and totals for the metrics.

-- name: insert_probe_row
-- Together with delete_probe_row, a write that changes nothing but needs disk space. An UPDATE to the same value would need none,
-- because SQLite does not write a page that stays the same.
INSERT INTO revoked_tokens (token_id, revoked_at_us)
VALUES (:token_id, 0);

-- name: delete_probe_row
DELETE FROM revoked_tokens
 WHERE token_id = :token_id;

-- name: total_balances
-- Sums of the high and the low 32 bits: available, then reserved. The sum of all balances may exceed 64 bits.
SELECT coalesce(sum(available_micro >> 32), 0),
       coalesce(sum(available_micro & 4294967295), 0),
       coalesce(sum(reserved_micro >> 32), 0),
       coalesce(sum(reserved_micro & 4294967295), 0)
  FROM credit_balances;

-- name: total_debts
-- Sums of the high and the low 32 bits, as above.
SELECT coalesce(sum((original_micro - paid_micro) >> 32), 0),
       coalesce(sum((original_micro - paid_micro) & 4294967295), 0)
  FROM credit_debts
 WHERE paid_micro < original_micro;

-- name: webhook_lag
-- The number of events after the position of the slowest webhook, of all types, and the number of failing webhooks. Ids that an
-- epoch skipped are not counted.
SELECT coalesce(max(n.after_entry_id - w.entry_id
                    - coalesce((SELECT sum(s.entries) FROM ids_skipped s WHERE s.base_id > w.entry_id), 0)
                    + max(n.event_id - w.event_id, 0)
                    - coalesce((SELECT sum(s.events) FROM ids_skipped s WHERE s.base_id > w.event_id), 0)), 0),
       count(w.failing_since_us)
  FROM (SELECT entry_id,
               iif(event_id > 0, event_id, coalesce((SELECT e.id
                                                       FROM events e
                                                      WHERE e.after_entry_id < h.entry_id
                                                      ORDER BY e.after_entry_id DESC, e.id DESC
                                                      LIMIT 1), 0)) AS event_id,
               failing_since_us
          FROM webhooks h
         WHERE is_enabled) w
  JOIN (SELECT after_entry_id,
               max(coalesce((SELECT max(id) FROM events), 0), coalesce((SELECT max(base_id) FROM book_epochs), 0)) AS event_id
          FROM feed_end) n;

-- name: row_counts
-- Rows of these tables are never deleted, and their ids have no gaps except those that an epoch skipped.
SELECT max(coalesce((SELECT max(id) FROM credit_accounts), 0), base_id) - accounts,
       max(coalesce((SELECT max(id) FROM credit_lots), 0), base_id) - lots,
       max(coalesce((SELECT max(id) FROM credit_ledger), 0), base_id) - entries,
       max(coalesce((SELECT max(id) FROM credit_reservations), 0), base_id) - reservations,
       max(coalesce((SELECT max(id) FROM credit_charges), 0), base_id) - charges,
       max(coalesce((SELECT max(id) FROM credit_campaigns), 0), base_id) - campaigns,
       max(coalesce((SELECT max(id) FROM credit_grants), 0), base_id) - grants,
       coalesce((SELECT max(seq) FROM admin_audit_log), 0)
  FROM (SELECT coalesce(max(base_id), 0) AS base_id,
               coalesce(sum(accounts), 0) AS accounts,
               coalesce(sum(lots), 0) AS lots,
               coalesce(sum(entries), 0) AS entries,
               coalesce(sum(reservations), 0) AS reservations,
               coalesce(sum(charges), 0) AS charges,
               coalesce(sum(campaigns), 0) AS campaigns,
               coalesce(sum(grants), 0) AS grants
          FROM ids_skipped);
