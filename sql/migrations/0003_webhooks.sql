-- Webhooks: who is sent the events of the feed, how far each has come, and what became of the last attempts.
--
-- No secret is here: it is derived from a setting, the webhook's id and its version (src/minibill/webhooks/signing.py). That
-- is why an id is never given a second time. A new epoch moves what SQLite counts in sqlite_sequence.

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
    -- Until then the version before signs too; NULL: it does not. By the real clock, as all times here but created and updated.
    rotated_until_us  INTEGER,
    -- The place in the feed up to which all was accepted; what was accepted beyond it is in webhook_accepted.
    entry_id          INTEGER NOT NULL,
    event_id          INTEGER NOT NULL,
    -- Since when every attempt has failed; NULL: the last one did not.
    failing_since_us  INTEGER,
    -- Counts what is changed here on request, so that whoever delivers begins anew.
    revision          INTEGER NOT NULL,
    created_at_us     INTEGER NOT NULL,
    updated_at_us     INTEGER NOT NULL
) STRICT;

-- What was asked for, once more. How far each has come is not: of a place that is wrong some events are sent again, or not.
CREATE INDEX webhooks_integrity_copy
    ON webhooks (url, types, description, is_enabled, secret_version, rotated_until_us, revision, created_at_us, updated_at_us);

-- Each has a place in memory and connections of its own.
CREATE TRIGGER webhooks_are_at_most_20 BEFORE INSERT ON webhooks
WHEN (SELECT count(*) FROM webhooks) >= 20
BEGIN SELECT RAISE(ABORT, 'webhooks_are_at_most_20'); END;

-- Events beyond the place of a webhook that it has accepted: an account that it refuses does not hold up the others.
CREATE TABLE webhook_accepted (
    webhook_id INTEGER NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    entry_id   INTEGER NOT NULL,
    event_id   INTEGER NOT NULL,
    PRIMARY KEY (webhook_id, entry_id, event_id)
) STRICT, WITHOUT ROWID;

-- Events that wait behind a rejected event of the same account or campaign, and that rejected event itself. The place of their
-- webhook is beyond them, so that they delay no other account. They are sent in the order of the feed.
CREATE TABLE webhook_set_aside (
    webhook_id INTEGER NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    -- The id of the account, or of the campaign for an event without an account.
    line_key   TEXT NOT NULL,
    entry_id   INTEGER NOT NULL,
    event_id   INTEGER NOT NULL,
    PRIMARY KEY (webhook_id, line_key, entry_id, event_id)
) STRICT, WITHOUT ROWID;

-- Single events that are to be sent once more, out of their order.
CREATE TABLE webhook_replays (
    webhook_id INTEGER NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    entry_id   INTEGER NOT NULL,
    event_id   INTEGER NOT NULL,
    PRIMARY KEY (webhook_id, entry_id, event_id)
) STRICT, WITHOUT ROWID;

-- The last attempts to deliver, of all webhooks; older ones are forgotten.
CREATE TABLE webhook_attempts (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook_id      INTEGER NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    entry_id        INTEGER NOT NULL,
    event_id        INTEGER NOT NULL,
    attempt         INTEGER NOT NULL CONSTRAINT webhook_attempts_count_from_1 CHECK (attempt >= 1),
    outcome         TEXT NOT NULL
        CONSTRAINT webhook_attempts_outcome_is_known CHECK (outcome IN ('accepted', 'failed', 'abandoned')),
    -- NULL: there was no answer.
    status          INTEGER,
    -- NULL: it was accepted.
    error           TEXT,
    duration_us     INTEGER NOT NULL,
    attempted_at_us INTEGER NOT NULL
) STRICT;

CREATE INDEX webhook_attempts_by_webhook ON webhook_attempts (webhook_id);
