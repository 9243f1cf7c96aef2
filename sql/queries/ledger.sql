-- Lots, balances and entries.

-- name: newest_time
-- Returns the latest time in the book; its clock never starts before it. A book without writes may have a reconciliation.
SELECT max(
    coalesce((SELECT created_at_us FROM credit_ledger ORDER BY id DESC LIMIT 1), 0),
    coalesce((SELECT created_at_us FROM credit_accounts ORDER BY id DESC LIMIT 1), 0),
    coalesce((SELECT created_at_us FROM credit_reservations ORDER BY id DESC LIMIT 1), 0),
    coalesce((SELECT created_at_us FROM credit_charges ORDER BY id DESC LIMIT 1), 0),
    coalesce((SELECT created_at_us FROM events ORDER BY id DESC LIMIT 1), 0),
    coalesce((SELECT created_at_us FROM admin_audit_log ORDER BY seq DESC LIMIT 1), 0),
    coalesce((SELECT reconciled_at_us FROM reconciliations WHERE id = 1), 0));

-- name: insert_lots
INSERT INTO credit_lots (
    id, account_id, pool_id, source_type, source_id, campaign_id, priority, original_micro, available_micro, reserved_micro,
    consumed_micro, expired_micro, revoked_micro, expires_at_us, revoked_at_us, metadata, created_at_us)
VALUES (
    :lot_id, :account_id, :pool_id, :source_type, :source_id, :campaign_id, :priority, :amount_micro, :amount_micro, 0,
    0, 0, 0, :expires_at_us, NULL, :metadata, :now_us);

-- name: find_lot_of_source
SELECT id, account_id, pool_id, priority, original_micro, expires_at_us
  FROM credit_lots
 WHERE source_type = :source_type
   AND source_id = :source_id;

-- name: move_lot
-- Moves credits between the parts of a lot. If the changes do not add up to 0, lots_parts_sum_to_original fails.
UPDATE credit_lots
   SET available_micro = available_micro + :available_delta_micro,
       reserved_micro = reserved_micro + :reserved_delta_micro,
       consumed_micro = consumed_micro + :consumed_delta_micro,
       expired_micro = expired_micro + :expired_delta_micro
 WHERE id = :lot_id;

-- name: return_to_revoked_lot
UPDATE credit_lots
   SET reserved_micro = reserved_micro - :returned_micro,
       revoked_micro = revoked_micro + :returned_micro
 WHERE id = :lot_id;

-- name: revoke_lots
-- :lot_ids is a JSON array of keys. Expired lots must have been expired before: they have no credits to revoke.
UPDATE credit_lots
   SET revoked_micro = revoked_micro + available_micro,
       available_micro = 0,
       revoked_at_us = :now_us
 WHERE id IN (SELECT value FROM json_each(:lot_ids));

-- name: lots_to_revoke
-- :lot_ids is a JSON array of keys.
SELECT l.id, l.account_id, l.pool_id, l.available_micro, l.consumed_micro, l.reserved_micro
  FROM json_each(:lot_ids) j
  CROSS JOIN credit_lots l ON l.id = j.value;

-- name: lots_in_drawdown_order
SELECT id, available_micro, expires_at_us
  FROM credit_lots
 WHERE account_id = :account_id
   AND pool_id = :pool_id
   AND available_micro > 0
 ORDER BY priority, coalesce(expires_at_us, 9223372036854775807), id;

-- name: expired_lots_of_account
-- Returns the lots of one account whose expiry is due, the oldest first.
SELECT expires_at_us, id
  FROM credit_lots
 WHERE account_id = :account_id
   AND available_micro > 0
   AND expires_at_us IS NOT NULL
   AND expires_at_us <= :now_us
 ORDER BY expires_at_us, id
 LIMIT :count + 0;

-- name: expired_lots
-- Returns the lots of all accounts whose expiry is due, the oldest first.
SELECT expires_at_us, id
  FROM credit_lots
 WHERE available_micro > 0
   AND expires_at_us IS NOT NULL
   AND expires_at_us <= :now_us
 ORDER BY expires_at_us, id
 LIMIT :count + 0;

-- name: lots_by_id
-- :lot_ids is a JSON array of keys.
SELECT l.id, l.account_id, l.pool_id, l.available_micro, l.expires_at_us, l.revoked_at_us
  FROM json_each(:lot_ids) j
  CROSS JOIN credit_lots l ON l.id = j.value;

-- name: lots_to_explain
-- In the order of :lot_ids, a JSON array of keys.
SELECT l.id, l.pool_id, l.priority, l.original_micro, l.available_micro, l.consumed_micro, l.revoked_micro, l.revoked_at_us,
       l.expires_at_us
  FROM json_each(:lot_ids) j
  CROSS JOIN credit_lots l ON l.id = j.value
 ORDER BY j.key;

-- name: newest_lots_to_explain
SELECT id, pool_id, priority, original_micro, available_micro, consumed_micro, revoked_micro, revoked_at_us, expires_at_us
  FROM credit_lots
 WHERE account_id = :account_id
 ORDER BY id DESC
 LIMIT :count + 0;

-- name: count_lots_of_account
SELECT count(*)
  FROM credit_lots
 WHERE account_id = :account_id;

-- name: balances_of_spend
-- Returns the balances of the two pools that a spend draws on.
SELECT pool_id, available_micro, reserved_micro, entry_seq
  FROM credit_balances
 WHERE account_id = :account_id
   AND pool_id IN (:pool_id, 'general');

-- name: balances_of_pools
-- :pools is a JSON array of [account key, pool].
SELECT b.account_id, b.pool_id, b.available_micro, b.reserved_micro, b.entry_seq
  FROM json_each(:pools) j
  CROSS JOIN credit_balances b ON b.account_id = j.value ->> 0 AND b.pool_id = j.value ->> 1;

-- name: holdings_of_accounts
-- Returns the number of pools of each account, their sum, and the balance of one pool (NULL if the account does not have it).
-- :account_ids is a JSON array of keys. An account without pools has no row.
SELECT b.account_id, count(*), sum(b.available_micro + b.reserved_micro),
       max(iif(b.pool_id = :pool_id, b.available_micro, NULL)),
       max(iif(b.pool_id = :pool_id, b.reserved_micro, NULL)),
       max(iif(b.pool_id = :pool_id, b.entry_seq, NULL))
  FROM json_each(:account_ids) j
  CROSS JOIN credit_balances b ON b.account_id = j.value
 GROUP BY b.account_id;

-- name: insert_entries
INSERT INTO credit_ledger (
    account_id, pool_id, entry_seq, entry_type, lot_id, reservation_id, charge_id, amount_micro, available_delta_micro,
    reserved_delta_micro, available_after_micro, reserved_after_micro, created_at_us, description, metadata)
VALUES (
    :account_id, :pool_id, :entry_seq, :entry_type, :lot_id, :reservation_id, :charge_id, :amount_micro, :available_delta_micro,
    :reserved_delta_micro, :available_after_micro, :reserved_after_micro, :now_us, :description, :metadata);

-- name: insert_first_entries
-- Like insert_entries, for the first entries of an epoch, whose ids start above its base. SQLite assigns all later ids.
INSERT INTO credit_ledger (
    id, account_id, pool_id, entry_seq, entry_type, lot_id, reservation_id, charge_id, amount_micro, available_delta_micro,
    reserved_delta_micro, available_after_micro, reserved_after_micro, created_at_us, description, metadata)
VALUES (
    :entry_id, :account_id, :pool_id, :entry_seq, :entry_type, :lot_id, :reservation_id, :charge_id, :amount_micro,
    :available_delta_micro, :reserved_delta_micro, :available_after_micro, :reserved_after_micro, :now_us, :description, :metadata);

-- name: balance_without_expiry_due
-- Returns the rows of balance_now at half its cost, if no expiry is due on the account. Otherwise the first row is missing.
SELECT NULL AS pool_id,
       coalesce((SELECT sum(original_micro - paid_micro)
                   FROM credit_debts
                  WHERE account_id = :account_id
                    AND paid_micro < original_micro), 0),
       (SELECT coalesce(max(id), 0) FROM credit_ledger)
  FROM credit_accounts
 WHERE id = :account_id
   AND NOT EXISTS (
       SELECT 1
         FROM credit_lots
        WHERE account_id = :account_id
          AND available_micro > 0
          AND expires_at_us IS NOT NULL
          AND expires_at_us <= :now_us)
   AND NOT EXISTS (
       SELECT 1
         FROM credit_reservations
        WHERE account_id = :account_id
          AND status = 'pending'
          AND expires_at_us <= :now_us)
 UNION ALL
SELECT pool_id, available_micro, reserved_micro
  FROM credit_balances
 WHERE account_id = :account_id
 ORDER BY pool_id;

-- name: balance_now
-- Returns first a row without a pool, with the account's debt and the newest entry of the ledger; then a row per pool.
-- Returns no row if the account does not exist.
-- Expiry counts before it is written: expired lots have no available credits, overdue reservations no reserved ones.
WITH overdue AS MATERIALIZED (
    SELECT l.pool_id,
           sum(h.reserved_micro) AS held_micro,
           sum(iif(l.expires_at_us <= :now_us OR l.revoked_at_us IS NOT NULL, 0, h.reserved_micro)) AS returned_micro
      FROM credit_reservations r
      JOIN reservation_lots h ON h.reservation_id = r.id
      JOIN credit_lots l ON l.id = h.lot_id
     WHERE r.account_id = :account_id
       AND r.status = 'pending'
       AND r.expires_at_us <= :now_us
     GROUP BY l.pool_id),
expired AS MATERIALIZED (
    SELECT pool_id, sum(available_micro) AS expired_micro
      FROM credit_lots
     WHERE account_id = :account_id
       AND available_micro > 0
       AND expires_at_us IS NOT NULL
       AND expires_at_us <= :now_us
     GROUP BY pool_id)
SELECT NULL AS pool_id,
       coalesce((SELECT sum(original_micro - paid_micro)
                   FROM credit_debts
                  WHERE account_id = :account_id
                    AND paid_micro < original_micro), 0),
       (SELECT coalesce(max(id), 0) FROM credit_ledger)
  FROM credit_accounts
 WHERE id = :account_id
 UNION ALL
SELECT b.pool_id,
       b.available_micro
           - coalesce((SELECT expired_micro FROM expired WHERE pool_id = b.pool_id), 0)
           + coalesce((SELECT returned_micro FROM overdue WHERE pool_id = b.pool_id), 0),
       b.reserved_micro - coalesce((SELECT held_micro FROM overdue WHERE pool_id = b.pool_id), 0)
  FROM credit_balances b
 WHERE b.account_id = :account_id
 ORDER BY pool_id;

-- name: balance_at
-- Returns the rows of balance_now for a past time, without the newest entry of the ledger.
-- The balances after the newest entry up to that time are corrected for expiry that was due then and written later.
-- :pools is a JSON array of [pool, number of its newest entry up to that time], from entries_before.
-- So no entry is read to find the time, and each later entry once.
WITH overdue AS MATERIALIZED (
    SELECT id
      FROM credit_reservations
     WHERE account_id = :account_id
       AND status = 'pending'
       AND expires_at_us <= :at_us
     UNION ALL
    SELECT id
      FROM credit_reservations
     WHERE account_id = :account_id
       AND status = 'expired'
       AND closed_at_us > :at_us
       AND expires_at_us <= :at_us),
held AS MATERIALIZED (
    SELECT l.pool_id,
           sum(h.reserved_micro) AS held_micro,
           sum(iif(l.expires_at_us <= :at_us OR l.revoked_at_us <= :at_us, 0, h.reserved_micro)) AS returned_micro
      FROM overdue o
      JOIN reservation_lots h ON h.reservation_id = o.id
      JOIN credit_lots l ON l.id = h.lot_id
     GROUP BY l.pool_id),
expired AS MATERIALIZED (
    -- The credits of a lot at that time: its credits now, less the changes by later entries.
    SELECT pool_id, sum(available_micro) AS expired_micro
      FROM (
        SELECT pool_id, available_micro
          FROM credit_lots
         WHERE account_id = :account_id
           AND available_micro > 0
           AND expires_at_us IS NOT NULL
           AND expires_at_us <= :at_us
         UNION ALL
        SELECT e.pool_id, -e.available_delta_micro
          FROM json_each(:pools) p
          CROSS JOIN credit_ledger e
            ON e.account_id = :account_id
           AND e.pool_id = p.value ->> 0
           AND e.entry_seq > p.value ->> 1
          JOIN credit_lots l ON l.id = e.lot_id
         WHERE l.expires_at_us <= :at_us)
     GROUP BY pool_id)
SELECT NULL AS pool_id,
       coalesce((SELECT sum(CASE entry_type WHEN 'debt_incurred' THEN -amount_micro ELSE amount_micro END)
                   FROM credit_ledger
                  WHERE account_id = :account_id
                    AND created_at_us <= :at_us
                    AND entry_type IN ('debt_incurred', 'debt_paid')), 0),
       0
  FROM credit_accounts
 WHERE id = :account_id
 UNION ALL
SELECT e.pool_id,
       e.available_after_micro
           - coalesce((SELECT expired_micro FROM expired WHERE pool_id = e.pool_id), 0)
           + coalesce((SELECT returned_micro FROM held WHERE pool_id = e.pool_id), 0),
       e.reserved_after_micro - coalesce((SELECT held_micro FROM held WHERE pool_id = e.pool_id), 0)
  FROM json_each(:pools) p
  CROSS JOIN credit_ledger e
    ON e.account_id = :account_id
   AND e.pool_id = p.value ->> 0
   AND e.entry_seq = p.value ->> 1
 ORDER BY pool_id;

-- name: lots_page
-- Oldest first. Lots are shown as if due expiry had been written. The state has no index: a page reads the account's lots.
WITH overdue AS MATERIALIZED (
    SELECT h.lot_id, sum(h.reserved_micro) AS held_micro
      FROM credit_reservations r
      JOIN reservation_lots h ON h.reservation_id = r.id
     WHERE r.account_id = :account_id
       AND r.status = 'pending'
       AND r.expires_at_us <= :now_us
     GROUP BY h.lot_id),
current AS (
    SELECT l.id, l.account_id, l.pool_id, l.source_type, l.source_id, l.priority, l.original_micro,
           iif(l.expires_at_us <= :now_us OR l.revoked_at_us IS NOT NULL, 0, l.available_micro + coalesce(o.held_micro, 0))
               AS available_micro,
           l.reserved_micro - coalesce(o.held_micro, 0) AS reserved_micro,
           l.consumed_micro,
           l.expired_micro
               + iif(l.expires_at_us <= :now_us AND l.revoked_at_us IS NULL, l.available_micro + coalesce(o.held_micro, 0), 0)
               AS expired_micro,
           l.revoked_micro + iif(l.revoked_at_us IS NOT NULL, coalesce(o.held_micro, 0), 0) AS revoked_micro,
           CASE
               WHEN l.revoked_micro > 0 OR (l.revoked_at_us IS NOT NULL AND o.held_micro > 0) THEN 'revoked'
               WHEN l.consumed_micro = l.original_micro THEN 'spent'
               WHEN l.expires_at_us <= :now_us THEN 'expired'
               ELSE 'live'
           END AS state,
           l.expires_at_us, l.metadata, l.campaign_id, l.created_at_us
      FROM credit_lots l
      LEFT JOIN overdue o ON o.lot_id = l.id
     WHERE l.account_id = :account_id
       AND l.id > :after_id)
SELECT id, account_id, pool_id, source_type, source_id, priority, original_micro, available_micro, reserved_micro, consumed_micro,
       expired_micro, revoked_micro, state, expires_at_us, metadata, campaign_id,
       CASE WHEN campaign_id IS NOT NULL THEN (SELECT g.id FROM credit_grants g WHERE g.lot_id = current.id) END AS grant_id,
       created_at_us
  FROM current
 WHERE :state IS NULL OR state = :state
 ORDER BY id
 LIMIT :count + 0;

-- name: newest_entries
-- Returns the number of the newest entry of each pool of an account, or of one pool.
SELECT pool_id, entry_seq
  FROM credit_balances
 WHERE account_id = :account_id
   AND (:pool_id IS NULL OR pool_id = :pool_id);

-- name: entries_before
-- Returns the number of entries before (:before_us, :before_id) for each pool of an account, or for one pool.
-- A binary search, explained in ledger/time_lookup.py: the result is between low and high, and each step reads the entry in
-- the middle. If :before_id is an entry of the pool, its number gives the result without a search.
WITH RECURSIVE search (pool_id, low_seq, high_seq) AS (
    SELECT b.pool_id, coalesce(e.entry_seq - 1, 0), coalesce(e.entry_seq - 1, b.entry_seq)
      FROM credit_balances b
      LEFT JOIN credit_ledger e
        ON e.id = :before_id
       AND e.created_at_us = :before_us
       AND e.account_id = b.account_id
       AND e.pool_id = b.pool_id
     WHERE b.account_id = :account_id
       AND (:pool_id IS NULL OR b.pool_id = :pool_id)
     UNION ALL
    SELECT b.pool_id,
           iif((e.created_at_us, e.id) < (:before_us, :before_id), e.entry_seq, b.low_seq),
           iif((e.created_at_us, e.id) < (:before_us, :before_id), b.high_seq, e.entry_seq - 1)
      FROM search b
      CROSS JOIN credit_ledger e
        ON e.account_id = :account_id
       AND e.pool_id = b.pool_id
       AND e.entry_seq = (b.low_seq + b.high_seq + 1) / 2
     WHERE b.low_seq < b.high_seq)
SELECT pool_id, low_seq
  FROM search
 WHERE low_seq = high_seq;

-- name: entries_of_pool
-- One JSON array of rows, newest first, with the grant of the lot and the status of the reservation. One text takes half the
-- time of fifty rows: docs/internals/decisions/0044-history-as-one-text.md.
SELECT '[' || coalesce(group_concat(entry, ',' ORDER BY entry_seq DESC), '') || ']'
  FROM (
    SELECT e.entry_seq,
           json_array(e.id, e.entry_seq, e.entry_type, e.pool_id, e.lot_id, e.reservation_id, e.charge_id, g.campaign_id,
                     g.id, r.status, CAST(e.amount_micro AS TEXT), CAST(e.available_delta_micro AS TEXT),
                     CAST(e.reserved_delta_micro AS TEXT), CAST(e.available_after_micro AS TEXT),
                     CAST(e.reserved_after_micro AS TEXT), e.description, e.metadata, e.created_at_us) AS entry
      FROM credit_ledger e
      LEFT JOIN credit_grants g ON g.lot_id = e.lot_id
      LEFT JOIN credit_reservations r ON r.id = e.reservation_id
     WHERE e.account_id = :account_id
       AND e.pool_id = :pool_id
       AND e.entry_seq BETWEEN :oldest_seq AND :newest_seq
       AND (:entry_type IS NULL OR e.entry_type = :entry_type)
     ORDER BY e.entry_seq DESC
     LIMIT :count + 0);

-- name: entries_of_pools
-- The same for several pools, merged. :pools is a JSON array of [pool, number of its oldest entry, number of its newest].
-- The queue holds one entry per pool. Each step takes the newest and queues the entry before it in the same pool.
WITH RECURSIVE merged (id, entry_type, pool_id, entry_seq, oldest_seq) AS (
    SELECT e.id, e.entry_type, e.pool_id, e.entry_seq, p.value ->> 1
      FROM json_each(:pools) p
      CROSS JOIN credit_ledger e
        ON e.account_id = :account_id
       AND e.pool_id = p.value ->> 0
       AND e.entry_seq = p.value ->> 2
     UNION ALL
    SELECT e.id, e.entry_type, e.pool_id, e.entry_seq, m.oldest_seq
      FROM merged m
      CROSS JOIN credit_ledger e
        ON e.account_id = :account_id
       AND e.pool_id = m.pool_id
       AND e.entry_seq = m.entry_seq - 1
     WHERE m.entry_seq > m.oldest_seq
     ORDER BY 1 DESC)
SELECT '[' || coalesce(group_concat(entry, ',' ORDER BY id DESC), '') || ']'
  FROM (
    SELECT e.id,
           json_array(e.id, e.entry_seq, e.entry_type, e.pool_id, e.lot_id, e.reservation_id, e.charge_id, g.campaign_id,
                     g.id, r.status, CAST(e.amount_micro AS TEXT), CAST(e.available_delta_micro AS TEXT),
                     CAST(e.reserved_delta_micro AS TEXT), CAST(e.available_after_micro AS TEXT),
                     CAST(e.reserved_after_micro AS TEXT), e.description, e.metadata, e.created_at_us) AS entry
      FROM merged m
      CROSS JOIN credit_ledger e ON e.id = m.id
      LEFT JOIN credit_grants g ON g.lot_id = e.lot_id
      LEFT JOIN credit_reservations r ON r.id = e.reservation_id
     WHERE :entry_type IS NULL OR m.entry_type = :entry_type
     LIMIT :count + 0);
