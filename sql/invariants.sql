-- The rules that every database keeps. Each query returns the rows that break its rule, as a kind and a key, and returns
-- nothing for an undamaged database. src/minibill/integrity/checks.py says which check each rule belongs to.
--
-- Rules with :after_account and :until_account run over one range of accounts after the other, so that their sorts stay
-- small. Amounts of one lot, reservation, pool or campaign add up to 63 bits at most. SQLite raises an error for a larger
-- sum, which only damaged rows can have; checks.py reports that as a violation.

-- ------------------------------------------------------------------------------------------------- lot_balance_match --

-- name: lots_parts_sum_to_original
SELECT 'lot_' AS kind, id
  FROM credit_lots
 WHERE original_micro <> available_micro + reserved_micro + consumed_micro + expired_micro + revoked_micro
    OR min(original_micro - 1, available_micro, reserved_micro, consumed_micro, expired_micro, revoked_micro) < 0;

-- ----------------------------------------------------------------------------------------------- balance_cache_match --

-- name: balances_match_newest_entry
SELECT 'acct_' AS kind, b.account_id AS id
  FROM credit_balances b
  LEFT JOIN credit_ledger e ON e.account_id = b.account_id AND e.pool_id = b.pool_id AND e.entry_seq = b.entry_seq
 WHERE (b.available_micro, b.reserved_micro) IS NOT (e.available_after_micro, e.reserved_after_micro)
    OR EXISTS (
        SELECT 1
          FROM credit_ledger later
         WHERE later.account_id = b.account_id
           AND later.pool_id = b.pool_id
           AND later.entry_seq > b.entry_seq);

-- name: balances_match_lots
SELECT 'acct_' AS kind, b.account_id AS id
  FROM credit_balances b
  LEFT JOIN (
    SELECT account_id, pool_id,
           sum(available_micro) AS available_micro,
           sum(reserved_micro) AS reserved_micro
      FROM credit_lots
     WHERE account_id > :after_account
       AND account_id <= :until_account
     GROUP BY account_id, pool_id) l ON l.account_id = b.account_id AND l.pool_id = b.pool_id
 WHERE b.account_id > :after_account
   AND b.account_id <= :until_account
   AND (b.available_micro, b.reserved_micro) IS NOT (coalesce(l.available_micro, 0), coalesce(l.reserved_micro, 0));

-- name: pools_with_entries_have_balance
SELECT 'acct_' AS kind, e.account_id AS id
  FROM credit_ledger e
  LEFT JOIN credit_balances b ON b.account_id = e.account_id AND b.pool_id = e.pool_id
 WHERE e.entry_seq = 1
   AND b.account_id IS NULL;

-- name: thresholds_match_balance
SELECT 'acct_' AS kind, t.account_id AS id
  FROM thresholds t
  LEFT JOIN credit_balances b ON b.account_id = t.account_id AND b.pool_id = t.pool_id
 WHERE iif(t.is_below, coalesce(b.available_micro, 0) >= t.recovered_micro, coalesce(b.available_micro, 0) < t.below_micro);

-- ------------------------------------------------------------------------------------------------------- entry_chain --

-- name: events_are_in_entry_order
-- A violation names the entry before the event.
SELECT 'entry_' AS kind, after_entry_id AS id
  FROM (
    SELECT after_entry_id, lag(after_entry_id, 1, 0) OVER (ORDER BY id) AS before_entry_id
      FROM events)
 WHERE after_entry_id < before_entry_id
    OR after_entry_id > (SELECT after_entry_id FROM feed_end);

-- name: ids_belong_to_an_epoch
-- A lost copy of the database may have issued the ids that an epoch skipped. A violation names a debt by its reservation or
-- charge, and an event by the entry before it.
SELECT 'acct_' AS kind, r.id FROM book_epochs b JOIN credit_accounts r ON r.id > b.accounts AND r.id <= b.base_id
 UNION ALL
SELECT 'lot_', r.id FROM book_epochs b JOIN credit_lots r ON r.id > b.lots AND r.id <= b.base_id
 UNION ALL
SELECT 'res_', r.id FROM book_epochs b JOIN credit_reservations r ON r.id > b.reservations AND r.id <= b.base_id
 UNION ALL
SELECT 'charge_', r.id FROM book_epochs b JOIN credit_charges r ON r.id > b.charges AND r.id <= b.base_id
 UNION ALL
SELECT iif(r.charge_id IS NULL, 'res_', 'charge_'), coalesce(r.charge_id, r.reservation_id)
  FROM book_epochs b JOIN credit_debts r ON r.id > b.debts AND r.id <= b.base_id
 UNION ALL
SELECT 'entry_', r.id FROM book_epochs b JOIN credit_ledger r ON r.id > b.entries AND r.id <= b.base_id
 UNION ALL
SELECT 'camp_', r.id FROM book_epochs b JOIN credit_campaigns r ON r.id > b.campaigns AND r.id <= b.base_id
 UNION ALL
SELECT 'grant_', r.id FROM book_epochs b JOIN credit_grants r ON r.id > b.grants AND r.id <= b.base_id
 UNION ALL
SELECT 'entry_', r.after_entry_id FROM book_epochs b JOIN events r ON r.id > b.events AND r.id <= b.base_id;

-- name: entries_continue_previous_entry
-- A join by the unique index takes a third of the time of a window function.
SELECT 'entry_' AS kind, e.id
  FROM credit_ledger e NOT INDEXED
  LEFT JOIN credit_ledger p ON p.account_id = e.account_id AND p.pool_id = e.pool_id AND p.entry_seq = e.entry_seq - 1
 WHERE (p.id IS NULL) <> (e.entry_seq = 1)
    OR p.id >= e.id
    OR e.available_after_micro <> coalesce(p.available_after_micro, 0) + e.available_delta_micro
    OR e.reserved_after_micro <> coalesce(p.reserved_after_micro, 0) + e.reserved_delta_micro
    OR min(e.available_after_micro, e.reserved_after_micro) < 0;

-- name: entries_are_in_time_order
SELECT 'entry_' AS kind, e.id
  FROM credit_ledger p
  JOIN credit_ledger e ON e.id = p.id + 1
 WHERE e.created_at_us < p.created_at_us;

-- name: entries_deltas_match_type
SELECT 'entry_' AS kind, id
  FROM credit_ledger
 WHERE NOT CASE entry_type
               WHEN 'deposit' THEN amount_micro > 0 AND available_delta_micro = amount_micro AND reserved_delta_micro = 0
               WHEN 'grant' THEN amount_micro > 0 AND available_delta_micro = amount_micro AND reserved_delta_micro = 0
               WHEN 'reserve' THEN amount_micro < 0 AND available_delta_micro = amount_micro
                                   AND reserved_delta_micro = -amount_micro
               WHEN 'release' THEN amount_micro > 0 AND available_delta_micro = amount_micro
                                   AND reserved_delta_micro = -amount_micro
               WHEN 'charge' THEN amount_micro < 0 AND available_delta_micro = amount_micro AND reserved_delta_micro = 0
               WHEN 'debt_paid' THEN amount_micro < 0 AND available_delta_micro = amount_micro AND reserved_delta_micro = 0
               WHEN 'debt_incurred' THEN amount_micro < 0 AND available_delta_micro = 0 AND reserved_delta_micro = 0
               WHEN 'shadow_reserve' THEN amount_micro = 0 AND available_delta_micro = 0 AND reserved_delta_micro = 0
               WHEN 'shadow_finalize' THEN amount_micro = 0 AND available_delta_micro = 0 AND reserved_delta_micro = 0
               WHEN 'shadow_charge' THEN amount_micro = 0 AND available_delta_micro = 0 AND reserved_delta_micro = 0
               ELSE entry_type IN ('finalize', 'expire', 'revoke')
                    AND amount_micro < 0
                    AND ((available_delta_micro = amount_micro AND reserved_delta_micro = 0)
                         OR (available_delta_micro = 0 AND reserved_delta_micro = amount_micro))
           END
    OR (lot_id IS NULL) <> (entry_type IN ('debt_incurred', 'shadow_reserve', 'shadow_finalize', 'shadow_charge'))
    OR NOT CASE
               WHEN charge_id IS NOT NULL
                   THEN reservation_id IS NULL AND entry_type IN ('charge', 'debt_incurred', 'shadow_charge')
               WHEN reservation_id IS NOT NULL THEN entry_type NOT IN ('charge', 'shadow_charge')
               ELSE entry_type IN ('deposit', 'grant', 'debt_paid', 'expire', 'revoke')
           END;

-- ------------------------------------------------------------------------------------------------ entries_match_lots --

-- name: lots_match_entries
SELECT 'lot_' AS kind, l.id
  FROM credit_lots l
  LEFT JOIN (
    SELECT lot_id,
           sum(available_delta_micro) AS available_micro,
           sum(reserved_delta_micro) AS reserved_micro,
           sum(iif(entry_type IN ('finalize', 'charge', 'debt_paid'), -amount_micro, 0)) AS consumed_micro,
           sum(iif(entry_type = 'expire', -amount_micro, 0)) AS expired_micro,
           sum(iif(entry_type = 'revoke', -amount_micro, 0)) AS revoked_micro,
           sum(entry_type IN ('deposit', 'grant')) AS mints
      FROM credit_ledger
     WHERE account_id > :after_account
       AND account_id <= :until_account
       AND lot_id IS NOT NULL
     GROUP BY lot_id) e ON e.lot_id = l.id
 WHERE l.account_id > :after_account
   AND l.account_id <= :until_account
   AND (l.available_micro, l.reserved_micro, l.consumed_micro, l.expired_micro, l.revoked_micro, 1)
    IS NOT (e.available_micro, e.reserved_micro, e.consumed_micro, e.expired_micro, e.revoked_micro, e.mints);

-- name: entries_match_account_and_pool_of_lot
SELECT 'entry_' AS kind, e.id
  FROM credit_ledger e
  LEFT JOIN credit_lots l ON l.id = e.lot_id
 WHERE e.lot_id IS NOT NULL
   AND ((l.account_id, l.pool_id) IS NOT (e.account_id, e.pool_id)
        OR (e.entry_type IN ('deposit', 'grant')
            AND (e.entry_type, e.amount_micro, e.created_at_us)
                IS NOT (iif(l.source_type = 'deposit', 'deposit', 'grant'), l.original_micro, l.created_at_us)));

-- ------------------------------------------------------------------------------------------------- reservation_match --

-- name: reservations_match_reserved_lots
SELECT 'res_' AS kind, r.id
  FROM credit_reservations r
 WHERE iif(r.billing_mode = 'shadow', 0, r.held_micro)
       <> (SELECT coalesce(sum(h.reserved_micro), 0)
             FROM reservation_lots h
            WHERE h.reservation_id = r.id);

-- name: reservation_lots_match_account_and_pool
-- A reservation holds lots of its own pool and of `general`.
SELECT 'res_' AS kind, r.id
  FROM reservation_lots h
  JOIN credit_reservations r ON r.id = h.reservation_id
  JOIN credit_lots l ON l.id = h.lot_id
 WHERE l.account_id <> r.account_id
    OR l.pool_id NOT IN (r.pool_id, 'general')
    OR h.reserved_micro <= 0;

-- name: lots_match_pending_reservations
SELECT 'lot_' AS kind, l.id
  FROM credit_lots l
  LEFT JOIN (
    SELECT h.lot_id, sum(h.reserved_micro) AS reserved_micro
      FROM reservation_lots h
      JOIN credit_reservations r ON r.id = h.reservation_id
     WHERE r.status = 'pending'
       AND r.account_id > :after_account
       AND r.account_id <= :until_account
     GROUP BY h.lot_id) p ON p.lot_id = l.id
 WHERE l.account_id > :after_account
   AND l.account_id <= :until_account
   AND l.reserved_micro <> coalesce(p.reserved_micro, 0);

-- name: reservations_amounts_add_up
-- The price is the list price less the discount. A finalized reservation is charged its actual cost less the discount of the
-- same rate and cap. The terms are arranged so that no product exceeds 63 bits.
SELECT 'res_' AS kind, id
  FROM (
    SELECT id, billing_mode, status, list_micro, discount_micro, held_micro, actual_cost_micro, finalized_micro, overrun_micro,
           absorbed_micro, released_micro, closed_at_us,
           min(list_micro / 10000 * discount_bps + list_micro % 10000 * discount_bps / 10000,
               coalesce(max_discount_micro, 9223372036854775807)) AS list_discount_micro,
           actual_cost_micro - min(actual_cost_micro / 10000 * discount_bps + actual_cost_micro % 10000 * discount_bps / 10000,
                                   coalesce(max_discount_micro, 9223372036854775807)) AS charge_micro
      FROM credit_reservations)
 WHERE discount_micro <> list_discount_micro
    OR held_micro NOT BETWEEN 0 AND list_micro - discount_micro
    OR (held_micro <> list_micro - discount_micro AND billing_mode <> 'soft')
    OR CASE status
           WHEN 'pending' THEN coalesce(actual_cost_micro, finalized_micro, overrun_micro, absorbed_micro, released_micro,
                                        closed_at_us) IS NOT NULL
           WHEN 'finalized' THEN
               (finalized_micro, overrun_micro, absorbed_micro, released_micro)
               IS NOT (min(charge_micro, held_micro),
                       iif(billing_mode = 'live', 0, max(charge_micro - held_micro, 0)),
                       iif(billing_mode = 'live', max(charge_micro - held_micro, 0), 0),
                       held_micro - finalized_micro)
           ELSE status NOT IN ('released', 'expired')
                OR coalesce(actual_cost_micro, finalized_micro, overrun_micro, absorbed_micro) IS NOT NULL
                OR released_micro IS NOT held_micro
       END;

-- name: reservations_match_entries
-- The held, charged, overrun and returned credits, and the time of the end, are recomputed from the entries.
SELECT 'res_' AS kind, r.id
  FROM (
    SELECT reservation_id,
           sum(iif(entry_type = 'reserve', -amount_micro, 0)) AS held_micro,
           sum(iif(entry_type = 'finalize', -reserved_delta_micro, 0)) AS finalized_micro,
           sum(iif(entry_type = 'debt_incurred' OR (entry_type = 'finalize' AND reserved_delta_micro = 0), -amount_micro, 0))
               AS overrun_micro,
           sum(iif(entry_type IN ('release', 'expire', 'revoke'), -reserved_delta_micro, 0)) AS released_micro,
           sum(entry_type = 'shadow_reserve') AS shadow_reserves,
           sum(entry_type = 'shadow_finalize') AS shadow_finalizes,
           max(iif(entry_type IN ('reserve', 'shadow_reserve', 'debt_paid'), NULL, created_at_us)) AS closed_at_us
      FROM credit_ledger
     WHERE account_id > :after_account
       AND account_id <= :until_account
       AND reservation_id IS NOT NULL
     GROUP BY reservation_id) e
  JOIN credit_reservations r ON r.id = e.reservation_id
 WHERE (coalesce(e.held_micro, 0), coalesce(e.finalized_micro, 0), coalesce(e.overrun_micro, 0), coalesce(e.released_micro, 0),
        coalesce(e.shadow_reserves, 0), coalesce(e.shadow_finalizes, 0))
    IS NOT (
        iif(r.billing_mode = 'shadow', 0, r.held_micro),
        iif(r.billing_mode = 'shadow', 0, coalesce(r.finalized_micro, 0)),
        iif(r.billing_mode = 'soft', coalesce(r.overrun_micro, 0), 0),
        iif(r.billing_mode = 'shadow', 0, coalesce(r.released_micro, 0)),
        iif(r.billing_mode = 'shadow', 1, 0),
        iif(r.billing_mode = 'shadow' AND r.status = 'finalized', 1, 0))
    OR (e.closed_at_us IS NOT NULL AND e.closed_at_us IS NOT r.closed_at_us);

-- name: reservations_have_entries
-- If reservations_match_entries holds, the two sums differ only when some reservation has no entries. Only then does the
-- query list the reservations that have entries, because there is no index for that. These are sums over all reservations
-- ever made, which can exceed 63 bits. So each sum adds high and low halves; a larger one becomes a REAL
-- (docs/internals/decisions/0022-sum-halves-over-all-reservations.md).
SELECT 'res_' AS kind, r.id
  FROM credit_reservations r
 WHERE (SELECT sum(iif(billing_mode = 'shadow', 0, held_micro >> 32)) * 4294967296
                   + sum(iif(billing_mode = 'shadow', 0, held_micro & 4294967295))
               + sum(iif(billing_mode = 'soft', coalesce(overrun_micro >> 32, 0), 0)) * 4294967296
                   + sum(iif(billing_mode = 'soft', coalesce(overrun_micro & 4294967295, 0), 0))
               + sum(billing_mode = 'shadow')
          FROM credit_reservations)
       IS NOT (
        SELECT sum(iif(entry_type IN ('reserve', 'debt_incurred') OR (entry_type = 'finalize' AND reserved_delta_micro = 0),
                       -amount_micro >> 32, 0)) * 4294967296
                   + sum(iif(entry_type IN ('reserve', 'debt_incurred') OR (entry_type = 'finalize' AND reserved_delta_micro = 0),
                             -amount_micro & 4294967295, 0))
               + sum(entry_type = 'shadow_reserve')
          FROM credit_ledger
         WHERE reservation_id IS NOT NULL)
   AND r.id NOT IN (SELECT reservation_id FROM credit_ledger WHERE reservation_id IS NOT NULL)
   AND (r.held_micro <> 0 OR r.overrun_micro <> 0 OR r.billing_mode = 'shadow');

-- name: entries_match_reserved_lots
-- For each reservation and lot, the reserve entries match the held credits. While the reservation is pending, nothing else
-- has moved.
SELECT 'res_' AS kind, m.reservation_id AS id
  FROM (
    SELECT reservation_id, lot_id,
           sum(iif(entry_type = 'reserve', reserved_delta_micro, 0)) AS reserved_micro,
           sum(reserved_delta_micro) AS left_micro
      FROM credit_ledger
     WHERE account_id > :after_account
       AND account_id <= :until_account
       AND reservation_id IS NOT NULL
       AND reserved_delta_micro <> 0
     GROUP BY reservation_id, lot_id) m
  LEFT JOIN credit_reservations r ON r.id = m.reservation_id
  LEFT JOIN reservation_lots h ON h.reservation_id = m.reservation_id AND h.lot_id = m.lot_id
 WHERE (m.reserved_micro, m.left_micro) IS NOT (h.reserved_micro, iif(r.status = 'pending', h.reserved_micro, 0));

-- name: entries_match_account_of_reservation
SELECT 'entry_' AS kind, e.id
  FROM credit_ledger e
  JOIN credit_reservations r ON r.id = e.reservation_id
 WHERE e.account_id <> r.account_id
    OR e.pool_id NOT IN (r.pool_id, 'general');

-- name: silent_ends_are_recorded
SELECT 'res_' AS kind, r.id
  FROM credit_reservations r
 WHERE r.status <> 'pending'
   AND (r.held_micro = 0 OR r.billing_mode = 'shadow')
   AND NOT EXISTS (SELECT 1 FROM silent_ends s WHERE s.reservation_id = r.id)
 UNION ALL
SELECT 'res_', s.reservation_id
  FROM silent_ends s
  LEFT JOIN credit_reservations r ON r.id = s.reservation_id
 WHERE (r.status <> 'pending' AND (r.held_micro = 0 OR r.billing_mode = 'shadow')) IS NOT TRUE;

-- name: debts_match_incurring_entry
-- A violation names a debt by its reservation or charge.
SELECT iif(d.charge_id IS NULL, 'res_', 'charge_') AS kind, coalesce(d.charge_id, d.reservation_id) AS id
  FROM credit_debts d
  LEFT JOIN credit_ledger e
    ON e.account_id = d.account_id
   AND e.created_at_us = d.created_at_us
   AND e.entry_type IN ('debt_incurred', 'debt_paid')
   AND e.entry_type = 'debt_incurred'
   AND e.reservation_id IS d.reservation_id
   AND e.charge_id IS d.charge_id
 WHERE -d.original_micro IS NOT e.amount_micro
    OR (d.reservation_id IS NULL) = (d.charge_id IS NULL)
    OR d.paid_micro NOT BETWEEN 0 AND d.original_micro;

-- name: debt_entries_have_debt
SELECT iif(e.charge_id IS NULL, 'res_', 'charge_') AS kind, coalesce(e.charge_id, e.reservation_id) AS id
  FROM credit_ledger e
  LEFT JOIN credit_debts r ON r.reservation_id = e.reservation_id
  LEFT JOIN credit_debts c ON c.charge_id = e.charge_id
 WHERE e.entry_type IN ('debt_incurred', 'debt_paid')
   AND e.entry_type = 'debt_incurred'
   AND (coalesce(c.account_id, r.account_id), coalesce(c.original_micro, r.original_micro),
        coalesce(c.created_at_us, r.created_at_us))
       IS NOT (e.account_id, -e.amount_micro, e.created_at_us);

-- name: debts_paid_matches_entries
-- A payment names the reservation or charge of its debt. A violation by a payment without a debt names the entry.
SELECT CASE WHEN r.id IS NOT NULL THEN 'res_' WHEN c.id IS NOT NULL THEN 'charge_' ELSE 'entry_' END AS kind,
       coalesce(r.reservation_id, c.charge_id, p.entry_id) AS id
  FROM (
    SELECT account_id, key_of('res_', json_extract(metadata, '$.debtReservationId')) AS debt_of_reservation,
           key_of('charge_', json_extract(metadata, '$.debtChargeId')) AS debt_of_charge, min(id) AS entry_id,
           sum(-amount_micro) AS paid_micro
      FROM credit_ledger INDEXED BY entries_of_debts
     WHERE entry_type IN ('debt_incurred', 'debt_paid')
       AND entry_type = 'debt_paid'
       AND account_id > :after_account
       AND account_id <= :until_account
     GROUP BY account_id, debt_of_reservation, debt_of_charge) p
  LEFT JOIN credit_debts r ON r.reservation_id = p.debt_of_reservation
  LEFT JOIN credit_debts c ON c.charge_id = p.debt_of_charge
 WHERE (r.id IS NOT NULL AND c.id IS NOT NULL)
    OR (coalesce(r.account_id, c.account_id), coalesce(r.paid_micro, c.paid_micro)) IS NOT (p.account_id, p.paid_micro);

-- name: paid_debts_have_entries
SELECT iif(d.charge_id IS NULL, 'res_', 'charge_') AS kind, coalesce(d.charge_id, d.reservation_id) AS id
  FROM credit_debts d
 WHERE d.account_id > :after_account
   AND d.account_id <= :until_account
   AND d.paid_micro <> 0
   AND iif(d.charge_id IS NULL,
           d.reservation_id NOT IN (
               SELECT coalesce(key_of('res_', json_extract(metadata, '$.debtReservationId')), 0)
                 FROM credit_ledger INDEXED BY entries_of_debts
                WHERE entry_type IN ('debt_incurred', 'debt_paid')
                  AND entry_type = 'debt_paid'
                  AND account_id > :after_account
                  AND account_id <= :until_account),
           d.charge_id NOT IN (
               SELECT coalesce(key_of('charge_', json_extract(metadata, '$.debtChargeId')), 0)
                 FROM credit_ledger INDEXED BY entries_of_debts
                WHERE entry_type IN ('debt_incurred', 'debt_paid')
                  AND entry_type = 'debt_paid'
                  AND account_id > :after_account
                  AND account_id <= :until_account));

-- ------------------------------------------------------------------------------------------------------ charge_match --

-- name: charges_amounts_add_up
-- The price is the list price less the discount, and the parts of the charge are the price. The terms are arranged so that no
-- product exceeds 63 bits.
SELECT 'charge_' AS kind, id
  FROM credit_charges
 WHERE discount_micro
       <> min(list_micro / 10000 * discount_bps + list_micro % 10000 * discount_bps / 10000,
              coalesce(max_discount_micro, 9223372036854775807))
    OR charged_micro <> list_micro - discount_micro - debt_micro
    OR min(charged_micro, debt_micro) < 0
    OR (billing_mode <> 'soft' AND debt_micro <> 0)
    OR (billing_mode = 'shadow' AND discount_micro <> 0);

-- name: charges_match_entries
-- The entries of a charge follow the entry that it names without a gap, so their ids find them. Their sums are its parts.
SELECT 'charge_' AS kind, c.id
  FROM credit_charges c
 WHERE (SELECT coalesce(sum(iif(e.entry_type = 'charge', -e.amount_micro, 0)), 0),
               coalesce(sum(iif(e.entry_type = 'debt_incurred', -e.amount_micro, 0)), 0),
               coalesce(sum(e.entry_type = 'shadow_charge'), 0),
               count(*)
          FROM credit_ledger e
         WHERE e.id > c.after_entry_id
           AND e.id <= c.after_entry_id + min(c.entry_count, 1001)
           AND e.charge_id = c.id)
       IS NOT (iif(c.billing_mode = 'shadow', 0, c.charged_micro), c.debt_micro, c.billing_mode = 'shadow', c.entry_count);

-- name: entries_match_their_charge
-- No entry of a charge is outside the range that the charge names.
SELECT 'entry_' AS kind, e.id
  FROM credit_ledger e NOT INDEXED
  LEFT JOIN credit_charges c ON c.id = e.charge_id
 WHERE e.charge_id IS NOT NULL
   AND ((c.account_id, c.created_at_us) IS NOT (e.account_id, e.created_at_us)
        OR e.pool_id NOT IN (c.pool_id, 'general')
        OR e.id <= c.after_entry_id
        OR e.id - c.after_entry_id > c.entry_count);

-- ----------------------------------------------------------------------------------------------- orphan_reservations --

-- name: reservations_have_lots
SELECT 'res_' AS kind, r.id
  FROM credit_reservations r
 WHERE r.billing_mode <> 'shadow'
   AND r.held_micro <> 0
   AND NOT EXISTS (SELECT 1 FROM reservation_lots h WHERE h.reservation_id = r.id);

-- name: reservations_have_account
SELECT 'res_' AS kind, r.id
  FROM credit_reservations r
  LEFT JOIN credit_accounts a ON a.id = r.account_id
 WHERE a.id IS NULL;

-- name: reservation_lots_have_reservation_and_lot
SELECT 'res_' AS kind, h.reservation_id AS id
  FROM reservation_lots h
  LEFT JOIN credit_reservations r ON r.id = h.reservation_id
  LEFT JOIN credit_lots l ON l.id = h.lot_id
 WHERE r.id IS NULL
    OR l.id IS NULL;

-- name: entries_have_reservation
SELECT 'entry_' AS kind, e.id
  FROM credit_ledger e
  LEFT JOIN credit_reservations r ON r.id = e.reservation_id
 WHERE e.reservation_id IS NOT NULL
   AND r.id IS NULL;

-- ---------------------------------------------------------------------------------------------- campaign_spent_match --

-- name: campaigns_spent_matches_grants
-- The sum of the grants, less the revoked credits of their lots.
SELECT 'camp_' AS kind, c.id
  FROM credit_campaigns c
  LEFT JOIN (
    SELECT g.campaign_id,
           count(*) AS grant_count,
           sum(g.amount_micro) - sum(l.revoked_micro) AS spent_micro
      FROM credit_grants g
      JOIN credit_lots l ON l.id = g.lot_id
     GROUP BY g.campaign_id) g ON g.campaign_id = c.id
 WHERE c.spent_micro <> coalesce(g.spent_micro, 0)
    OR c.grant_count <> coalesce(g.grant_count, 0)
    OR c.spent_micro NOT BETWEEN 0 AND c.budget_micro;

-- name: campaign_totals_match_grants
-- A campaign without a row of totals is a violation.
SELECT 'camp_' AS kind, c.id
  FROM credit_campaigns c
  LEFT JOIN credit_campaign_totals t ON t.campaign_id = c.id
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
     GROUP BY g.campaign_id) g ON g.campaign_id = c.id
 WHERE (t.granted_micro, t.reserved_micro, t.expired_micro, t.spending_accounts, t.grants_revoked, t.revoked_micro,
        t.revoked_consumed_micro, t.revoked_reserved_micro)
    IS NOT (coalesce(g.granted_micro, 0), coalesce(g.reserved_micro, 0), coalesce(g.expired_micro, 0),
            coalesce(g.spending_accounts, 0), coalesce(g.grants_revoked, 0), coalesce(g.revoked_micro, 0),
            coalesce(g.revoked_consumed_micro, 0), coalesce(g.revoked_reserved_micro, 0));

-- name: campaign_days_match_entries
-- The sums of one range of grants and entries, by campaign and day. checks.py adds up the ranges and compares the result.
SELECT campaign_id, day, sum(grants), sum(granted_micro), sum(consumed_micro)
  FROM (
    SELECT campaign_id, created_at_us / 86400000000 AS day, 1 AS grants, amount_micro AS granted_micro, 0 AS consumed_micro
      FROM credit_grants
     WHERE id > :after
       AND id <= :until
     UNION ALL
    SELECT l.campaign_id, e.created_at_us / 86400000000, 0, 0, -e.amount_micro
      FROM credit_ledger e
      JOIN credit_lots l ON l.id = e.lot_id
     WHERE e.id > :after
       AND e.id <= :until
       AND e.entry_type IN ('finalize', 'charge', 'debt_paid')
       AND l.campaign_id IS NOT NULL)
 GROUP BY campaign_id, day;

-- -------------------------------------------------------------------------------------------------- grant_lot_match --

-- name: grants_match_lots
SELECT 'grant_' AS kind, g.id
  FROM credit_grants g
  LEFT JOIN credit_lots l ON l.id = g.lot_id
  LEFT JOIN credit_campaigns c ON c.id = g.campaign_id
 WHERE (l.account_id, l.original_micro, l.pool_id, l.source_type, l.source_id, l.campaign_id, l.created_at_us)
    IS NOT (g.account_id, g.amount_micro, c.pool_id, 'grant', NULL, g.campaign_id, g.created_at_us)
    OR g.amount_micro > c.per_wallet_cap_micro;

-- name: campaign_lots_have_grant
SELECT 'lot_' AS kind, l.id
  FROM credit_lots l
 WHERE l.campaign_id IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM credit_grants g WHERE g.lot_id = l.id);

-- name: grants_revocation_matches_lot
-- A revoked lot has no available credits. Credits that were reserved at the revocation are consumed or revoked later.
SELECT 'grant_' AS kind, g.id
  FROM credit_grants g
  JOIN credit_lots l ON l.id = g.lot_id
 WHERE g.revoked_at_us IS NOT l.revoked_at_us
    OR CASE g.status
           WHEN 'granted' THEN
               l.revoked_micro <> 0
               OR coalesce(g.revoked_at_us, g.revoked_micro, g.revoked_consumed_micro, g.revoked_reserved_micro, g.revoke_reason)
                  IS NOT NULL
           WHEN 'revoked' THEN
               (l.available_micro = 0
                AND l.revoked_micro BETWEEN g.revoked_micro AND g.revoked_micro + g.revoked_reserved_micro
                AND l.consumed_micro BETWEEN g.revoked_consumed_micro AND g.revoked_consumed_micro + g.revoked_reserved_micro
                AND g.revoked_at_us >= g.created_at_us
                AND g.revoke_reason IS NOT NULL) IS NOT TRUE
           ELSE TRUE
       END;

-- name: revoked_lots_have_revoked_grant
SELECT 'lot_' AS kind, l.id
  FROM credit_lots l
 WHERE (l.revoked_micro <> 0 OR l.revoked_at_us IS NOT NULL)
   AND NOT EXISTS (SELECT 1 FROM credit_grants g WHERE g.lot_id = l.id AND g.status = 'revoked');

-- name: grants_match_revoked_event
-- The hash chain covers the event, so the grant must match it. Members of later versions are not compared.
SELECT 'grant_' AS kind, e.data ->> 'id' AS id
  FROM events e
  LEFT JOIN credit_grants g ON g.id = e.data ->> 'id'
  LEFT JOIN credit_accounts a ON a.id = g.account_id
 WHERE e.type = 'grant.revoked'
   AND json_extract(e.data, '$.id', '$.campaign_id', '$.account_id', '$.entity_type', '$.entity_id', '$.lot_id',
                    '$.amount_micro', '$.status', '$.grant_formula', '$.formula_input', '$.created_at_us', '$.revoked_at_us',
                    '$.revoked_micro', '$.revoke_reason')
       IS NOT json_array(g.id, g.campaign_id, g.account_id, a.entity_type, a.entity_id, g.lot_id, g.amount_micro, g.status,
                         g.grant_formula, g.formula_input, g.created_at_us, g.revoked_at_us, g.revoked_micro, g.revoke_reason);

-- name: revoked_grants_have_event
SELECT 'grant_' AS kind, g.id
  FROM credit_grants g
 WHERE (SELECT count(*) FROM credit_grants WHERE status = 'revoked') <> (SELECT count(*) FROM events WHERE type = 'grant.revoked')
   AND g.status = 'revoked'
   AND g.id NOT IN (SELECT data ->> 'id' FROM events WHERE type = 'grant.revoked' AND data ->> 'id' IS NOT NULL);

-- ------------------------------------------------------------------------------------------------------- audit_chain --

-- name: audit_log_contains_reconciled_row
-- Deleting the newest rows breaks no hash, but this row existed. In the first epoch its id was its seq.
SELECT iif(a.id IS NULL AND EXISTS (SELECT 1 FROM book_epochs), 'admin_audit_log', 'audit_') AS kind,
       coalesce(a.id, r.audit_seq) AS id
  FROM reconciliations r
  LEFT JOIN admin_audit_log a ON a.seq = r.audit_seq
 WHERE r.audit_seq IS NOT NULL
   AND a.hash IS NOT r.audit_hash;

-- name: lots_not_newer_than_audit_log
-- The write that minted the newest lot has an audit row of the same time or later. Accounts are not compared: services open
-- them, too.
SELECT 'lot_' AS kind, id
  FROM credit_lots
 WHERE created_at_us > coalesce((SELECT created_at_us FROM admin_audit_log ORDER BY seq DESC LIMIT 1), -1);

-- name: campaigns_not_newer_than_audit_log
SELECT 'camp_' AS kind, id
  FROM credit_campaigns
 WHERE created_at_us > coalesce((SELECT created_at_us FROM admin_audit_log ORDER BY seq DESC LIMIT 1), -1);

-- name: revocations_not_newer_than_audit_log
SELECT 'grant_' AS kind, id
  FROM credit_grants
 WHERE revoked_at_us > coalesce((SELECT created_at_us FROM admin_audit_log ORDER BY seq DESC LIMIT 1), -1);

-- ------------------------------------------------------------------------------------------------------ foreign_keys --

-- name: foreign_keys_are_valid
-- The rules below cover tables without a rowid. A violation names rows without a public id by their table.
SELECT CASE f."table"
           WHEN 'credit_lots' THEN 'lot_'
           WHEN 'credit_reservations' THEN 'res_'
           WHEN 'credit_charges' THEN 'charge_'
           WHEN 'credit_debts' THEN
               (SELECT iif(d.charge_id IS NULL, 'res_', 'charge_') FROM credit_debts d WHERE d.id = f.rowid)
           WHEN 'credit_ledger' THEN 'entry_'
           WHEN 'credit_grants' THEN 'grant_'
           WHEN 'credit_campaign_totals' THEN 'camp_'
           WHEN 'memberships' THEN 'acct_'
           WHEN 'events' THEN iif(f.parent = 'credit_campaigns', 'camp_', 'acct_')
           ELSE f."table"
       END AS kind,
       CASE f."table"
           WHEN 'credit_debts' THEN (SELECT coalesce(d.charge_id, d.reservation_id) FROM credit_debts d WHERE d.id = f.rowid)
           WHEN 'memberships' THEN (SELECT m.account_id FROM memberships m WHERE m.id = f.rowid)
           WHEN 'events' THEN (
               SELECT iif(f.parent = 'credit_campaigns', e.campaign_id, e.account_id) FROM events e WHERE e.id = f.rowid)
           ELSE f.rowid
       END AS id
  FROM pragma_foreign_key_check f
 WHERE f."table" NOT IN ('reservation_lots', 'credit_balances', 'credit_campaign_days', 'thresholds');

-- name: reservation_lots_foreign_keys_are_valid
SELECT 'res_' AS kind, h.reservation_id AS id
  FROM reservation_lots h
 WHERE NOT EXISTS (SELECT 1 FROM credit_reservations r WHERE r.id = h.reservation_id)
    OR NOT EXISTS (SELECT 1 FROM credit_lots l WHERE l.id = h.lot_id);

-- name: thresholds_have_account
SELECT 'acct_' AS kind, t.account_id AS id
  FROM thresholds t
 WHERE NOT EXISTS (SELECT 1 FROM credit_accounts a WHERE a.id = t.account_id);

-- name: balances_have_account
SELECT 'acct_' AS kind, b.account_id AS id
  FROM credit_balances b
 WHERE NOT EXISTS (SELECT 1 FROM credit_accounts a WHERE a.id = b.account_id);

-- name: campaign_days_have_campaign
SELECT 'camp_' AS kind, d.campaign_id AS id
  FROM credit_campaign_days d
 WHERE NOT EXISTS (SELECT 1 FROM credit_campaigns c WHERE c.id = d.campaign_id);
