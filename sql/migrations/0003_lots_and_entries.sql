-- A lot is an amount of credits from one source. Spending draws lots down; src/minibill/ledger/drawdown.py chooses the
-- order. An entry records each change of a lot. The balance of an account's pool is the result of its newest entry.

CREATE TABLE credit_lots (
    id              INTEGER PRIMARY KEY,
    account_id      INTEGER NOT NULL REFERENCES credit_accounts (id),
    pool_id         TEXT NOT NULL
        CONSTRAINT lots_pool_id_is_well_formed
        CHECK (length(pool_id) <= 64 AND pool_id GLOB '[a-z0-9]*' AND pool_id NOT GLOB '*[^a-z0-9:._-]*'),
    source_type     TEXT NOT NULL
        CONSTRAINT lots_source_type_is_known
        CHECK (source_type = 'deposit' OR source_type = 'grant' OR source_type = 'purchase' OR source_type = 'transfer_in'
               OR source_type = 'commons_dividend'),
    -- The id of the external event that paid the lot. NULL: none was given. Lots of grants have none.
    source_id       TEXT
        CONSTRAINT lots_source_id_has_1_to_200_characters CHECK (length(source_id) BETWEEN 1 AND 200),
    -- NULL: the lot is not part of a campaign.
    campaign_id     INTEGER REFERENCES credit_campaigns (id),
    priority        INTEGER NOT NULL CONSTRAINT lots_priority_is_0_to_100 CHECK (priority BETWEEN 0 AND 100),
    original_micro  INTEGER NOT NULL CONSTRAINT lots_original_is_positive CHECK (original_micro > 0),
    available_micro INTEGER NOT NULL CONSTRAINT lots_available_is_not_negative CHECK (available_micro >= 0),
    reserved_micro  INTEGER NOT NULL CONSTRAINT lots_reserved_is_not_negative CHECK (reserved_micro >= 0),
    consumed_micro  INTEGER NOT NULL CONSTRAINT lots_consumed_is_not_negative CHECK (consumed_micro >= 0),
    expired_micro   INTEGER NOT NULL CONSTRAINT lots_expired_is_not_negative CHECK (expired_micro >= 0),
    revoked_micro   INTEGER NOT NULL CONSTRAINT lots_revoked_is_not_negative CHECK (revoked_micro >= 0),
    -- NULL: the lot never expires.
    expires_at_us   INTEGER
        CONSTRAINT lots_expire_after_creation
        CHECK (expires_at_us > created_at_us AND expires_at_us <= 253402300799999999),
    -- NULL: not revoked. Credits that a reservation returns to a revoked lot are revoked as well.
    revoked_at_us   INTEGER
        CONSTRAINT lots_revoked_have_nothing_available CHECK (revoked_at_us IS NULL OR available_micro = 0),
    -- NULL: none was given.
    metadata        TEXT
        CONSTRAINT lots_metadata_is_an_object CHECK (json_valid(metadata) AND json_type(metadata) = 'object'),
    created_at_us   INTEGER NOT NULL,
    CONSTRAINT lots_parts_sum_to_original
        CHECK (original_micro = available_micro + reserved_micro + consumed_micro + expired_micro + revoked_micro),
    CONSTRAINT lots_revoked_have_revocation_time CHECK (revoked_micro = 0 OR revoked_at_us IS NOT NULL)
) STRICT;

-- One external event credits once.
CREATE UNIQUE INDEX lots_source_is_unique ON credit_lots (source_type, source_id) WHERE source_id IS NOT NULL;
CREATE INDEX lots_by_account ON credit_lots (account_id);
-- The drawdown order of a pool. Spent lots are left out and cost nothing; never-expiring lots come last.
CREATE INDEX lots_in_drawdown_order
    ON credit_lots (account_id, pool_id, priority, coalesce(expires_at_us, 9223372036854775807), id)
    WHERE available_micro > 0;
-- Expired lots, for a write that touches one account and for the background sweep.
CREATE INDEX lots_by_account_and_expiry ON credit_lots (account_id, expires_at_us)
    WHERE available_micro > 0 AND expires_at_us IS NOT NULL;
CREATE INDEX lots_by_expiry ON credit_lots (expires_at_us)
    WHERE available_micro > 0 AND expires_at_us IS NOT NULL;

CREATE TRIGGER lots_start_fully_available BEFORE INSERT ON credit_lots
WHEN NEW.available_micro <> NEW.original_micro
BEGIN SELECT RAISE(ABORT, 'lots_start_fully_available'); END;

CREATE TRIGGER lots_terms_are_fixed
BEFORE UPDATE OF id, account_id, pool_id, source_type, source_id, campaign_id, priority, original_micro, expires_at_us,
                 metadata, created_at_us
ON credit_lots
BEGIN SELECT RAISE(ABORT, 'lots_terms_are_fixed'); END;

-- Consumed, expired and revoked credits never return.
CREATE TRIGGER lots_final_parts_never_decrease
BEFORE UPDATE OF consumed_micro, expired_micro, revoked_micro ON credit_lots
WHEN NEW.consumed_micro < OLD.consumed_micro
  OR NEW.expired_micro < OLD.expired_micro
  OR NEW.revoked_micro < OLD.revoked_micro
BEGIN SELECT RAISE(ABORT, 'lots_final_parts_never_decrease'); END;

CREATE TRIGGER lots_are_revoked_once BEFORE UPDATE OF revoked_at_us ON credit_lots
WHEN OLD.revoked_at_us IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'lots_are_revoked_once'); END;

CREATE TRIGGER lots_are_never_deleted BEFORE DELETE ON credit_lots
BEGIN SELECT RAISE(ABORT, 'lots_are_never_deleted'); END;

CREATE TABLE credit_ledger (
    id                    INTEGER PRIMARY KEY,
    account_id            INTEGER NOT NULL REFERENCES credit_accounts (id),
    pool_id               TEXT NOT NULL
        CONSTRAINT entries_pool_id_is_well_formed
        CHECK (length(pool_id) <= 64 AND pool_id GLOB '[a-z0-9]*' AND pool_id NOT GLOB '*[^a-z0-9:._-]*'),
    -- 1, 2, 3 … per account and pool, without gaps.
    entry_seq             INTEGER NOT NULL,
    entry_type            TEXT NOT NULL,
    -- NULL: no credits move. A debt is incurred, or the reservation or charge is a shadow.
    lot_id                INTEGER REFERENCES credit_lots (id),
    -- NULL: the entry belongs to no reservation.
    reservation_id        INTEGER REFERENCES credit_reservations (id),
    -- NULL: the entry belongs to no charge.
    charge_id             INTEGER REFERENCES credit_charges (id),
    amount_micro          INTEGER NOT NULL,
    available_delta_micro INTEGER NOT NULL,
    reserved_delta_micro  INTEGER NOT NULL,
    available_after_micro INTEGER NOT NULL,
    reserved_after_micro  INTEGER NOT NULL,
    -- NULL each: none was given.
    description           TEXT,
    metadata              TEXT
        CONSTRAINT entries_metadata_is_an_object CHECK (json_valid(metadata) AND json_type(metadata) = 'object'),
    created_at_us         INTEGER NOT NULL,
    CONSTRAINT entries_deltas_match_type CHECK (
        CASE entry_type
            WHEN 'deposit' THEN amount_micro > 0 AND available_delta_micro = amount_micro AND reserved_delta_micro = 0
            WHEN 'grant' THEN amount_micro > 0 AND available_delta_micro = amount_micro AND reserved_delta_micro = 0
            WHEN 'reserve' THEN amount_micro < 0 AND available_delta_micro = amount_micro
                                AND reserved_delta_micro = -amount_micro
            WHEN 'release' THEN amount_micro > 0 AND available_delta_micro = amount_micro
                                AND reserved_delta_micro = -amount_micro
            WHEN 'charge' THEN amount_micro < 0 AND available_delta_micro = amount_micro AND reserved_delta_micro = 0
            WHEN 'debt_paid' THEN amount_micro < 0 AND available_delta_micro = amount_micro AND reserved_delta_micro = 0
            WHEN 'debt_incurred' THEN amount_micro < 0 AND available_delta_micro = 0 AND reserved_delta_micro = 0
            WHEN 'shadow_reserve' THEN amount_micro = 0 AND available_delta_micro = 0 AND reserved_delta_micro = 0
            WHEN 'shadow_finalize' THEN amount_micro = 0 AND available_delta_micro = 0 AND reserved_delta_micro = 0
            WHEN 'shadow_charge' THEN amount_micro = 0 AND available_delta_micro = 0 AND reserved_delta_micro = 0
            ELSE (entry_type = 'finalize' OR entry_type = 'expire' OR entry_type = 'revoke')
                 AND amount_micro < 0
                 AND ((available_delta_micro = amount_micro AND reserved_delta_micro = 0)
                      OR (available_delta_micro = 0 AND reserved_delta_micro = amount_micro))
        END),
    CONSTRAINT entries_have_lot_if_credits_move
        CHECK ((lot_id IS NULL)
               = (entry_type = 'debt_incurred' OR entry_type = 'shadow_reserve' OR entry_type = 'shadow_finalize'
                  OR entry_type = 'shadow_charge')),
    CONSTRAINT entries_belong_to_reservation_or_charge
        CHECK (CASE
            WHEN charge_id IS NOT NULL
                THEN reservation_id IS NULL
                     AND (entry_type = 'charge' OR entry_type = 'debt_incurred' OR entry_type = 'shadow_charge')
            WHEN reservation_id IS NOT NULL THEN entry_type <> 'charge' AND entry_type <> 'shadow_charge'
            ELSE entry_type = 'deposit' OR entry_type = 'grant' OR entry_type = 'debt_paid' OR entry_type = 'expire'
                 OR entry_type = 'revoke'
        END)
) STRICT;

-- Numbers, ids and times of a pool have the same order, because times never decrease. src/minibill/ledger/time_lookup.py
-- finds the entry of a moment by bisection. An index by time would cost one more page per account and transaction.
CREATE UNIQUE INDEX entries_one_per_sequence_number ON credit_ledger (account_id, pool_id, entry_seq);
CREATE INDEX entries_of_debts ON credit_ledger (account_id, created_at_us)
    WHERE entry_type IN ('debt_incurred', 'debt_paid');

CREATE TRIGGER entries_are_never_changed BEFORE UPDATE ON credit_ledger
BEGIN SELECT RAISE(ABORT, 'entries_are_never_changed'); END;

CREATE TRIGGER entries_are_never_deleted BEFORE DELETE ON credit_ledger
BEGIN SELECT RAISE(ABORT, 'entries_are_never_deleted'); END;

CREATE TRIGGER entries_times_do_not_decrease BEFORE INSERT ON credit_ledger
WHEN NEW.created_at_us < (SELECT created_at_us FROM credit_ledger ORDER BY id DESC LIMIT 1)
BEGIN SELECT RAISE(ABORT, 'entries_times_do_not_decrease'); END;

-- The balance of an account's pool after its newest entry. The triggers of credit_ledger write it.
CREATE TABLE credit_balances (
    account_id      INTEGER NOT NULL REFERENCES credit_accounts (id),
    pool_id         TEXT NOT NULL,
    available_micro INTEGER NOT NULL CONSTRAINT balances_available_is_not_negative CHECK (available_micro >= 0),
    reserved_micro  INTEGER NOT NULL CONSTRAINT balances_reserved_is_not_negative CHECK (reserved_micro >= 0),
    entry_seq       INTEGER NOT NULL,
    PRIMARY KEY (account_id, pool_id),
    -- A plain sum could overflow.
    CONSTRAINT balances_sum_fits_63_bits CHECK (available_micro <= 9223372036854775807 - reserved_micro)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER entries_create_balance AFTER INSERT ON credit_ledger
WHEN NEW.entry_seq = 1
BEGIN
    INSERT INTO credit_balances (account_id, pool_id, available_micro, reserved_micro, entry_seq)
    VALUES (NEW.account_id, NEW.pool_id, NEW.available_delta_micro, NEW.reserved_delta_micro, 1);
END;

CREATE TRIGGER entries_are_consecutive AFTER INSERT ON credit_ledger
WHEN NEW.entry_seq <> 1
BEGIN
    UPDATE credit_balances
       SET available_micro = available_micro + NEW.available_delta_micro,
           reserved_micro  = reserved_micro + NEW.reserved_delta_micro,
           entry_seq       = entry_seq + 1
     WHERE account_id = NEW.account_id
       AND pool_id = NEW.pool_id;
    -- A pool without a balance has no previous entry.
    SELECT RAISE(ABORT, 'entries_are_consecutive')
     WHERE NOT EXISTS (SELECT 1 FROM credit_balances WHERE account_id = NEW.account_id AND pool_id = NEW.pool_id);
END;

-- The triggers above change a balance by the deltas of an entry. The triggers below compare the result with the entry.
-- Together they reject a gap in the numbers, a wrong resulting balance, and any change of a balance without an entry.
CREATE TRIGGER balances_start_with_first_entry AFTER INSERT ON credit_balances
WHEN NOT EXISTS (
    SELECT 1 FROM credit_ledger e
     WHERE e.account_id = NEW.account_id AND e.pool_id = NEW.pool_id AND e.entry_seq = NEW.entry_seq
       AND e.available_after_micro = NEW.available_micro AND e.reserved_after_micro = NEW.reserved_micro)
BEGIN SELECT RAISE(ABORT, 'balances_start_with_first_entry'); END;

-- Some writes read all pools of an account.
CREATE TRIGGER balances_are_at_most_64_per_account BEFORE INSERT ON credit_balances
WHEN (SELECT count(*) FROM credit_balances WHERE account_id = NEW.account_id) >= 64
BEGIN SELECT RAISE(ABORT, 'balances_are_at_most_64_per_account'); END;

CREATE TRIGGER balances_follow_entries AFTER UPDATE ON credit_balances
WHEN NEW.account_id <> OLD.account_id
  OR NEW.pool_id <> OLD.pool_id
  OR NOT EXISTS (
    SELECT 1 FROM credit_ledger e
     WHERE e.account_id = NEW.account_id AND e.pool_id = NEW.pool_id AND e.entry_seq = NEW.entry_seq
       AND e.available_after_micro = NEW.available_micro AND e.reserved_after_micro = NEW.reserved_micro)
BEGIN SELECT RAISE(ABORT, 'balances_follow_entries'); END;

CREATE TRIGGER balances_are_never_deleted BEFORE DELETE ON credit_balances
BEGIN SELECT RAISE(ABORT, 'balances_are_never_deleted'); END;
