-- The event feed, and thresholds.

-- name: end_of_feed
-- The newest entry, or the base of an epoch without entries, and the newest event. Every committed event is before this position.
SELECT after_entry_id, coalesce((SELECT max(id) FROM events), 0)
  FROM feed_end;

-- name: position_exists
-- 1 if this feed contains the position: each part is the id of a row, the base of an epoch, or 0 for the beginning.
SELECT (:entry_id = 0
        OR EXISTS (SELECT 1 FROM credit_ledger WHERE id = :entry_id)
        OR EXISTS (SELECT 1 FROM book_epochs WHERE base_id = :entry_id))
       AND (:event_id = 0
            OR EXISTS (SELECT 1 FROM events WHERE id = :event_id AND after_entry_id <= :entry_id));

-- name: event_before_entry
-- The last event before an entry, if there is one.
SELECT id
  FROM events
 WHERE after_entry_id < :entry_id
 ORDER BY after_entry_id DESC, id DESC
 LIMIT 1;

-- name: first_entry_from
-- The first entry with this id or a later one. Ids jump to the base of each new epoch.
SELECT id
  FROM credit_ledger
 WHERE id >= :entry_id
 ORDER BY id
 LIMIT 1;

-- name: first_event_from
SELECT after_entry_id, id
  FROM events
 WHERE id >= :event_id
 ORDER BY id
 LIMIT 1;

-- name: entry_events
-- :types is a JSON array of entry types, NULL for all. The columns are those of entries_of_pool, then the account.
SELECT e.id, e.entry_seq, e.entry_type, e.pool_id, e.lot_id, e.reservation_id, e.charge_id, g.campaign_id, g.id,
       r.status, CAST(e.amount_micro AS TEXT), CAST(e.available_delta_micro AS TEXT), CAST(e.reserved_delta_micro AS TEXT),
       CAST(e.available_after_micro AS TEXT), CAST(e.reserved_after_micro AS TEXT), e.description, e.metadata, e.created_at_us,
       e.account_id
  FROM credit_ledger e
  LEFT JOIN credit_grants g ON g.lot_id = e.lot_id
  LEFT JOIN credit_reservations r ON r.id = e.reservation_id
 WHERE e.id > :after_id
   AND e.id <= :until_id
   AND (:types IS NULL OR e.entry_type IN (SELECT value FROM json_each(:types)))
 ORDER BY e.id
 LIMIT :count + 0;

-- name: other_events
-- :types is a JSON array of types, NULL for all.
SELECT id, after_entry_id, type, account_id, campaign_id, data, created_at_us
  FROM events
 WHERE id > :after_id
   AND id <= :until_id
   AND (:types IS NULL OR type IN (SELECT value FROM json_each(:types)))
 ORDER BY id
 LIMIT :count + 0;

-- name: thresholds_of_account
-- In the order of the request that set them, with the recorded available credits of the pool.
SELECT t.account_id, t.pool_id, t.below_micro, t.recovered_micro, t.is_below, coalesce(b.available_micro, 0)
  FROM thresholds t
  LEFT JOIN credit_balances b ON b.account_id = t.account_id AND b.pool_id = t.pool_id
 WHERE t.account_id = :account_id
 ORDER BY t.position;

-- name: delete_thresholds
DELETE FROM thresholds
 WHERE account_id = :account_id;

-- name: insert_thresholds
INSERT INTO thresholds (account_id, pool_id, below_micro, recovered_micro, position, is_below)
VALUES (:account_id, :pool_id, :below_micro, :recovered_micro, :position, :is_below);

-- name: available_by_pool
SELECT pool_id, available_micro
  FROM credit_balances
 WHERE account_id = :account_id;
