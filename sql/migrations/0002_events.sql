-- Thresholds of accounts, and what happened besides the entries.
--
-- The entries of the ledger are events by themselves and are not written a second time: the feed is both tables in one order.
-- The place of an entry is (its id, 0), that of a row of `events` is (the newest entry when it was written, its id). Until an
-- epoch has an entry, its base stands for one, so that places of a new epoch come after all places of the one before. There is
-- one writer and nothing is ever taken out, so whatever is committed comes after all that was committed before.
--
-- Triggers write the rows, in the transaction of what they tell of: no way to change a campaign leaves its event out.

-- -------------------------------------------------------------------------------------------------------- thresholds --

-- When somebody wants to hear of the available credits of an account's pool. The thresholds of an account are replaced as a
-- whole.
CREATE TABLE thresholds (
    account_id      INTEGER NOT NULL REFERENCES credit_accounts (id),
    pool_id         TEXT NOT NULL
        CONSTRAINT thresholds_pool_id_is_well_formed
        CHECK (length(pool_id) <= 64 AND pool_id GLOB '[a-z0-9]*' AND pool_id NOT GLOB '*[^a-z0-9:._-]*'),
    below_micro     INTEGER NOT NULL CONSTRAINT thresholds_below_is_positive CHECK (below_micro > 0),
    -- It is crossed back only here, so that credits that come and go around one mark are not told of each time.
    recovered_micro INTEGER NOT NULL
        CONSTRAINT thresholds_recovered_is_at_least_below CHECK (recovered_micro >= below_micro),
    position        INTEGER NOT NULL
        CONSTRAINT thresholds_are_at_most_20_per_account CHECK (position BETWEEN 1 AND 20),
    -- 1: it was crossed downwards and not yet back.
    is_below        INTEGER NOT NULL CONSTRAINT thresholds_is_below_is_0_or_1 CHECK (is_below IN (0, 1)),
    PRIMARY KEY (account_id, pool_id, below_micro)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX thresholds_one_per_position ON thresholds (account_id, position);

-- What follows from nothing else, once more.
CREATE INDEX thresholds_integrity_copy ON thresholds (account_id, position, recovered_micro, is_below);

-- ------------------------------------------------------------------------------------------------------------ events --

CREATE TABLE events (
    id             INTEGER PRIMARY KEY,
    -- The newest entry of the ledger, or base of an epoch, when it was written; 0: there was none.
    after_entry_id INTEGER NOT NULL,
    type           TEXT NOT NULL
        CONSTRAINT events_type_is_known
        CHECK (type IN ('account.opened', 'campaign.created', 'campaign.edited', 'campaign.activated', 'campaign.paused',
                        'campaign.completed', 'campaign.expired', 'campaign.exhausted', 'debt.forgiven', 'grant.revoked',
                        'threshold.below', 'threshold.recovered')),
    -- NULL each: it is about none.
    account_id     INTEGER REFERENCES credit_accounts (id),
    campaign_id    INTEGER REFERENCES credit_campaigns (id),
    -- The row that the event is about, as it was then: an object of column names and values. A reader takes the members that it
    -- knows, so a later version may add columns: src/minibill/events/serialization.py.
    data           TEXT NOT NULL
        CONSTRAINT events_data_is_an_object CHECK (json_valid(data) AND json_type(data) = 'object'),
    created_at_us  INTEGER NOT NULL
) STRICT;

-- Which events come before an entry.
CREATE INDEX events_by_entry ON events (after_entry_id);

-- What the next row of `events` comes after, and its id. That is NULL, for SQLite's own choice, except for the first event of
-- an epoch.
CREATE VIEW feed_end AS
SELECT max(coalesce((SELECT max(id) FROM credit_ledger), 0), coalesce((SELECT max(base_id) FROM book_epochs), 0))
           AS after_entry_id,
       (SELECT max(b.base_id) + 1 FROM book_epochs b WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.id > b.base_id))
           AS first_event_id;

CREATE TRIGGER events_are_in_feed_order AFTER INSERT ON events
WHEN NEW.after_entry_id <> (SELECT after_entry_id FROM feed_end)
  OR NEW.id <> (SELECT max(id) FROM events)
  OR NEW.id <= (SELECT max(base_id) FROM book_epochs)
BEGIN SELECT RAISE(ABORT, 'events_are_in_feed_order'); END;

CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events_are_never_changed'); END;

CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events_are_never_deleted'); END;

CREATE TRIGGER accounts_emit_opened_event AFTER INSERT ON credit_accounts
BEGIN
    INSERT INTO events (id, after_entry_id, type, account_id, campaign_id, data, created_at_us)
    SELECT first_event_id, after_entry_id, 'account.opened', NEW.id, NULL,
           json_object('id', NEW.id, 'entity_type', NEW.entity_type, 'entity_id', NEW.entity_id,
                       'created_at_us', NEW.created_at_us),
           NEW.created_at_us
      FROM feed_end;
END;

-- Campaigns as their events tell of them.
CREATE VIEW campaign_event_data AS
SELECT id AS campaign_id,
       first_event_id,
       after_entry_id,
       json_object('id', id, 'name', name, 'description', description, 'campaign_type', campaign_type, 'status', status,
                   'budget_micro', budget_micro, 'spent_micro', spent_micro, 'grant_formula', grant_formula,
                   'grant_config', grant_config, 'pool_id', pool_id, 'per_wallet_cap_micro', per_wallet_cap_micro,
                   'starts_at_us', starts_at_us, 'expires_at_us', expires_at_us, 'grant_ttl_seconds', grant_ttl_seconds,
                   'grant_count', grant_count, 'created_by', created_by, 'created_at_us', created_at_us,
                   'updated_at_us', updated_at_us) AS data,
       updated_at_us
  FROM credit_campaigns
  JOIN feed_end;

CREATE TRIGGER campaigns_emit_created_event AFTER INSERT ON credit_campaigns
BEGIN
    INSERT INTO events (id, after_entry_id, type, account_id, campaign_id, data, created_at_us)
    SELECT first_event_id, after_entry_id, 'campaign.created', NULL, campaign_id, data, updated_at_us
      FROM campaign_event_data
     WHERE campaign_id = NEW.id;
END;

CREATE TRIGGER campaigns_emit_edited_event
AFTER UPDATE OF name, description, campaign_type, budget_micro, grant_formula, grant_config, pool_id, per_wallet_cap_micro,
                starts_at_us, expires_at_us, grant_ttl_seconds
ON credit_campaigns
WHEN OLD.name <> NEW.name
  OR OLD.description IS NOT NEW.description
  OR OLD.campaign_type <> NEW.campaign_type
  OR OLD.budget_micro <> NEW.budget_micro
  OR OLD.grant_formula <> NEW.grant_formula
  OR OLD.grant_config IS NOT NEW.grant_config
  OR OLD.pool_id <> NEW.pool_id
  OR OLD.per_wallet_cap_micro <> NEW.per_wallet_cap_micro
  OR OLD.starts_at_us IS NOT NEW.starts_at_us
  OR OLD.expires_at_us IS NOT NEW.expires_at_us
  OR OLD.grant_ttl_seconds IS NOT NEW.grant_ttl_seconds
BEGIN
    INSERT INTO events (id, after_entry_id, type, account_id, campaign_id, data, created_at_us)
    SELECT first_event_id, after_entry_id, 'campaign.edited', NULL, campaign_id, data, updated_at_us
      FROM campaign_event_data
     WHERE campaign_id = NEW.id;
END;

CREATE TRIGGER campaigns_emit_status_event AFTER UPDATE OF status ON credit_campaigns
WHEN OLD.status <> NEW.status
BEGIN
    INSERT INTO events (id, after_entry_id, type, account_id, campaign_id, data, created_at_us)
    SELECT first_event_id, after_entry_id, 'campaign.' || iif(NEW.status = 'active', 'activated', NEW.status), NULL, campaign_id, data,
           updated_at_us
      FROM campaign_event_data
     WHERE campaign_id = NEW.id;
END;

CREATE TRIGGER campaigns_emit_exhausted_event AFTER UPDATE OF spent_micro, budget_micro ON credit_campaigns
WHEN NEW.spent_micro = NEW.budget_micro
 AND OLD.spent_micro < OLD.budget_micro
BEGIN
    INSERT INTO events (id, after_entry_id, type, account_id, campaign_id, data, created_at_us)
    SELECT first_event_id, after_entry_id, 'campaign.exhausted', NULL, campaign_id, data, updated_at_us
      FROM campaign_event_data
     WHERE campaign_id = NEW.id;
END;

-- A grant that is made has its entry. One that is revoked may have none: when all of it is consumed or reserved.
CREATE TRIGGER grants_emit_revoked_event AFTER UPDATE OF status ON credit_grants
WHEN NEW.status = 'revoked'
BEGIN
    INSERT INTO events (id, after_entry_id, type, account_id, campaign_id, data, created_at_us)
    SELECT first_event_id, after_entry_id, 'grant.revoked', NEW.account_id, NEW.campaign_id,
           json_object('id', NEW.id, 'campaign_id', NEW.campaign_id, 'account_id', NEW.account_id,
                       'entity_type', a.entity_type, 'entity_id', a.entity_id, 'lot_id', NEW.lot_id,
                       'amount_micro', NEW.amount_micro, 'status', NEW.status, 'grant_formula', NEW.grant_formula,
                       'formula_input', NEW.formula_input, 'created_at_us', NEW.created_at_us,
                       'revoked_at_us', NEW.revoked_at_us, 'revoked_micro', NEW.revoked_micro,
                       'revoke_reason', NEW.revoke_reason),
           NEW.revoked_at_us
      FROM feed_end
      JOIN credit_accounts a ON a.id = NEW.account_id;
END;

-- After the entries of the lot that writes it off.
CREATE TRIGGER debts_emit_forgiven_event AFTER UPDATE OF forgiven_lot_id ON credit_debts
WHEN NEW.forgiven_lot_id IS NOT NULL
BEGIN
    INSERT INTO events (id, after_entry_id, type, account_id, campaign_id, data, created_at_us)
    SELECT first_event_id, after_entry_id, 'debt.forgiven', NEW.account_id, NULL,
           json_object('id', NEW.id, 'account_id', NEW.account_id, 'pool_id', r.pool_id,
                       'reservation_id', NEW.reservation_id, 'original_micro', NEW.original_micro,
                       'paid_micro', NEW.paid_micro, 'created_at_us', NEW.created_at_us),
           l.created_at_us
      FROM feed_end
      JOIN credit_lots l
      JOIN credit_reservations r ON r.id = NEW.reservation_id
     WHERE l.id = NEW.forgiven_lot_id;
END;

-- Judged entry by entry: the event comes right after the entry that crosses. Almost all accounts have no threshold, so what an
-- entry costs is the search that finds none: 0.3 µs.
-- What is to be told of an entry that crosses a threshold. A view with a trigger, and not a part of the trigger on the entries:
-- SQLite lays out and clears memory for all of a trigger each time that it looks at its WHEN, which was a tenth of an entry.
CREATE VIEW thresholds_crossed AS
SELECT account_id, pool_id, 0 AS entry_id, 0 AS available_micro, 0 AS created_at_us
  FROM thresholds;

CREATE TRIGGER thresholds_emit_crossing INSTEAD OF INSERT ON thresholds_crossed
BEGIN
    -- The first that is crossed comes first: the highest on the way down, the lowest on the way up.
    INSERT INTO events (id, after_entry_id, type, account_id, campaign_id, data, created_at_us)
    SELECT CASE row_number() OVER (ORDER BY iif(is_below, recovered_micro, -below_micro))
               WHEN 1 THEN (SELECT first_event_id FROM feed_end)
           END,
           NEW.entry_id, iif(is_below, 'threshold.recovered', 'threshold.below'), account_id, NULL,
           json_object('account_id', account_id, 'pool_id', pool_id, 'below_micro', below_micro,
                       'recovered_micro', recovered_micro, 'is_below', 1 - is_below,
                       'available_micro', NEW.available_micro),
           NEW.created_at_us
      FROM thresholds
     WHERE account_id = NEW.account_id
       AND pool_id = NEW.pool_id
       AND iif(is_below, NEW.available_micro >= recovered_micro, NEW.available_micro < below_micro)
     ORDER BY iif(is_below, recovered_micro, -below_micro);
    UPDATE thresholds
       SET is_below = 1 - is_below
     WHERE account_id = NEW.account_id
       AND pool_id = NEW.pool_id
       AND iif(is_below, NEW.available_micro >= recovered_micro, NEW.available_micro < below_micro);
END;

CREATE TRIGGER entries_check_thresholds AFTER INSERT ON credit_ledger
WHEN NEW.available_delta_micro <> 0
 AND EXISTS (
    SELECT 1 FROM thresholds
     WHERE account_id = NEW.account_id AND pool_id = NEW.pool_id
       AND iif(is_below, NEW.available_after_micro >= recovered_micro, NEW.available_after_micro < below_micro))
BEGIN
    INSERT INTO thresholds_crossed (account_id, pool_id, entry_id, available_micro, created_at_us)
    VALUES (NEW.account_id, NEW.pool_id, NEW.id, NEW.available_after_micro, NEW.created_at_us);
END;
