-- Settings and their history in the audit log: integrity/audited_settings.py compares them.

-- name: audited_settings
-- The history of one target type, ordered by target. The conditions on the action match the partial index.
SELECT target_id, action, details
  FROM admin_audit_log INDEXED BY audit_of_settings
 WHERE action <> 'account.mint'
   AND action IN ('tiers.replace', 'membership.put', 'membership.delete', 'thresholds.replace', 'campaign.create',
                  'campaign.edit', 'campaign.activate', 'campaign.pause', 'campaign.complete', 'webhook.create',
                  'webhook.edit', 'webhook.rotate_secret', 'webhook.delete', 'token.revoke', 'debt.forgive')
   AND target_type = :target_type
 ORDER BY target_id, seq;

-- name: audited_actions
SELECT action
  FROM admin_audit_log INDEXED BY audit_of_settings
 WHERE action <> 'account.mint'
   AND action IN ('tiers.replace', 'membership.put', 'membership.delete', 'thresholds.replace', 'campaign.create',
                  'campaign.edit', 'campaign.activate', 'campaign.pause', 'campaign.complete', 'webhook.create',
                  'webhook.edit', 'webhook.rotate_secret', 'webhook.delete', 'token.revoke', 'debt.forgive')
   AND target_type = :target_type
   AND target_id = :target_id;

-- name: tiers_to_compare
SELECT position, tier, rate_bps, max_discount_micro
  FROM discount_tiers
 WHERE community_id = :community_id
 ORDER BY position;

-- name: memberships_to_compare
SELECT community_id, tier, expires_at_us
  FROM memberships
 WHERE account_id = :account_id;

-- name: thresholds_to_compare
SELECT position, pool_id, below_micro, recovered_micro
  FROM thresholds
 WHERE account_id = :account_id
 ORDER BY position;

-- name: campaign_to_compare
SELECT name, description, campaign_type, status, budget_micro, grant_formula, grant_config, pool_id, per_wallet_cap_micro,
       starts_at_us, expires_at_us, grant_ttl_seconds, created_by, created_at_us, updated_at_us
  FROM credit_campaigns
 WHERE id = :campaign_id;

-- name: webhook_to_compare
SELECT url, types, description, is_enabled, secret_version, rotated_until_us, failing_since_us, created_at_us
  FROM webhooks
 WHERE id = :webhook_id;

-- name: revoked_token_to_compare
SELECT revoked_at_us
  FROM revoked_tokens
 WHERE token_id = :token_id;

-- name: revoked_subject_to_compare
SELECT issued_before_us, revoked_at_us
  FROM revoked_subjects
 WHERE sub = :sub;

-- name: forgiven_debt_to_compare
SELECT forgiven_lot_id
  FROM credit_debts
 WHERE id = :debt_id;

-- name: newest_uptime_to_compare
-- The latest recorded uptime. Idempotency keys are in the order of time.
SELECT max(
    coalesce((SELECT created_at_us FROM idempotency_keys ORDER BY id DESC LIMIT 1), 0),
    coalesce((SELECT max(revoked_at_us) FROM revoked_tokens), 0),
    coalesce((SELECT max(revoked_at_us) FROM revoked_subjects), 0));
