-- Charges, one by one and in batches.

-- name: insert_charges
INSERT INTO credit_charges (
    id, account_id, pool_id, source_id, billing_mode, list_micro, discount_bps, max_discount_micro, discount_micro, community_id,
    tier, charged_micro, debt_micro, after_entry_id, entry_count, description, metadata, created_by, created_at_us)
VALUES (
    :charge_id, :account_id, :pool_id, :source_id, :billing_mode, :list_micro, :discount_bps, :max_discount_micro, :discount_micro,
    :community_id, :tier, :charged_micro, :debt_micro, :after_entry_id, :entry_count, :description, :metadata, :created_by,
    :now_us);

-- name: find_charge
SELECT id, account_id, pool_id, source_id, billing_mode, list_micro, discount_bps, max_discount_micro, discount_micro,
       community_id, tier, charged_micro, debt_micro, after_entry_id, entry_count, description, metadata, created_by,
       created_at_us
  FROM credit_charges
 WHERE id = :charge_id;

-- name: find_charge_of_source
SELECT id, account_id, pool_id, source_id, billing_mode, list_micro, discount_bps, max_discount_micro, discount_micro,
       community_id, tier, charged_micro, debt_micro, after_entry_id, entry_count, description, metadata, created_by,
       created_at_us
  FROM credit_charges
 WHERE account_id = :account_id
   AND source_id = :source_id;

-- name: charges_page
-- Newest first.
SELECT id, account_id, pool_id, source_id, billing_mode, list_micro, discount_bps, max_discount_micro, discount_micro,
       community_id, tier, charged_micro, debt_micro, after_entry_id, entry_count, description, metadata, created_by,
       created_at_us
  FROM credit_charges
 WHERE account_id = :account_id
   AND id < :before_id
 ORDER BY id DESC
 LIMIT :count + 0;

-- name: lots_of_charges
-- The consumed credits of each charge by lot, in drawdown order. :charges is a JSON array of [charge, the entry before its
-- entries, their number].
SELECT j.value ->> 0, e.lot_id, -e.amount_micro
  FROM json_each(:charges) j
  CROSS JOIN credit_ledger e ON e.id > j.value ->> 1 AND e.id <= (j.value ->> 1) + (j.value ->> 2)
 WHERE e.entry_type = 'charge'
 ORDER BY e.id;

-- name: charges_of_sources
-- The charges that a batch might repeat. :sources is a JSON array of [account, source id].
SELECT c.account_id, c.source_id, c.id, c.pool_id, c.list_micro, c.charged_micro, c.debt_micro
  FROM json_each(:sources) j
  CROSS JOIN credit_charges c ON c.account_id = j.value ->> 0 AND c.source_id = j.value ->> 1;

-- name: first_lots_of_pools
-- The first lots with available credits of each pool, in drawdown order. :pools is a JSON array of [account, pool].
SELECT l.account_id, l.pool_id, l.id, l.available_micro, l.expires_at_us
  FROM json_each(:pools) j
  CROSS JOIN credit_lots l ON l.id IN (
       SELECT f.id
         FROM credit_lots f
        WHERE f.account_id = j.value ->> 0
          AND f.pool_id = j.value ->> 1
          AND f.available_micro > 0
        ORDER BY f.priority, coalesce(f.expires_at_us, 9223372036854775807), f.id
        LIMIT :count + 0)
 ORDER BY l.account_id, l.pool_id, l.priority, coalesce(l.expires_at_us, 9223372036854775807), l.id;

-- name: pools_and_debts_of_accounts
-- The number of pools and the open debt of each account, in micro-units. :account_ids is a JSON array of keys.
SELECT j.value,
       (SELECT count(*) FROM credit_balances b WHERE b.account_id = j.value),
       (SELECT coalesce(sum(d.original_micro - d.paid_micro), 0)
          FROM credit_debts d
         WHERE d.account_id = j.value
           AND d.paid_micro < d.original_micro)
  FROM json_each(:account_ids) j;
