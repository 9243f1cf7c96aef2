-- Webhook endpoints, their delivery progress, and their attempts.

-- name: create_webhook
INSERT INTO webhooks (
    url, types, description, is_enabled, secret_version, rotated_until_us, entry_id, event_id, failing_since_us, revision,
    created_at_us, updated_at_us)
VALUES (:url, :types, :description, 1, 1, NULL, :entry_id, :event_id, NULL, 1, :now_us, :now_us)
RETURNING id;

-- name: find_webhook
SELECT id, url, types, description, is_enabled, secret_version, rotated_until_us, entry_id, event_id, failing_since_us, revision,
       created_at_us, updated_at_us
  FROM webhooks
 WHERE id = :webhook_id;

-- name: webhooks_page
SELECT id, url, types, description, is_enabled, secret_version, rotated_until_us, entry_id, event_id, failing_since_us, revision,
       created_at_us, updated_at_us
  FROM webhooks
 WHERE id > :after_id
 ORDER BY id
 LIMIT :count + 0;

-- name: count_webhooks
SELECT count(*)
  FROM webhooks;

-- name: enabled_webhooks
SELECT id, revision
  FROM webhooks
 WHERE is_enabled;

-- name: edit_webhook
-- An edit restarts the period after which a failing endpoint is disabled.
UPDATE webhooks
   SET url = :url,
       types = :types,
       description = :description,
       is_enabled = :is_enabled,
       failing_since_us = NULL,
       revision = revision + 1,
       updated_at_us = :now_us
 WHERE id = :webhook_id;

-- name: rotate_secret
UPDATE webhooks
   SET secret_version = secret_version + 1,
       rotated_until_us = :until_us,
       revision = revision + 1,
       updated_at_us = :now_us
 WHERE id = :webhook_id;

-- name: rewind_webhook
-- The new revision replaces the worker of the endpoint, also if the position stays.
UPDATE webhooks
   SET entry_id = :entry_id,
       event_id = :event_id,
       revision = revision + 1,
       updated_at_us = :now_us
 WHERE id = :webhook_id;

-- name: delete_accepted
DELETE FROM webhook_accepted
 WHERE webhook_id = :webhook_id;

-- name: insert_replays
INSERT INTO webhook_replays (webhook_id, entry_id, event_id)
VALUES (:webhook_id, :entry_id, :event_id)
    ON CONFLICT DO NOTHING;

-- name: replays_of_webhook
SELECT entry_id, event_id
  FROM webhook_replays
 WHERE webhook_id = :webhook_id
 ORDER BY entry_id, event_id;

-- name: delete_replay
DELETE FROM webhook_replays
 WHERE webhook_id = :webhook_id
   AND entry_id = :entry_id
   AND event_id = :event_id;

-- name: delete_webhook
DELETE FROM webhooks
 WHERE id = :webhook_id;

-- name: accepted_by_webhook
SELECT entry_id, event_id
  FROM webhook_accepted
 WHERE webhook_id = :webhook_id;

-- name: attempts_by_event
-- The number of attempts of each event, and the time of the first, from the attempts that are still stored.
SELECT entry_id, event_id, max(attempt), min(attempted_at_us)
  FROM webhook_attempts
 WHERE webhook_id = :webhook_id
 GROUP BY entry_id, event_id;

-- name: keys_set_aside
-- The accounts and campaigns with events that are set aside.
SELECT DISTINCT line_key
  FROM webhook_set_aside
 WHERE webhook_id = :webhook_id;

-- name: next_set_aside
-- The next events of an account or campaign that are set aside.
SELECT entry_id, event_id
  FROM webhook_set_aside
 WHERE webhook_id = :webhook_id
   AND line_key = :line_key
   AND (entry_id, event_id) > (:entry_id, :event_id)
 ORDER BY entry_id, event_id
 LIMIT :count + 0;

-- name: insert_set_aside
INSERT INTO webhook_set_aside (webhook_id, line_key, entry_id, event_id)
VALUES (:webhook_id, :line_key, :entry_id, :event_id)
    ON CONFLICT DO NOTHING;

-- name: delete_set_aside
DELETE FROM webhook_set_aside
 WHERE webhook_id = :webhook_id
   AND line_key = :line_key
   AND entry_id = :entry_id
   AND event_id = :event_id;

-- name: delete_set_aside_after
-- A replay reads these events from the feed again.
DELETE FROM webhook_set_aside
 WHERE webhook_id = :webhook_id
   AND (entry_id, event_id) > (:entry_id, :event_id);

-- name: insert_accepted
INSERT INTO webhook_accepted (webhook_id, entry_id, event_id)
VALUES (:webhook_id, :entry_id, :event_id);

-- name: delete_accepted_until
DELETE FROM webhook_accepted
 WHERE webhook_id = :webhook_id
   AND (entry_id, event_id) <= (:entry_id, :event_id);

-- name: advance_webhook
-- Returns no row if the endpoint was edited meanwhile; its next worker starts from the row.
UPDATE webhooks
   SET entry_id = :entry_id,
       event_id = :event_id,
       failing_since_us = :failing_since_us
 WHERE id = :webhook_id
   AND revision = :revision
RETURNING id;

-- name: disable_webhook
UPDATE webhooks
   SET is_enabled = 0,
       failing_since_us = :failing_since_us,
       revision = revision + 1,
       updated_at_us = :now_us
 WHERE id = :webhook_id
   AND revision = :revision;

-- name: insert_attempts
INSERT INTO webhook_attempts (
    webhook_id, entry_id, event_id, attempt, outcome, status, error, duration_us, attempted_at_us)
VALUES (:webhook_id, :entry_id, :event_id, :attempt, :outcome, :status, :error, :duration_us, :attempted_at_us);

-- name: prune_attempts
-- Attempts of earlier epochs stay until the current epoch has :kept of its own: ids jump to its base.
DELETE FROM webhook_attempts
 WHERE id <= (SELECT max(id) FROM webhook_attempts) - :kept
   AND (SELECT max(id) FROM webhook_attempts) - :kept >= coalesce((SELECT max(base_id) FROM book_epochs), 0);

-- name: attempts_page
-- Newest first.
SELECT id, entry_id, event_id, attempt, outcome, status, error, duration_us, attempted_at_us
  FROM webhook_attempts
 WHERE webhook_id = :webhook_id
   AND id < :before_id
 ORDER BY id DESC
 LIMIT :count + 0;
