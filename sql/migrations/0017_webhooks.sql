-- Webhooks: endpoints that receive the events of the feed, their progress, and the latest delivery attempts.
--
-- The database holds no secrets. src/minibill/webhooks/signing.py derives a secret from a setting, the webhook's id and its
-- secret version. Therefore no id is used twice; a new epoch raises the counter in sqlite_sequence.

CREATE TABLE webhooks (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    url               TEXT NOT NULL
        CONSTRAINT webhooks_url_has_1_to_2000_characters CHECK (length(url) BETWEEN 1 AND 2000),
    -- NULL: all types.
    types             TEXT
        CONSTRAINT webhooks_types_are_an_array CHECK (json_valid(types) AND json_type(types) = 'array'),
    -- NULL: none was given.
    description       TEXT
        CONSTRAINT webhooks_description_has_at_most_500_characters CHECK (length(description) <= 500),
    is_enabled        INTEGER NOT NULL CONSTRAINT webhooks_is_enabled_is_0_or_1 CHECK (is_enabled IN (0, 1)),
    secret_version    INTEGER NOT NULL CONSTRAINT webhooks_secret_version_is_positive CHECK (secret_version > 0),
    -- Until then the previous secret signs as well. NULL: it does not. All times here except created and updated are
    -- wall-clock times.
    rotated_until_us  INTEGER,
    -- The position in the feed up to which every event was accepted or set aside. webhook_accepted has accepted events
    -- beyond it.
    entry_id          INTEGER NOT NULL,
    event_id          INTEGER NOT NULL,
    -- The time since which every attempt has failed. NULL: the last attempt succeeded.
    failing_since_us  INTEGER,
    -- Counts changes by requests. The dispatcher restarts delivery when it changes.
    revision          INTEGER NOT NULL,
    created_at_us     INTEGER NOT NULL,
    updated_at_us     INTEGER NOT NULL
) STRICT;

-- For SQLite's integrity check: the requested settings. A wrong position would only repeat or skip deliveries.
CREATE INDEX webhooks_integrity_copy
    ON webhooks (url, types, description, is_enabled, secret_version, rotated_until_us, revision, created_at_us, updated_at_us);

-- Each webhook takes memory and connections.
CREATE TRIGGER webhooks_are_at_most_20 BEFORE INSERT ON webhooks
WHEN (SELECT count(*) FROM webhooks) >= 20
BEGIN SELECT RAISE(ABORT, 'webhooks_are_at_most_20'); END;

-- Accepted events beyond the position of their webhook. A rejected event delays only its own account.
CREATE TABLE webhook_accepted (
    webhook_id INTEGER NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    entry_id   INTEGER NOT NULL,
    event_id   INTEGER NOT NULL,
    PRIMARY KEY (webhook_id, entry_id, event_id)
) STRICT, WITHOUT ROWID;

-- A rejected event, and the later events of the same account or campaign, which wait for it. The position of the webhook
-- moves past them, so that they delay no other account. They are sent in the order of the feed.
CREATE TABLE webhook_set_aside (
    webhook_id INTEGER NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    -- The id of the account, or of the campaign for an event without an account.
    line_key   TEXT NOT NULL,
    entry_id   INTEGER NOT NULL,
    event_id   INTEGER NOT NULL,
    PRIMARY KEY (webhook_id, line_key, entry_id, event_id)
) STRICT, WITHOUT ROWID;

-- Single events to send again, out of order.
CREATE TABLE webhook_replays (
    webhook_id INTEGER NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    entry_id   INTEGER NOT NULL,
    event_id   INTEGER NOT NULL,
    PRIMARY KEY (webhook_id, entry_id, event_id)
) STRICT, WITHOUT ROWID;

-- The latest delivery attempts of all webhooks. Older ones are pruned.
CREATE TABLE webhook_attempts (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook_id      INTEGER NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    entry_id        INTEGER NOT NULL,
    event_id        INTEGER NOT NULL,
    attempt         INTEGER NOT NULL CONSTRAINT webhook_attempts_count_from_1 CHECK (attempt >= 1),
    outcome         TEXT NOT NULL
        CONSTRAINT webhook_attempts_outcome_is_known CHECK (outcome IN ('accepted', 'failed', 'abandoned')),
    -- The HTTP status. NULL: no response.
    status          INTEGER,
    -- NULL: it was accepted.
    error           TEXT,
    duration_us     INTEGER NOT NULL,
    attempted_at_us INTEGER NOT NULL
) STRICT;

CREATE INDEX webhook_attempts_by_webhook ON webhook_attempts (webhook_id);
