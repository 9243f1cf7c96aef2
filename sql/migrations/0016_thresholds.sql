-- A threshold emits an event when the available credits of an account's pool fall below an amount, and when they recover. A
-- request replaces all thresholds of an account.
CREATE TABLE thresholds (
    account_id      INTEGER NOT NULL REFERENCES credit_accounts (id),
    pool_id         TEXT NOT NULL
        CONSTRAINT thresholds_pool_id_is_well_formed
        CHECK (length(pool_id) <= 64 AND pool_id GLOB '[a-z0-9]*' AND pool_id NOT GLOB '*[^a-z0-9:._-]*'),
    below_micro     INTEGER NOT NULL CONSTRAINT thresholds_below_is_positive CHECK (below_micro > 0),
    -- The amount at which the threshold recovers. A higher one avoids an event for each small change around below_micro.
    recovered_micro INTEGER NOT NULL
        CONSTRAINT thresholds_recovered_is_at_least_below CHECK (recovered_micro >= below_micro),
    position        INTEGER NOT NULL
        CONSTRAINT thresholds_are_at_most_20_per_account CHECK (position BETWEEN 1 AND 20),
    -- 1: the credits fell below and have not recovered yet.
    is_below        INTEGER NOT NULL CONSTRAINT thresholds_is_below_is_0_or_1 CHECK (is_below IN (0, 1)),
    PRIMARY KEY (account_id, pool_id, below_micro)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX thresholds_one_per_position ON thresholds (account_id, position);
-- For SQLite's integrity check.
CREATE INDEX thresholds_integrity_copy ON thresholds (account_id, position, recovered_micro, is_below);

-- SQLite checks each entry, so that the event follows directly after the entry that crosses the threshold.
CREATE TRIGGER thresholds_emit_crossing AFTER INSERT ON credit_ledger
WHEN NEW.available_delta_micro <> 0
 AND EXISTS (
    SELECT 1 FROM thresholds
     WHERE account_id = NEW.account_id AND pool_id = NEW.pool_id
       AND iif(is_below, NEW.available_after_micro >= recovered_micro, NEW.available_after_micro < below_micro))
BEGIN
    -- In the order of crossing: the highest threshold first on the way down, the lowest first on the way up.
    INSERT INTO events (id, after_entry_id, type, account_id, campaign_id, data, created_at_us)
    SELECT CASE row_number() OVER (ORDER BY iif(is_below, recovered_micro, -below_micro))
               WHEN 1 THEN (SELECT first_event_id FROM feed_end)
           END,
           NEW.id, iif(is_below, 'threshold.recovered', 'threshold.below'), account_id, NULL,
           json_object('account_id', account_id, 'pool_id', pool_id, 'below_micro', below_micro,
                       'recovered_micro', recovered_micro, 'is_below', 1 - is_below,
                       'available_micro', NEW.available_after_micro),
           NEW.created_at_us
      FROM thresholds
     WHERE account_id = NEW.account_id
       AND pool_id = NEW.pool_id
       AND iif(is_below, NEW.available_after_micro >= recovered_micro, NEW.available_after_micro < below_micro)
     ORDER BY iif(is_below, recovered_micro, -below_micro);
    UPDATE thresholds
       SET is_below = 1 - is_below
     WHERE account_id = NEW.account_id
       AND pool_id = NEW.pool_id
       AND iif(is_below, NEW.available_after_micro >= recovered_micro, NEW.available_after_micro < below_micro);
END;
