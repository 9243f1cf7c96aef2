-- The last reconciliation.

-- name: made_at
-- When the book was made, by the machine's clock.
SELECT min(applied_at_us)
  FROM schema_migrations;

-- name: last_reconciliation
SELECT reconciled_at_us, report
  FROM reconciliations
 WHERE id = 1;

-- name: record_reconciliation
-- An earlier one does not replace a later one. Without an audit row of its own it keeps the one that was seen before.
INSERT INTO reconciliations (id, reconciled_at_us, report, audit_seq, audit_hash)
VALUES (1, :reconciled_at_us, :report, :audit_seq, :audit_hash)
ON CONFLICT (id) DO UPDATE
   SET reconciled_at_us = excluded.reconciled_at_us,
       report = excluded.report,
       audit_seq = coalesce(excluded.audit_seq, audit_seq),
       audit_hash = coalesce(excluded.audit_hash, audit_hash)
 WHERE excluded.reconciled_at_us >= reconciled_at_us;

-- name: audited_settings
-- The history of the settings of one type of target, target by target; the condition on the action is that of the index.
SELECT target_id, action, details
  FROM admin_audit_log INDEXED BY audit_of_settings
 WHERE action IN ('tiers.replace', 'membership.put', 'membership.delete', 'thresholds.replace', 'campaign.create',
                  'campaign.edit', 'campaign.activate', 'campaign.pause', 'campaign.complete', 'webhook.create',
                  'webhook.edit', 'webhook.rotate_secret', 'webhook.delete', 'token.revoke')
   AND target_type = :target_type
 ORDER BY target_id, seq;

-- name: audited_actions
SELECT action
  FROM admin_audit_log INDEXED BY audit_of_settings
 WHERE action IN ('tiers.replace', 'membership.put', 'membership.delete', 'thresholds.replace', 'campaign.create',
                  'campaign.edit', 'campaign.activate', 'campaign.pause', 'campaign.complete', 'webhook.create',
                  'webhook.edit', 'webhook.rotate_secret', 'webhook.delete', 'token.revoke')
   AND target_type = :target_type
   AND target_id = :target_id;

-- name: tiers_with_positions
SELECT position, tier, rate_bps, max_discount_micro
  FROM discount_tiers
 WHERE community_id = :community_id
 ORDER BY position;

-- name: memberships_of_account
SELECT id, account_id, community_id, tier, expires_at_us
  FROM memberships
 WHERE account_id = :account_id;

-- name: threshold_positions
SELECT position
  FROM thresholds
 WHERE account_id = :account_id
 ORDER BY position;

-- name: revoked_token
SELECT revoked_at_us
  FROM revoked_tokens
 WHERE token_id = :token_id;
