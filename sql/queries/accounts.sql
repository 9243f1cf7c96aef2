-- Accounts: opened once per entity, never changed.

-- name: find_account
SELECT id, entity_type, entity_id, created_at_us
  FROM credit_accounts
 WHERE id = :account_id;

-- name: find_account_of_entity
SELECT id, entity_type, entity_id, created_at_us
  FROM credit_accounts
 WHERE entity_id = :entity_id
   AND entity_type = :entity_type;

-- name: account_state
-- Returns the earliest expiry of a lot or pending reservation, past or future (2^63-1 if there is none); 1 if the account has
-- memberships; and the number of pending reservations up to :pending_max, NULL if that is NULL.
SELECT min(coalesce((SELECT l.expires_at_us
                       FROM credit_lots l
                      WHERE l.account_id = a.id
                        AND l.available_micro > 0
                        AND l.expires_at_us IS NOT NULL
                      ORDER BY l.expires_at_us
                      LIMIT 1), 9223372036854775807),
           coalesce((SELECT r.expires_at_us
                       FROM credit_reservations r
                      WHERE r.account_id = a.id
                        AND r.status = 'pending'
                      ORDER BY r.expires_at_us
                      LIMIT 1), 9223372036854775807)),
       EXISTS (SELECT 1 FROM memberships m WHERE m.account_id = a.id),
       iif(:pending_max IS NULL, NULL,
           (SELECT count(*)
              FROM (SELECT 1
                      FROM credit_reservations r
                     WHERE r.account_id = a.id
                       AND r.status = 'pending'
                     LIMIT :pending_max + 0)))
  FROM credit_accounts a
 WHERE a.id = :account_id;

-- name: accounts_with_expiry_due
-- Returns those of :account_ids, a JSON array of keys, with expired lots or overdue reservations.
SELECT j.value
  FROM json_each(:account_ids) j
 WHERE EXISTS (SELECT 1
                 FROM credit_lots l
                WHERE l.account_id = j.value
                  AND l.available_micro > 0
                  AND l.expires_at_us IS NOT NULL
                  AND l.expires_at_us <= :now_us)
    OR EXISTS (SELECT 1
                 FROM credit_reservations r
                WHERE r.account_id = j.value
                  AND r.status = 'pending'
                  AND r.expires_at_us <= :now_us)
 LIMIT :count + 0;

-- name: open_accounts
INSERT INTO credit_accounts (id, entity_type, entity_id, created_at_us)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3
  FROM json_each(:rows);

-- name: existing_accounts
-- :account_ids is a JSON array of keys.
SELECT a.id
  FROM json_each(:account_ids) j
  CROSS JOIN credit_accounts a ON a.id = j.value;

-- name: accounts_of_entities
-- :entities is a JSON array of [entity type, entity id]; returns the index of each entity that has an account.
SELECT j.key, a.id
  FROM json_each(:entities) j
  CROSS JOIN credit_accounts a ON a.entity_id = j.value ->> 1 AND a.entity_type = j.value ->> 0;

-- name: accounts_page
SELECT id, entity_type, entity_id, created_at_us
  FROM credit_accounts
 WHERE id > :after_id
 ORDER BY id
 LIMIT :count + 0;

-- name: accounts_page_by_type
SELECT id, entity_type, entity_id, created_at_us
  FROM credit_accounts
 WHERE entity_type = :entity_type
   AND id > :after_id
 ORDER BY id
 LIMIT :count + 0;

-- name: accounts_page_by_entity_id
-- Seven rows at most, one per entity type.
SELECT id, entity_type, entity_id, created_at_us
  FROM credit_accounts
 WHERE entity_id = :entity_id
   AND (:entity_type IS NULL OR entity_type = :entity_type)
   AND id > :after_id
 ORDER BY id
 LIMIT :count + 0;
