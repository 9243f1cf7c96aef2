-- Idempotency keys and revoked tokens. Their times are service uptimes, which no clock change affects.

-- name: newest_uptime
-- The latest recorded uptime: the next run of the service continues from it.
SELECT max(
    coalesce((SELECT created_at_us FROM idempotency_keys ORDER BY id DESC LIMIT 1), 0),
    coalesce((SELECT max(revoked_at_us) FROM revoked_tokens), 0),
    coalesce((SELECT max(revoked_at_us) FROM revoked_subjects), 0));

-- name: find_key
SELECT fingerprint, status, body
  FROM idempotency_keys
 WHERE caller = :caller
   AND key = :key;

-- name: store_response
INSERT INTO idempotency_keys (caller, key, fingerprint, status, body, created_at_us, checksum)
VALUES (:caller, :key, :fingerprint, :status, :body, :uptime_us, :checksum);

-- name: stored_responses
-- All keys, with the columns that their checksums cover.
SELECT id, caller, key, fingerprint, status, body, created_at_us, checksum
  FROM idempotency_keys;

-- name: prune_keys
-- One slice of the keys that are past their retention. Ids grow with time, so the oldest keys come first. The newest key stays,
-- because ids and the service uptime continue from it.
DELETE FROM idempotency_keys
 WHERE id IN (
    SELECT id
      FROM idempotency_keys
     ORDER BY id
     LIMIT :count + 0)
   AND id < (SELECT max(id) FROM idempotency_keys)
   AND created_at_us < :before_us;

-- name: revoke_token
INSERT INTO revoked_tokens (token_id, revoked_at_us)
VALUES (:token_id, :uptime_us)
ON CONFLICT (token_id) DO UPDATE
   SET revoked_at_us = max(revoked_at_us, excluded.revoked_at_us);

-- name: revoked_tokens
-- The deny list, which the service keeps in memory.
SELECT token_id, revoked_at_us
  FROM revoked_tokens;

-- name: prune_tokens
-- Deletes up to :count rows; the caller repeats it until its slice ends.
DELETE FROM revoked_tokens
 WHERE token_id IN (
    SELECT token_id
      FROM revoked_tokens
     WHERE revoked_at_us < :before_us
     LIMIT :count + 0);

-- name: revoke_subject
-- An earlier time does not replace a later one.
INSERT INTO revoked_subjects (sub, issued_before_us, revoked_at_us)
VALUES (:sub, :issued_before_us, :uptime_us)
ON CONFLICT (sub) DO UPDATE
   SET issued_before_us = max(issued_before_us, excluded.issued_before_us),
       revoked_at_us = max(revoked_at_us, excluded.revoked_at_us)
RETURNING issued_before_us;

-- name: revoked_subjects
SELECT sub, issued_before_us
  FROM revoked_subjects;

-- name: prune_subjects
-- Deletes up to :count rows; the caller repeats it until its slice ends.
DELETE FROM revoked_subjects
 WHERE sub IN (
    SELECT sub
      FROM revoked_subjects
     WHERE revoked_at_us < :before_us
     LIMIT :count + 0);
