-- Campaigns and their grants.

-- name: find_campaign
SELECT id, name, description, campaign_type, status, budget_micro, spent_micro, grant_formula, grant_config, pool_id,
       per_wallet_cap_micro, starts_at_us, expires_at_us, grant_ttl_seconds, grant_count, created_by, created_at_us, updated_at_us
  FROM credit_campaigns
 WHERE id = :campaign_id;

-- name: accounts_returning_budget
-- Accounts with overdue reservations that hold credits which this campaign revoked. The query reads at most :count reservations
-- and :count of the lots that they hold. If there are more, it returns the accounts of all that it read. The caller
-- expires these and runs the query again. It reads none for a campaign that never revoked reserved credits.
WITH overdue AS MATERIALIZED (
    SELECT id, account_id
      FROM credit_reservations
     WHERE status = 'pending'
       AND expires_at_us <= :now_us
       AND (SELECT revoked_reserved_micro FROM credit_campaign_totals WHERE campaign_id = :campaign_id) > 0
     LIMIT :count + 0),
held AS MATERIALIZED (
    SELECT o.account_id, h.lot_id
      FROM overdue o
      CROSS JOIN reservation_lots h ON h.reservation_id = o.id
     LIMIT :count + 0)
SELECT h.account_id
  FROM held h
  CROSS JOIN credit_lots l ON l.id = h.lot_id
 WHERE l.campaign_id = :campaign_id
   AND l.revoked_at_us IS NOT NULL
 UNION ALL
SELECT account_id
  FROM overdue
 WHERE (SELECT count(*) FROM overdue) = :count
    OR (SELECT count(*) FROM held) = :count;

-- name: overdue_budget_returns
-- Revoked credits of these campaigns that overdue reservations hold, and the last time of revocation. :campaign_ids is a JSON
-- array of keys. The cost depends on the overdue reservations, not on the size of the campaigns.
SELECT l.campaign_id, sum(h.reserved_micro), max(l.revoked_at_us)
  FROM credit_reservations r
  CROSS JOIN reservation_lots h ON h.reservation_id = r.id
  CROSS JOIN credit_lots l ON l.id = h.lot_id
 WHERE r.status = 'pending'
   AND r.expires_at_us <= :now_us
   AND l.campaign_id IN (SELECT value FROM json_each(:campaign_ids))
   AND l.revoked_at_us IS NOT NULL
 GROUP BY l.campaign_id;

-- name: create_campaign
INSERT INTO credit_campaigns (
    id, name, description, campaign_type, status, budget_micro, spent_micro, grant_formula, grant_config, pool_id,
    per_wallet_cap_micro, starts_at_us, expires_at_us, grant_ttl_seconds, grant_count, created_by, created_at_us, updated_at_us)
VALUES (
    :id, :name, :description, :campaign_type, :status, :budget_micro, :spent_micro, :grant_formula, :grant_config, :pool_id,
    :per_wallet_cap_micro, :starts_at_us, :expires_at_us, :grant_ttl_seconds, :grant_count, :created_by, :created_at_us,
    :updated_at_us);

-- name: edit_campaign
UPDATE credit_campaigns
   SET name = :name,
       description = :description,
       campaign_type = :campaign_type,
       budget_micro = :budget_micro,
       grant_formula = :grant_formula,
       grant_config = :grant_config,
       pool_id = :pool_id,
       per_wallet_cap_micro = :per_wallet_cap_micro,
       starts_at_us = :starts_at_us,
       expires_at_us = :expires_at_us,
       grant_ttl_seconds = :grant_ttl_seconds,
       updated_at_us = :now_us
 WHERE id = :campaign_id;

-- name: transition_campaign
-- The trigger campaigns_status_transition_is_allowed rejects a transition that the life cycle does not have.
UPDATE credit_campaigns
   SET status = :status,
       updated_at_us = :now_us
 WHERE id = :campaign_id;

-- name: expire_campaigns
UPDATE credit_campaigns
   SET status = 'expired',
       updated_at_us = :now_us
 WHERE id IN (
    SELECT id
      FROM credit_campaigns
     WHERE status IN ('draft', 'active', 'paused')
       AND expires_at_us IS NOT NULL
       AND expires_at_us <= :now_us
     LIMIT :count + 0);

-- name: charge_campaign
-- The constraint campaigns_spent_within_budget rejects a total above the budget.
UPDATE credit_campaigns
   SET spent_micro = spent_micro + :total_micro,
       grant_count = grant_count + :new_grants,
       updated_at_us = :now_us
 WHERE id = :campaign_id;

-- name: campaigns_page
-- Newest first. No index covers the type: it has only four values.
SELECT id, name, description, campaign_type, status, budget_micro, spent_micro, grant_formula, grant_config, pool_id,
       per_wallet_cap_micro, starts_at_us, expires_at_us, grant_ttl_seconds, grant_count, created_by, created_at_us, updated_at_us
  FROM credit_campaigns
 WHERE id < :before_id
   AND (:campaign_type IS NULL OR campaign_type = :campaign_type)
 ORDER BY id DESC
 LIMIT :count + 0;

-- name: campaigns_page_by_status
-- A campaign after its end counts as expired, also while its row has another status, except if it is completed.
SELECT id, name, description, campaign_type, status, budget_micro, spent_micro, grant_formula, grant_config, pool_id,
       per_wallet_cap_micro, starts_at_us, expires_at_us, grant_ttl_seconds, grant_count, created_by, created_at_us, updated_at_us
  FROM credit_campaigns
 WHERE status = :status
   AND (status = 'completed' OR expires_at_us IS NULL OR expires_at_us > :now_us)
   AND id < :before_id
   AND (:campaign_type IS NULL OR campaign_type = :campaign_type)
 ORDER BY id DESC
 LIMIT :count + 0;

-- name: campaigns_page_expired
SELECT id, name, description, campaign_type, status, budget_micro, spent_micro, grant_formula, grant_config, pool_id,
       per_wallet_cap_micro, starts_at_us, expires_at_us, grant_ttl_seconds, grant_count, created_by, created_at_us, updated_at_us
  FROM credit_campaigns
 WHERE (status = 'expired' OR (status IN ('draft', 'active', 'paused') AND expires_at_us IS NOT NULL AND expires_at_us <= :now_us))
   AND id < :before_id
   AND (:campaign_type IS NULL OR campaign_type = :campaign_type)
 ORDER BY id DESC
 LIMIT :count + 0;

-- name: grants_of_accounts
-- The grants that the campaign paid to these accounts; :account_ids is a JSON array of keys.
SELECT g.account_id, g.id, g.lot_id, g.amount_micro, g.status
  FROM json_each(:account_ids) j
  CROSS JOIN credit_grants g ON g.campaign_id = :campaign_id AND g.account_id = j.value;

-- name: last_grant
SELECT coalesce(max(id), 0)
  FROM credit_grants;

-- name: insert_grants
INSERT INTO credit_grants (
    id, campaign_id, account_id, lot_id, amount_micro, status, grant_formula, formula_input, created_at_us)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, 'granted', value ->> 5, value ->> 6, value ->> 7
  FROM json_each(:rows);

-- name: grants_page
-- In the order of payment. The index returns each half in that order, so SQLite merges them without a sort.
SELECT g.id, g.campaign_id, g.account_id, a.entity_type, a.entity_id, g.lot_id, g.amount_micro, g.status, g.grant_formula,
       g.formula_input, g.created_at_us, g.revoked_at_us, g.revoked_micro, g.revoke_reason
  FROM credit_grants g
  CROSS JOIN credit_accounts a ON a.id = g.account_id
 WHERE g.campaign_id = :campaign_id
   AND g.status = 'granted'
   AND g.id > :after_id
 UNION ALL
SELECT g.id, g.campaign_id, g.account_id, a.entity_type, a.entity_id, g.lot_id, g.amount_micro, g.status, g.grant_formula,
       g.formula_input, g.created_at_us, g.revoked_at_us, g.revoked_micro, g.revoke_reason
  FROM credit_grants g
  CROSS JOIN credit_accounts a ON a.id = g.account_id
 WHERE g.campaign_id = :campaign_id
   AND g.status = 'revoked'
   AND g.id > :after_id
 ORDER BY 1
 LIMIT :count + 0;

-- name: grants_page_by_status
SELECT g.id, g.campaign_id, g.account_id, a.entity_type, a.entity_id, g.lot_id, g.amount_micro, g.status, g.grant_formula,
       g.formula_input, g.created_at_us, g.revoked_at_us, g.revoked_micro, g.revoke_reason
  FROM credit_grants g
  CROSS JOIN credit_accounts a ON a.id = g.account_id
 WHERE g.campaign_id = :campaign_id
   AND g.status = :status
   AND g.id > :after_id
 ORDER BY g.id
 LIMIT :count + 0;

-- name: grants_page_of_account
-- At most one row.
SELECT g.id, g.campaign_id, g.account_id, a.entity_type, a.entity_id, g.lot_id, g.amount_micro, g.status, g.grant_formula,
       g.formula_input, g.created_at_us, g.revoked_at_us, g.revoked_micro, g.revoke_reason
  FROM credit_grants g
  CROSS JOIN credit_accounts a ON a.id = g.account_id
 WHERE g.campaign_id = :campaign_id
   AND g.account_id = :account_id
   AND g.id > :after_id
   AND (:status IS NULL OR g.status = :status)
 LIMIT :count + 0;

-- name: find_grant
SELECT id, account_id, lot_id, status, revoked_micro, revoked_consumed_micro, revoked_reserved_micro
  FROM credit_grants
 WHERE id = :grant_id
   AND campaign_id = :campaign_id;

-- name: grants_to_revoke
SELECT id, account_id, lot_id
  FROM credit_grants
 WHERE campaign_id = :campaign_id
   AND status = 'granted'
   AND id > :after_id
   AND id <= :until_id
 ORDER BY id
 LIMIT :count + 0;

-- name: revoke_grant
-- The trigger grants_are_revoked_with_their_lots needs the lot to be revoked first.
UPDATE credit_grants
   SET status = 'revoked',
       revoked_at_us = :now_us,
       revoked_micro = :revoked_micro,
       revoked_consumed_micro = :consumed_micro,
       revoked_reserved_micro = :reserved_micro,
       revoke_reason = :reason
 WHERE id = :grant_id;

-- name: revoked_totals
-- The number of revoked grants of a campaign, and the sums of their amounts at the time of revocation.
SELECT grants_revoked, revoked_micro, revoked_consumed_micro, revoked_reserved_micro
  FROM credit_campaign_totals
 WHERE campaign_id = :campaign_id;

-- name: campaign_stats
-- The first row has the totals and no day; each further row is a day. There is no row if the campaign does not exist.
-- Overdue reservations count as released, to lots that may be expired or revoked, and expired lots have nothing available.
-- The cost of both depends on the overdue items, not on the size of the campaign.
WITH overdue AS MATERIALIZED (
    SELECT coalesce(sum(h.reserved_micro), 0) AS returned_micro,
           coalesce(sum(iif(l.revoked_at_us IS NOT NULL, h.reserved_micro, 0)), 0) AS revoked_micro,
           coalesce(sum(iif(l.revoked_at_us IS NULL AND l.expires_at_us <= :now_us, h.reserved_micro, 0)), 0) AS expired_micro
      FROM credit_reservations r
      CROSS JOIN reservation_lots h ON h.reservation_id = r.id
      CROSS JOIN credit_lots l ON l.id = h.lot_id
     WHERE r.status = 'pending'
       AND r.expires_at_us <= :now_us
       AND l.campaign_id = :campaign_id),
expired AS MATERIALIZED (
    SELECT coalesce(sum(available_micro), 0) AS expired_micro
      FROM credit_lots
     WHERE available_micro > 0
       AND expires_at_us IS NOT NULL
       AND expires_at_us <= :now_us
       AND campaign_id = :campaign_id)
SELECT NULL AS day, c.budget_micro, c.spent_micro - o.revoked_micro, c.grant_count, t.grants_revoked, t.granted_micro,
       t.reserved_micro - o.returned_micro, t.expired_micro + o.expired_micro + e.expired_micro, t.spending_accounts
  FROM credit_campaigns c
  JOIN credit_campaign_totals t ON t.campaign_id = c.id
  JOIN overdue o
  JOIN expired e
 WHERE c.id = :campaign_id
 UNION ALL
SELECT day, grants, granted_micro, consumed_micro, NULL, NULL, NULL, NULL, NULL
  FROM credit_campaign_days
 WHERE campaign_id = :campaign_id
 ORDER BY day;
