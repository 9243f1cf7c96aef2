-- Reservations, their lots, and debts.

-- name: insert_reservation
-- :reservation_id is NULL, so that SQLite continues from the newest row, except for the first reservation of an epoch.
INSERT INTO credit_reservations (
    id, account_id, pool_id, billing_mode, status, list_micro, discount_bps, max_discount_micro, discount_micro, community_id,
    tier, held_micro, expires_at_us, description, metadata, created_by, created_at_us)
VALUES (
    :reservation_id, :account_id, :pool_id, :billing_mode, 'pending', :list_micro, :discount_bps, :max_discount_micro,
    :discount_micro, :community_id, :tier, :held_micro, :expires_at_us, :description, :metadata, :created_by, :now_us);

-- name: insert_reservation_lots
INSERT INTO reservation_lots (reservation_id, position, lot_id, reserved_micro)
VALUES (:reservation_id, :position, :lot_id, :reserved_micro);

-- name: find_reservation
SELECT id, account_id, pool_id, billing_mode, status, list_micro, discount_bps, max_discount_micro, discount_micro, community_id,
       tier, held_micro, expires_at_us, created_by, created_at_us, actual_cost_micro, finalized_micro, released_micro,
       overrun_micro, absorbed_micro, closed_by, closed_at_us
  FROM credit_reservations
 WHERE id = :reservation_id;

-- name: lots_of_reservation
-- In the order of the draws, with the current state of each lot.
SELECT h.lot_id, h.reserved_micro, l.pool_id, l.expires_at_us, l.revoked_at_us
  FROM reservation_lots h
  JOIN credit_lots l ON l.id = h.lot_id
 WHERE h.reservation_id = :reservation_id
 ORDER BY h.position;

-- name: finalize_reservation
UPDATE credit_reservations
   SET status = 'finalized',
       actual_cost_micro = :actual_cost_micro,
       finalized_micro = :finalized_micro,
       released_micro = held_micro - :finalized_micro,
       overrun_micro = :overrun_micro,
       absorbed_micro = :absorbed_micro,
       closed_by = nullif(:closed_by, created_by),
       closed_at_us = :now_us
 WHERE id = :reservation_id;

-- name: release_reservation
UPDATE credit_reservations
   SET status = 'released',
       released_micro = held_micro,
       closed_by = nullif(:closed_by, created_by),
       closed_at_us = :now_us
 WHERE id = :reservation_id;

-- name: end_reservations
-- Ends a reservation without a caller, and releases all of its credits.
UPDATE credit_reservations
   SET status = :status,
       released_micro = held_micro,
       closed_at_us = :now_us
 WHERE id = :reservation_id;

-- name: overdue_reservations_of_account
-- Returns the overdue reservations of one account, the oldest first, each with the number of its lots.
SELECT r.expires_at_us, r.id, r.account_id,
       coalesce((SELECT max(position) FROM reservation_lots WHERE reservation_id = r.id), 0)
  FROM credit_reservations r
 WHERE r.account_id = :account_id
   AND r.status = 'pending'
   AND r.expires_at_us <= :now_us
 ORDER BY r.expires_at_us, r.id
 LIMIT :count + 0;

-- name: overdue_reservations
-- Returns the same rows for all accounts.
SELECT r.expires_at_us, r.id, r.account_id,
       coalesce((SELECT max(position) FROM reservation_lots WHERE reservation_id = r.id), 0)
  FROM credit_reservations r
 WHERE r.status = 'pending'
   AND r.expires_at_us <= :now_us
 ORDER BY r.expires_at_us, r.id
 LIMIT :count + 0;

-- name: lots_of_reservations
-- :reservation_ids is a JSON array of keys. Shadow reservations have no lots.
SELECT h.reservation_id, h.lot_id, h.reserved_micro
  FROM json_each(:reservation_ids) j
  CROSS JOIN reservation_lots h ON h.reservation_id = j.value
 ORDER BY h.reservation_id, h.position;

-- name: insert_debts
INSERT INTO credit_debts (id, account_id, reservation_id, charge_id, original_micro, paid_micro, created_at_us)
VALUES (:debt_id, :account_id, :reservation_id, :charge_id, :original_micro, 0, :now_us);

-- name: open_debts
-- Oldest first; :account_ids is a JSON array of keys.
SELECT d.account_id, d.id, d.reservation_id, d.charge_id, d.original_micro - d.paid_micro
  FROM json_each(:account_ids) j
  CROSS JOIN credit_debts d ON d.account_id = j.value
 WHERE d.paid_micro < d.original_micro
 ORDER BY d.id;

-- name: open_debt_of_account
SELECT coalesce(sum(original_micro - paid_micro), 0)
  FROM credit_debts
 WHERE account_id = :account_id
   AND paid_micro < original_micro;

-- name: pay_debt
UPDATE credit_debts
   SET paid_micro = paid_micro + :paid_micro
 WHERE id = :debt_id;

-- name: find_debt
SELECT d.id, d.account_id, coalesce(r.pool_id, c.pool_id), d.reservation_id, d.charge_id, d.original_micro, d.paid_micro, d.created_at_us
  FROM credit_debts d
  LEFT JOIN credit_reservations r ON r.id = d.reservation_id
  LEFT JOIN credit_charges c ON c.id = d.charge_id
 WHERE d.id = :debt_id;

-- name: forgive_debt
-- Runs after the lot has paid the debt.
UPDATE credit_debts
   SET forgiven_lot_id = :lot_id
 WHERE id = :debt_id;

-- name: debts_page
-- Oldest first. :open is NULL for all debts.
SELECT d.id, d.account_id, coalesce(r.pool_id, c.pool_id), d.reservation_id, d.charge_id, d.original_micro, d.paid_micro, d.created_at_us
  FROM credit_debts d
  LEFT JOIN credit_reservations r ON r.id = d.reservation_id
  LEFT JOIN credit_charges c ON c.id = d.charge_id
 WHERE d.account_id = :account_id
   AND d.id > :after_id
   AND (:open IS NULL OR (d.paid_micro < d.original_micro) = :open)
 ORDER BY d.id
 LIMIT :count + 0;
