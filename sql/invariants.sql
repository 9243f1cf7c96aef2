-- What must hold of every book. Each query returns the rows that break it, and so none.

-- name: lots_say_what_their_entries_say
-- The parts of a lot, recomputed from its entries.
SELECT l.id
  FROM credit_lots l
  LEFT JOIN (
    SELECT lot_id,
           sum(available_delta_micro) AS available_micro,
           sum(reserved_delta_micro) AS reserved_micro,
           sum(iif(entry_type IN ('finalize', 'debt_paid'), -amount_micro, 0)) AS consumed_micro,
           sum(iif(entry_type = 'expire', -amount_micro, 0)) AS expired_micro,
           sum(iif(entry_type = 'revoke', -amount_micro, 0)) AS revoked_micro
      FROM credit_ledger
     WHERE lot_id IS NOT NULL
     GROUP BY lot_id) e ON e.lot_id = l.id
 WHERE (l.available_micro, l.reserved_micro, l.consumed_micro, l.expired_micro, l.revoked_micro)
    IS NOT (e.available_micro, e.reserved_micro, e.consumed_micro, e.expired_micro, e.revoked_micro);

-- name: entries_are_about_lots_of_their_account_and_pool
SELECT e.id
  FROM credit_ledger e
  JOIN credit_lots l ON l.id = e.lot_id
 WHERE l.account_id <> e.account_id
    OR l.pool_id <> e.pool_id;

-- name: entries_follow_the_one_before
SELECT id
  FROM (
    SELECT id, entry_seq, available_after_micro, reserved_after_micro, available_delta_micro, reserved_delta_micro, created_at_us,
           lag(entry_seq, 1, 0) OVER pool AS seq_before,
           lag(available_after_micro, 1, 0) OVER pool AS available_before_micro,
           lag(reserved_after_micro, 1, 0) OVER pool AS reserved_before_micro,
           lag(created_at_us, 1, 0) OVER pool AS time_before_us
      FROM credit_ledger
    WINDOW pool AS (PARTITION BY account_id, pool_id ORDER BY entry_seq))
 WHERE entry_seq <> seq_before + 1
    OR available_after_micro <> available_before_micro + available_delta_micro
    OR reserved_after_micro <> reserved_before_micro + reserved_delta_micro
    OR created_at_us < time_before_us;

-- name: balances_are_those_of_the_newest_entry
SELECT b.account_id, b.pool_id
  FROM credit_balances b
  LEFT JOIN credit_ledger e ON e.account_id = b.account_id AND e.pool_id = b.pool_id AND e.entry_seq = b.entry_seq
 WHERE (b.available_micro, b.reserved_micro) IS NOT (e.available_after_micro, e.reserved_after_micro)
    OR EXISTS (
        SELECT 1
          FROM credit_ledger later
         WHERE later.account_id = b.account_id
           AND later.pool_id = b.pool_id
           AND later.entry_seq > b.entry_seq);

-- name: balances_are_the_sums_of_the_lots
SELECT b.account_id, b.pool_id
  FROM credit_balances b
  LEFT JOIN (
    SELECT account_id, pool_id, sum(available_micro) AS available_micro, sum(reserved_micro) AS reserved_micro
      FROM credit_lots
     GROUP BY account_id, pool_id) l ON l.account_id = b.account_id AND l.pool_id = b.pool_id
 WHERE (b.available_micro, b.reserved_micro) IS NOT (l.available_micro, l.reserved_micro)
   AND (b.available_micro, b.reserved_micro, l.available_micro) IS NOT (0, 0, NULL);

-- name: every_pool_with_entries_has_a_balance
SELECT e.id
  FROM credit_ledger e
  LEFT JOIN credit_balances b ON b.account_id = e.account_id AND b.pool_id = e.pool_id
 WHERE e.entry_seq = 1
   AND b.account_id IS NULL;

-- name: campaigns_have_spent_what_their_grants_came_to
-- Less what was revoked, which their lots say.
SELECT c.id
  FROM credit_campaigns c
  LEFT JOIN (
    SELECT g.campaign_id,
           count(*) AS grant_count,
           sum(g.amount_micro - l.revoked_micro) AS spent_micro
      FROM credit_grants g
      JOIN credit_lots l ON l.id = g.lot_id
     GROUP BY g.campaign_id) g ON g.campaign_id = c.id
 WHERE c.spent_micro <> coalesce(g.spent_micro, 0)
    OR c.grant_count <> coalesce(g.grant_count, 0);

-- name: grants_have_their_lots
SELECT g.id
  FROM credit_grants g
  LEFT JOIN credit_lots l ON l.id = g.lot_id
  LEFT JOIN credit_campaigns c ON c.id = g.campaign_id
 WHERE l.id IS NULL
    OR c.id IS NULL
    OR l.account_id <> g.account_id
    OR l.original_micro <> g.amount_micro
    OR l.pool_id <> c.pool_id
    OR l.campaign_id IS NOT g.campaign_id
    OR l.source_type <> 'grant';

-- name: lots_of_campaigns_have_their_grants
SELECT l.id
  FROM credit_lots l
 WHERE l.campaign_id IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM credit_grants g WHERE g.lot_id = l.id);

-- name: grants_are_revoked_with_their_lots
-- What came back later is revoked of the lot alone: the grant says what was taken back at once.
SELECT g.id
  FROM credit_grants g
  JOIN credit_lots l ON l.id = g.lot_id
 WHERE g.revoked_at_us IS NOT l.revoked_at_us
    OR coalesce(g.revoked_micro, 0) > l.revoked_micro;

-- name: campaigns_counted_what_became_of_their_grants
SELECT t.campaign_id
  FROM credit_campaign_totals t
  LEFT JOIN (
    SELECT g.campaign_id,
           sum(g.amount_micro) AS granted_micro,
           sum(l.reserved_micro) AS reserved_micro,
           sum(l.expired_micro) AS expired_micro,
           sum(l.consumed_micro > 0) AS spending_accounts,
           sum(g.status = 'revoked') AS grants_revoked,
           coalesce(sum(g.revoked_micro), 0) AS revoked_micro,
           coalesce(sum(g.revoked_consumed_micro), 0) AS revoked_consumed_micro,
           coalesce(sum(g.revoked_reserved_micro), 0) AS revoked_reserved_micro
      FROM credit_grants g
      JOIN credit_lots l ON l.id = g.lot_id
     GROUP BY g.campaign_id) g ON g.campaign_id = t.campaign_id
 WHERE (t.granted_micro, t.reserved_micro, t.expired_micro, t.spending_accounts, t.grants_revoked, t.revoked_micro,
        t.revoked_consumed_micro, t.revoked_reserved_micro)
    IS NOT (coalesce(g.granted_micro, 0), coalesce(g.reserved_micro, 0), coalesce(g.expired_micro, 0),
            coalesce(g.spending_accounts, 0), coalesce(g.grants_revoked, 0), coalesce(g.revoked_micro, 0),
            coalesce(g.revoked_consumed_micro, 0), coalesce(g.revoked_reserved_micro, 0));

-- name: every_campaign_counts
SELECT c.id
  FROM credit_campaigns c
  LEFT JOIN credit_campaign_totals t ON t.campaign_id = c.id
 WHERE t.campaign_id IS NULL;

-- name: campaigns_counted_what_they_did_each_day
SELECT campaign_id, day
  FROM (
    SELECT campaign_id, day, grants, granted_micro, consumed_micro
      FROM credit_campaign_days
     UNION ALL
    SELECT campaign_id, created_at_us / 86400000000, -1, -amount_micro, 0
      FROM credit_grants
     UNION ALL
    SELECT l.campaign_id, e.created_at_us / 86400000000, 0, 0, e.amount_micro
      FROM credit_ledger e
      JOIN credit_lots l ON l.id = e.lot_id
     WHERE e.entry_type IN ('finalize', 'debt_paid')
       AND l.campaign_id IS NOT NULL)
 GROUP BY campaign_id, day
HAVING (sum(grants), sum(granted_micro), sum(consumed_micro)) IS NOT (0, 0, 0);

-- name: lots_hold_what_pending_reservations_hold
SELECT l.id
  FROM credit_lots l
  LEFT JOIN (
    SELECT h.lot_id, sum(h.reserved_micro) AS reserved_micro
      FROM reservation_lots h
      JOIN credit_reservations r ON r.id = h.reservation_id
     WHERE r.status = 'pending'
     GROUP BY h.lot_id) p ON p.lot_id = l.id
 WHERE l.reserved_micro <> coalesce(p.reserved_micro, 0);

-- name: reservations_hold_what_their_lots_say
SELECT r.id
  FROM credit_reservations r
  LEFT JOIN (
    SELECT reservation_id, sum(reserved_micro) AS held_micro
      FROM reservation_lots
     GROUP BY reservation_id) h ON h.reservation_id = r.id
 WHERE coalesce(h.held_micro, 0) <> iif(r.billing_mode = 'shadow', 0, r.held_micro);

-- name: debts_are_what_the_entries_say
-- What was incurred in all may be more than 63 bits hold, so it is summed up in halves; what is open is not.
SELECT a.id
  FROM credit_accounts a
  LEFT JOIN (
    SELECT account_id,
           sum(original_micro >> 32) AS incurred_high,
           sum(original_micro & 4294967295) AS incurred_low,
           sum(original_micro - paid_micro) AS open_micro
      FROM credit_debts
     GROUP BY account_id) d ON d.account_id = a.id
  LEFT JOIN (
    SELECT account_id,
           sum(iif(entry_type = 'debt_incurred', -amount_micro >> 32, 0)) AS incurred_high,
           sum(iif(entry_type = 'debt_incurred', -amount_micro & 4294967295, 0)) AS incurred_low,
           sum(iif(entry_type = 'debt_incurred', -amount_micro, amount_micro)) AS open_micro
      FROM credit_ledger
     WHERE entry_type IN ('debt_incurred', 'debt_paid')
     GROUP BY account_id) e ON e.account_id = a.id
 WHERE (d.incurred_high, d.incurred_low, d.open_micro) IS NOT (e.incurred_high, e.incurred_low, e.open_micro);
