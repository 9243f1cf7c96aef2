-- Events other than ledger entries. The feed shows entries and these events in one order. Entries are not stored a second
-- time.
--
-- The position of an entry in the feed is (its id, 0). The position of an event is (the newest entry at that time, its own
-- id). In an epoch without entries, the base of the epoch takes the place of an entry, so that positions of a new epoch are
-- above all earlier ones. One writer appends and nothing is deleted, so each commit comes after all previous commits.
--
-- Triggers write the events in the transaction of the change. So no change of a campaign, for example, goes without its
-- event.

CREATE TABLE events (
    id             INTEGER PRIMARY KEY,
    -- The newest entry, or the base of the epoch, when the event was written; 0 for none.
    after_entry_id INTEGER NOT NULL,
    type           TEXT NOT NULL
        CONSTRAINT events_type_is_known
        CHECK (type IN ('account.opened', 'campaign.created', 'campaign.edited', 'campaign.activated', 'campaign.paused',
                        'campaign.completed', 'campaign.expired', 'campaign.exhausted', 'debt.forgiven', 'grant.revoked',
                        'threshold.below', 'threshold.recovered')),
    -- NULL each: the event concerns none.
    account_id     INTEGER REFERENCES credit_accounts (id),
    campaign_id    INTEGER REFERENCES credit_campaigns (id),
    -- The row that the event concerns, as it was then, as an object of column names and values. Readers ignore unknown
    -- members, so that a later version can add columns: src/minibill/events/serialization.py.
    data           TEXT NOT NULL
        CONSTRAINT events_data_is_an_object CHECK (json_valid(data) AND json_type(data) = 'object'),
    created_at_us  INTEGER NOT NULL
) STRICT;

-- Finds the events before an entry.
CREATE INDEX events_by_entry ON events (after_entry_id);

-- The end of the feed: the newest entry (or base of the epoch), and the id of the next event. The id is NULL, so that SQLite
-- continues from the newest event, except for the first event of an epoch.
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

-- The data of a campaign's events. Five triggers share it.
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
    SELECT first_event_id, after_entry_id, 'campaign.' || iif(NEW.status = 'active', 'activated', NEW.status), NULL,
           campaign_id, data, updated_at_us
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

-- A payment has an entry. A revocation may have none, if all credits of the grant are consumed or reserved.
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

-- The time is that of the lot that pays the rest of the debt. Its entries come first.
CREATE TRIGGER debts_emit_forgiven_event AFTER UPDATE OF forgiven_lot_id ON credit_debts
WHEN NEW.forgiven_lot_id IS NOT NULL
BEGIN
    INSERT INTO events (id, after_entry_id, type, account_id, campaign_id, data, created_at_us)
    SELECT f.first_event_id, f.after_entry_id, 'debt.forgiven', NEW.account_id, NULL,
           json_object('id', NEW.id, 'account_id', NEW.account_id, 'pool_id', coalesce(r.pool_id, c.pool_id),
                       'reservation_id', NEW.reservation_id, 'charge_id', NEW.charge_id, 'original_micro', NEW.original_micro,
                       'paid_micro', NEW.paid_micro, 'created_at_us', NEW.created_at_us),
           l.created_at_us
      FROM feed_end f
      JOIN credit_lots l
      LEFT JOIN credit_reservations r ON r.id = NEW.reservation_id
      LEFT JOIN credit_charges c ON c.id = NEW.charge_id
     WHERE l.id = NEW.forgiven_lot_id;
END;
