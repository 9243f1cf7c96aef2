-- Tiers of communities, and memberships of accounts.

-- name: tiers_of_community
-- In the order of the request that set them.
SELECT tier, rate_bps, max_discount_micro
  FROM discount_tiers
 WHERE community_id = :community_id
 ORDER BY position;

-- name: find_tier
SELECT tier
  FROM discount_tiers
 WHERE community_id = :community_id
   AND tier = :tier;

-- name: delete_tiers
DELETE FROM discount_tiers
 WHERE community_id = :community_id;

-- name: insert_tiers
INSERT INTO discount_tiers (community_id, tier, position, rate_bps, max_discount_micro)
VALUES (:community_id, :tier, :position, :rate_bps, :max_discount_micro);

-- name: find_membership
SELECT tier, expires_at_us
  FROM memberships
 WHERE account_id = :account_id
   AND community_id = :community_id;

-- name: insert_membership
INSERT INTO memberships (account_id, community_id, tier, expires_at_us)
VALUES (:account_id, :community_id, :tier, :expires_at_us);

-- name: update_membership
UPDATE memberships
   SET tier = :tier,
       expires_at_us = :expires_at_us
 WHERE account_id = :account_id
   AND community_id = :community_id;

-- name: delete_membership
DELETE FROM memberships
 WHERE account_id = :account_id
   AND community_id = :community_id;

-- name: memberships_page
-- In the order of creation.
SELECT id, account_id, community_id, tier, expires_at_us
  FROM memberships
 WHERE account_id = :account_id
   AND id > :after_id
 ORDER BY id
 LIMIT :count + 0;

-- name: memberships_with_terms
-- All memberships of an account, with the current discount of their tiers. The rate is NULL if the community removed the tier.
SELECT m.community_id, m.tier, m.expires_at_us, t.rate_bps, t.max_discount_micro
  FROM memberships m
  LEFT JOIN discount_tiers t ON t.community_id = m.community_id AND t.tier = m.tier
 WHERE m.account_id = :account_id
 ORDER BY m.community_id;

-- name: memberships_of_accounts
-- Like memberships_with_terms, for several accounts. :account_ids is a JSON array of keys.
SELECT m.account_id, m.community_id, m.tier, m.expires_at_us, t.rate_bps, t.max_discount_micro
  FROM json_each(:account_ids) j
  CROSS JOIN memberships m ON m.account_id = j.value
  LEFT JOIN discount_tiers t ON t.community_id = m.community_id AND t.tier = m.tier
 ORDER BY m.account_id, m.community_id;
