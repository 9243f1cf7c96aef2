-- Generated from sql/migrations by `make schema`: what a database of this version holds.

CREATE TABLE schema_migrations (
    version       INTEGER PRIMARY KEY,
    name          TEXT NOT NULL,
    checksum      TEXT NOT NULL,
    applied_at_us INTEGER NOT NULL
) STRICT;

CREATE TABLE book_epochs (
    base_id      INTEGER PRIMARY KEY,
    number       INTEGER NOT NULL,
    reason       TEXT NOT NULL
        CONSTRAINT epochs_reason_is_known CHECK (reason IN ('restored', 'loss_accepted', 'anchor_missing')),
    -- Wall-clock time.
    began_at_us  INTEGER NOT NULL,
    -- The newest id of each table when the epoch began; 0 for an empty table. No row has an id between it and the base.
    accounts     INTEGER NOT NULL,
    lots         INTEGER NOT NULL,
    reservations INTEGER NOT NULL,
    charges      INTEGER NOT NULL,
    debts        INTEGER NOT NULL,
    entries      INTEGER NOT NULL,
    campaigns    INTEGER NOT NULL,
    grants       INTEGER NOT NULL,
    events       INTEGER NOT NULL,
    CONSTRAINT epochs_start_above_every_id
        CHECK (base_id > max(accounts, lots, reservations, charges, debts, entries, campaigns, grants, events))
) STRICT;

CREATE TRIGGER epochs_are_consecutive BEFORE INSERT ON book_epochs
WHEN NEW.number <= coalesce((SELECT max(number) FROM book_epochs), 1)
  OR NEW.base_id <= coalesce((SELECT max(base_id) FROM book_epochs), 0)
BEGIN SELECT RAISE(ABORT, 'epochs_are_consecutive'); END;

CREATE TRIGGER epochs_are_never_changed BEFORE UPDATE ON book_epochs
BEGIN SELECT RAISE(ABORT, 'epochs_are_never_changed'); END;

CREATE TRIGGER epochs_are_never_deleted BEFORE DELETE ON book_epochs
BEGIN SELECT RAISE(ABORT, 'epochs_are_never_deleted'); END;

CREATE VIEW ids_skipped AS
SELECT base_id,
       base_id - max(before_id, accounts) AS accounts,
       base_id - max(before_id, lots) AS lots,
       base_id - max(before_id, reservations) AS reservations,
       base_id - max(before_id, charges) AS charges,
       base_id - max(before_id, entries) AS entries,
       base_id - max(before_id, campaigns) AS campaigns,
       base_id - max(before_id, grants) AS grants,
       base_id - max(before_id, events) AS events
  FROM (SELECT base_id, accounts, lots, reservations, charges, entries, campaigns, grants, events,
               lag(base_id, 1, 0) OVER (ORDER BY base_id) AS before_id
          FROM book_epochs);

CREATE TABLE credit_accounts (
    id            INTEGER PRIMARY KEY,
    entity_type   TEXT NOT NULL
        CONSTRAINT accounts_entity_type_is_known
        CHECK (entity_type IN ('agent', 'person', 'community', 'mod', 'protocol', 'foundation', 'commons')),
    entity_id     TEXT NOT NULL
        CONSTRAINT accounts_entity_id_has_1_to_200_characters CHECK (length(entity_id) BETWEEN 1 AND 200)
        CONSTRAINT accounts_entity_id_has_single_inner_spaces
        CHECK (entity_id = trim(entity_id) AND instr(entity_id, '  ') = 0)
        -- No control, format or private-use characters, and no white space except U+0020. src/minibill/core/entity_ids.py
        -- rejects unassigned characters as well. The first pattern is a shortcut: most ids are printable ASCII, and SQLite
        -- builds the second pattern for each row.
        CONSTRAINT accounts_entity_id_is_visible CHECK (entity_id NOT GLOB '*[^ -~]*' OR entity_id NOT GLOB
            '*[' || char(1, 45, 31, 127, 45, 160, 173, 5760, 8192, 45, 8207, 8232, 45, 8239, 8287, 45, 8303, 12288,
                         57344, 45, 63743, 65279, 65529, 45, 65531, 917504, 45, 917759, 918000, 45, 1114111) || ']*')
        CONSTRAINT accounts_evm_address_is_in_lower_case
        CHECK (length(entity_id) <> 42 OR entity_id = lower(entity_id) OR entity_id NOT GLOB '0[xX]*'
               OR substr(entity_id, 3) GLOB '*[^0-9a-fA-F]*'),
    created_at_us INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX accounts_one_per_entity ON credit_accounts (entity_id, entity_type);

CREATE INDEX accounts_by_type ON credit_accounts (entity_type);

CREATE TRIGGER accounts_are_never_changed BEFORE UPDATE ON credit_accounts
BEGIN SELECT RAISE(ABORT, 'accounts_are_never_changed'); END;

CREATE TRIGGER accounts_are_never_deleted BEFORE DELETE ON credit_accounts
BEGIN SELECT RAISE(ABORT, 'accounts_are_never_deleted'); END;

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

CREATE UNIQUE INDEX lots_source_is_unique ON credit_lots (source_type, source_id) WHERE source_id IS NOT NULL;

CREATE INDEX lots_by_account ON credit_lots (account_id);

CREATE INDEX lots_in_drawdown_order
    ON credit_lots (account_id, pool_id, priority, coalesce(expires_at_us, 9223372036854775807), id)
    WHERE available_micro > 0;

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

CREATE TRIGGER balances_start_with_first_entry AFTER INSERT ON credit_balances
WHEN NOT EXISTS (
    SELECT 1 FROM credit_ledger e
     WHERE e.account_id = NEW.account_id AND e.pool_id = NEW.pool_id AND e.entry_seq = NEW.entry_seq
       AND e.available_after_micro = NEW.available_micro AND e.reserved_after_micro = NEW.reserved_micro)
BEGIN SELECT RAISE(ABORT, 'balances_start_with_first_entry'); END;

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

CREATE TABLE credit_reservations (
    id                 INTEGER PRIMARY KEY,
    account_id         INTEGER NOT NULL REFERENCES credit_accounts (id),
    pool_id            TEXT NOT NULL
        CONSTRAINT reservations_pool_id_is_well_formed
        CHECK (length(pool_id) <= 64 AND pool_id GLOB '[a-z0-9]*' AND pool_id NOT GLOB '*[^a-z0-9:._-]*'),
    billing_mode       TEXT NOT NULL
        CONSTRAINT reservations_billing_mode_is_known
        CHECK (billing_mode = 'live' OR billing_mode = 'soft' OR billing_mode = 'shadow'),
    status             TEXT NOT NULL
        CONSTRAINT reservations_status_is_known
        CHECK (status = 'pending' OR status = 'finalized' OR status = 'released' OR status = 'expired'),
    list_micro         INTEGER NOT NULL CONSTRAINT reservations_list_is_not_negative CHECK (list_micro >= 0),
    discount_bps       INTEGER NOT NULL
        CONSTRAINT reservations_discount_is_0_to_10000_bps CHECK (discount_bps BETWEEN 0 AND 10000),
    -- NULL: the rate has no cap.
    max_discount_micro INTEGER
        CONSTRAINT reservations_max_discount_is_not_negative CHECK (max_discount_micro >= 0),
    discount_micro     INTEGER NOT NULL
        -- list * bps / 10000, rounded down, without a product that could overflow.
        CONSTRAINT reservations_discount_matches_rate_and_cap
        CHECK (discount_micro = min(list_micro / 10000 * discount_bps + list_micro % 10000 * discount_bps / 10000,
                                    coalesce(max_discount_micro, 9223372036854775807))),
    -- The membership that gives the discount. NULL both: no discount.
    community_id       TEXT,
    tier               TEXT,
    -- The held credits; in shadow mode, those that it would hold.
    held_micro         INTEGER NOT NULL
        CONSTRAINT reservations_held_matches_price
        CHECK (held_micro >= 0
               AND (held_micro = list_micro - discount_micro
                    OR (billing_mode = 'soft' AND held_micro < list_micro - discount_micro))),
    expires_at_us      INTEGER NOT NULL
        CONSTRAINT reservations_expire_after_creation
        CHECK (expires_at_us > created_at_us AND expires_at_us <= 253402300799999999),
    -- NULL each: the caller gave none.
    description        TEXT,
    metadata           TEXT
        CONSTRAINT reservations_metadata_is_an_object CHECK (json_valid(metadata) AND json_type(metadata) = 'object'),
    -- The caller that created the reservation, as `service:SUB` or `admin:SUB`.
    created_by         TEXT NOT NULL
        CONSTRAINT reservations_created_by_is_service_or_admin
        CHECK (length(created_by) <= 136 AND (created_by GLOB 'service:?*' OR created_by GLOB 'admin:?*')),
    -- The caller that finalized or released the reservation, if different. NULL: the same caller, or no caller yet, or it
    -- expired.
    closed_by          TEXT
        CONSTRAINT reservations_closed_by_is_service_or_admin
        CHECK (length(closed_by) <= 136 AND (closed_by GLOB 'service:?*' OR closed_by GLOB 'admin:?*')),
    -- NULL all four: not finalized. Charges beyond the held credits are overrun_micro; in live mode they are lost and
    -- absorbed_micro.
    actual_cost_micro  INTEGER CONSTRAINT reservations_actual_cost_is_not_negative CHECK (actual_cost_micro >= 0),
    finalized_micro    INTEGER
        CONSTRAINT reservations_finalized_is_within_held CHECK (finalized_micro BETWEEN 0 AND held_micro),
    overrun_micro      INTEGER CONSTRAINT reservations_overrun_is_not_negative CHECK (overrun_micro >= 0),
    absorbed_micro     INTEGER CONSTRAINT reservations_absorbed_is_not_negative CHECK (absorbed_micro >= 0),
    -- The credits that the reservation returned when it ended. NULL: pending.
    released_micro     INTEGER
        CONSTRAINT reservations_parts_sum_to_held CHECK (released_micro = held_micro - coalesce(finalized_micro, 0)),
    closed_at_us       INTEGER,
    created_at_us      INTEGER NOT NULL,
    CONSTRAINT reservations_are_pending_or_closed
        CHECK ((status = 'pending') = (closed_at_us IS NULL) AND (status = 'pending') = (released_micro IS NULL)),
    CONSTRAINT reservations_closed_by_differs_from_created_by
        CHECK (closed_by IS NULL OR (closed_by <> created_by AND (status = 'finalized' OR status = 'released'))),
    CONSTRAINT reservations_finalized_have_cost
        CHECK ((status = 'finalized') = (actual_cost_micro IS NOT NULL)
               AND (status = 'finalized') = (finalized_micro IS NOT NULL)
               AND (status = 'finalized') = (overrun_micro IS NOT NULL)
               AND (status = 'finalized') = (absorbed_micro IS NOT NULL)),
    CONSTRAINT reservations_discount_has_membership
        CHECK (CASE WHEN community_id IS NULL THEN tier IS NULL AND discount_bps = 0 AND max_discount_micro IS NULL
                    ELSE tier IS NOT NULL AND billing_mode <> 'shadow' END),
    CONSTRAINT reservations_charge_matches_cost_and_discount
        CHECK (finalized_micro + overrun_micro + absorbed_micro
               = actual_cost_micro
                 - min(actual_cost_micro / 10000 * discount_bps + actual_cost_micro % 10000 * discount_bps / 10000,
                       coalesce(max_discount_micro, 9223372036854775807)))
) STRICT;

CREATE INDEX reservations_by_account_and_expiry ON credit_reservations (account_id, expires_at_us) WHERE status = 'pending';

CREATE INDEX reservations_by_expiry ON credit_reservations (expires_at_us) WHERE status = 'pending';

CREATE INDEX reservations_expired_by_account ON credit_reservations (account_id, closed_at_us) WHERE status = 'expired';

CREATE TRIGGER reservations_start_pending BEFORE INSERT ON credit_reservations
WHEN NEW.status <> 'pending'
BEGIN SELECT RAISE(ABORT, 'reservations_start_pending'); END;

CREATE TRIGGER reservations_terms_are_fixed
BEFORE UPDATE OF id, account_id, pool_id, billing_mode, list_micro, discount_bps, max_discount_micro, discount_micro,
                 community_id, tier, held_micro, expires_at_us, description, metadata, created_by, created_at_us
ON credit_reservations
BEGIN SELECT RAISE(ABORT, 'reservations_terms_are_fixed'); END;

CREATE TRIGGER reservations_close_once
BEFORE UPDATE OF status, actual_cost_micro, finalized_micro, overrun_micro, absorbed_micro, released_micro, closed_by,
                 closed_at_us
ON credit_reservations
WHEN OLD.status <> 'pending'
BEGIN SELECT RAISE(ABORT, 'reservations_close_once'); END;

CREATE TRIGGER reservations_are_never_deleted BEFORE DELETE ON credit_reservations
BEGIN SELECT RAISE(ABORT, 'reservations_are_never_deleted'); END;

CREATE TABLE silent_ends (
    id             INTEGER PRIMARY KEY,
    reservation_id INTEGER NOT NULL REFERENCES credit_reservations (id)
) STRICT;

CREATE UNIQUE INDEX silent_ends_one_per_reservation ON silent_ends (reservation_id);

CREATE TRIGGER reservations_record_silent_end AFTER UPDATE OF status ON credit_reservations
WHEN NEW.held_micro = 0 OR NEW.billing_mode = 'shadow'
BEGIN INSERT INTO silent_ends (reservation_id) VALUES (NEW.id); END;

CREATE TRIGGER silent_ends_are_never_changed BEFORE UPDATE ON silent_ends
BEGIN SELECT RAISE(ABORT, 'silent_ends_are_never_changed'); END;

CREATE TRIGGER silent_ends_are_never_deleted BEFORE DELETE ON silent_ends
BEGIN SELECT RAISE(ABORT, 'silent_ends_are_never_deleted'); END;

CREATE TABLE reservation_lots (
    reservation_id INTEGER NOT NULL REFERENCES credit_reservations (id),
    position       INTEGER NOT NULL
        CONSTRAINT reservation_lots_position_counts_from_1 CHECK (position >= 1)
        CONSTRAINT reservation_lots_are_at_most_1000 CHECK (position <= 1000),
    lot_id         INTEGER NOT NULL REFERENCES credit_lots (id),
    reserved_micro INTEGER NOT NULL CONSTRAINT reservation_lots_reserved_is_positive CHECK (reserved_micro > 0),
    PRIMARY KEY (reservation_id, position)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER reservation_lots_are_never_changed BEFORE UPDATE ON reservation_lots
BEGIN SELECT RAISE(ABORT, 'reservation_lots_are_never_changed'); END;

CREATE TRIGGER reservation_lots_are_never_deleted BEFORE DELETE ON reservation_lots
BEGIN SELECT RAISE(ABORT, 'reservation_lots_are_never_deleted'); END;

CREATE TABLE credit_charges (
    id                 INTEGER PRIMARY KEY,
    account_id         INTEGER NOT NULL REFERENCES credit_accounts (id),
    pool_id            TEXT NOT NULL
        CONSTRAINT charges_pool_id_is_well_formed
        CHECK (length(pool_id) <= 64 AND pool_id GLOB '[a-z0-9]*' AND pool_id NOT GLOB '*[^a-z0-9:._-]*'),
    -- The id of the usage record that was charged. NULL: none was given.
    source_id          TEXT
        CONSTRAINT charges_source_id_has_1_to_200_characters CHECK (length(source_id) BETWEEN 1 AND 200),
    billing_mode       TEXT NOT NULL
        CONSTRAINT charges_billing_mode_is_known
        CHECK (billing_mode = 'live' OR billing_mode = 'soft' OR billing_mode = 'shadow'),
    list_micro         INTEGER NOT NULL CONSTRAINT charges_list_is_not_negative CHECK (list_micro >= 0),
    discount_bps       INTEGER NOT NULL
        CONSTRAINT charges_discount_is_0_to_10000_bps CHECK (discount_bps BETWEEN 0 AND 10000),
    -- NULL: the rate has no cap.
    max_discount_micro INTEGER
        CONSTRAINT charges_max_discount_is_not_negative CHECK (max_discount_micro >= 0),
    discount_micro     INTEGER NOT NULL
        -- list * bps / 10000, rounded down, without a product that could overflow.
        CONSTRAINT charges_discount_matches_rate_and_cap
        CHECK (discount_micro = min(list_micro / 10000 * discount_bps + list_micro % 10000 * discount_bps / 10000,
                                    coalesce(max_discount_micro, 9223372036854775807))),
    -- The membership that gives the discount. NULL both: no discount.
    community_id       TEXT,
    tier               TEXT,
    -- The consumed credits; in shadow mode, those that it would consume.
    charged_micro      INTEGER NOT NULL CONSTRAINT charges_charged_is_not_negative CHECK (charged_micro >= 0),
    debt_micro         INTEGER NOT NULL
        CONSTRAINT charges_debt_needs_soft_mode CHECK (debt_micro = 0 OR (debt_micro > 0 AND billing_mode = 'soft')),
    -- The newest entry, or the base of the epoch, before the entries of the charge; 0 for none. They follow it without a gap,
    -- so no index is needed to find them.
    after_entry_id     INTEGER NOT NULL,
    entry_count        INTEGER NOT NULL
        CONSTRAINT charges_entry_count_matches_price
        CHECK (CASE WHEN billing_mode = 'shadow' THEN entry_count = 1
                    ELSE entry_count BETWEEN (charged_micro > 0) + (debt_micro > 0)
                                         AND (charged_micro > 0) * 1000 + (debt_micro > 0) END),
    -- NULL each: the caller gave none.
    description        TEXT,
    metadata           TEXT
        CONSTRAINT charges_metadata_is_an_object CHECK (json_valid(metadata) AND json_type(metadata) = 'object'),
    -- The caller that made the charge, as `service:SUB` or `admin:SUB`.
    created_by         TEXT NOT NULL
        CONSTRAINT charges_created_by_is_service_or_admin
        CHECK (length(created_by) <= 136 AND (created_by GLOB 'service:?*' OR created_by GLOB 'admin:?*')),
    created_at_us      INTEGER NOT NULL,
    CONSTRAINT charges_parts_sum_to_price CHECK (charged_micro = list_micro - discount_micro - debt_micro),
    CONSTRAINT charges_discount_has_membership
        CHECK (CASE WHEN community_id IS NULL THEN tier IS NULL AND discount_bps = 0 AND max_discount_micro IS NULL
                    ELSE tier IS NOT NULL AND billing_mode <> 'shadow' END)
) STRICT;

CREATE UNIQUE INDEX charges_one_per_account_and_source ON credit_charges (account_id, source_id) WHERE source_id IS NOT NULL;

CREATE INDEX charges_by_account ON credit_charges (account_id);

CREATE TRIGGER charges_are_never_changed BEFORE UPDATE ON credit_charges
BEGIN SELECT RAISE(ABORT, 'charges_are_never_changed'); END;

CREATE TRIGGER charges_are_never_deleted BEFORE DELETE ON credit_charges
BEGIN SELECT RAISE(ABORT, 'charges_are_never_deleted'); END;

CREATE TRIGGER entries_match_their_charge AFTER INSERT ON credit_ledger
WHEN NEW.charge_id IS NOT NULL
 AND NOT EXISTS (
    SELECT 1 FROM credit_charges c
     WHERE c.id = NEW.charge_id
       AND c.account_id = NEW.account_id
       AND NEW.pool_id IN (c.pool_id, 'general')
       AND c.created_at_us = NEW.created_at_us
       AND NEW.id > c.after_entry_id
       AND NEW.id <= c.after_entry_id + c.entry_count
       AND (c.billing_mode = 'shadow') = (NEW.entry_type = 'shadow_charge')
       AND -NEW.amount_micro <= iif(NEW.entry_type = 'debt_incurred', c.debt_micro, c.charged_micro)
       AND (NEW.lot_id IS NULL
            OR (SELECT (l.account_id, l.pool_id) = (NEW.account_id, NEW.pool_id) FROM credit_lots l WHERE l.id = NEW.lot_id)))
BEGIN SELECT RAISE(ABORT, 'entries_match_their_charge'); END;

CREATE TABLE credit_debts (
    id             INTEGER PRIMARY KEY,
    account_id     INTEGER NOT NULL REFERENCES credit_accounts (id),
    -- A reservation is finalized once, and a charge is made once. So each leaves one debt at most. NULL: it is of the other.
    reservation_id INTEGER REFERENCES credit_reservations (id),
    charge_id      INTEGER REFERENCES credit_charges (id)
        CONSTRAINT debts_belong_to_reservation_or_charge CHECK ((reservation_id IS NULL) <> (charge_id IS NULL)),
    original_micro INTEGER NOT NULL CONSTRAINT debts_original_is_positive CHECK (original_micro > 0),
    paid_micro     INTEGER NOT NULL
        CONSTRAINT debts_paid_is_within_original CHECK (paid_micro BETWEEN 0 AND original_micro),
    -- The lot that paid the rest when an admin forgave the debt. NULL: not forgiven.
    forgiven_lot_id INTEGER REFERENCES credit_lots (id)
        CONSTRAINT debts_forgiven_are_fully_paid CHECK (forgiven_lot_id IS NULL OR paid_micro = original_micro),
    created_at_us  INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX debts_one_per_reservation ON credit_debts (reservation_id) WHERE reservation_id IS NOT NULL;

CREATE UNIQUE INDEX debts_one_per_charge ON credit_debts (charge_id) WHERE charge_id IS NOT NULL;

CREATE UNIQUE INDEX debts_one_per_forgiving_lot ON credit_debts (forgiven_lot_id) WHERE forgiven_lot_id IS NOT NULL;

CREATE INDEX debts_by_account ON credit_debts (account_id);

CREATE INDEX debts_open_by_account ON credit_debts (account_id) WHERE paid_micro < original_micro;

CREATE TRIGGER debts_start_unpaid BEFORE INSERT ON credit_debts
WHEN NEW.paid_micro <> 0 OR NEW.forgiven_lot_id IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'debts_start_unpaid'); END;

CREATE TRIGGER debts_change_only_by_payment BEFORE UPDATE ON credit_debts
WHEN NEW.paid_micro < OLD.paid_micro
  OR NEW.id <> OLD.id
  OR NEW.account_id <> OLD.account_id
  OR NEW.reservation_id IS NOT OLD.reservation_id
  OR NEW.charge_id IS NOT OLD.charge_id
  OR NEW.original_micro <> OLD.original_micro
  OR (OLD.forgiven_lot_id IS NOT NULL AND NEW.forgiven_lot_id IS NOT OLD.forgiven_lot_id)
  OR NEW.created_at_us <> OLD.created_at_us
BEGIN SELECT RAISE(ABORT, 'debts_change_only_by_payment'); END;

CREATE TRIGGER debts_are_never_deleted BEFORE DELETE ON credit_debts
BEGIN SELECT RAISE(ABORT, 'debts_are_never_deleted'); END;

CREATE TABLE discount_tiers (
    community_id       TEXT NOT NULL
        CONSTRAINT tiers_community_id_has_1_to_200_characters CHECK (length(community_id) BETWEEN 1 AND 200),
    tier               TEXT NOT NULL CONSTRAINT tiers_tier_has_1_to_64_characters CHECK (length(tier) BETWEEN 1 AND 64),
    position           INTEGER NOT NULL
        CONSTRAINT tiers_are_at_most_100_per_community CHECK (position BETWEEN 1 AND 100),
    rate_bps           INTEGER NOT NULL CONSTRAINT tiers_rate_is_0_to_10000_bps CHECK (rate_bps BETWEEN 0 AND 10000),
    -- NULL: no cap.
    max_discount_micro INTEGER CONSTRAINT tiers_max_discount_is_not_negative CHECK (max_discount_micro >= 0),
    PRIMARY KEY (community_id, tier)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX tiers_one_per_position ON discount_tiers (community_id, position);

CREATE INDEX tiers_integrity_copy ON discount_tiers (community_id, rate_bps, max_discount_micro);

CREATE TABLE memberships (
    id            INTEGER PRIMARY KEY,
    account_id    INTEGER NOT NULL REFERENCES credit_accounts (id),
    community_id  TEXT NOT NULL
        CONSTRAINT memberships_community_id_has_1_to_200_characters CHECK (length(community_id) BETWEEN 1 AND 200),
    -- A tier that the community had when the membership was put. If the community has dropped it since, there is no
    -- discount.
    tier          TEXT NOT NULL,
    -- NULL: the membership never expires.
    expires_at_us INTEGER
        CONSTRAINT memberships_expire_before_the_year_10000 CHECK (expires_at_us <= 253402300799999999)
) STRICT;

CREATE UNIQUE INDEX memberships_one_per_account_and_community ON memberships (account_id, community_id);

CREATE INDEX memberships_integrity_copy ON memberships (account_id, community_id, tier, expires_at_us);

CREATE TRIGGER memberships_tier_exists_on_insert BEFORE INSERT ON memberships
WHEN NOT EXISTS (SELECT 1 FROM discount_tiers WHERE community_id = NEW.community_id AND tier = NEW.tier)
BEGIN SELECT RAISE(ABORT, 'memberships_tier_exists_on_insert'); END;

CREATE TRIGGER memberships_tier_exists_on_update BEFORE UPDATE ON memberships
WHEN NOT EXISTS (SELECT 1 FROM discount_tiers WHERE community_id = NEW.community_id AND tier = NEW.tier)
BEGIN SELECT RAISE(ABORT, 'memberships_tier_exists_on_update'); END;

CREATE TRIGGER memberships_are_at_most_1000_per_account BEFORE INSERT ON memberships
WHEN (SELECT count(*) FROM memberships WHERE account_id = NEW.account_id) >= 1000
BEGIN SELECT RAISE(ABORT, 'memberships_are_at_most_1000_per_account'); END;

CREATE TRIGGER memberships_account_and_community_are_fixed BEFORE UPDATE OF id, account_id, community_id ON memberships
BEGIN SELECT RAISE(ABORT, 'memberships_account_and_community_are_fixed'); END;

CREATE TABLE credit_campaigns (
    id                   INTEGER PRIMARY KEY,
    name                 TEXT NOT NULL
        CONSTRAINT campaigns_name_has_1_to_200_characters CHECK (length(name) BETWEEN 1 AND 200),
    -- NULL: none was given.
    description          TEXT
        CONSTRAINT campaigns_description_has_at_most_2000_characters CHECK (length(description) <= 2000),
    campaign_type        TEXT NOT NULL
        CONSTRAINT campaigns_type_is_known
        CHECK (campaign_type IN ('reverse_airdrop', 'promotional', 'loyalty', 'referral')),
    status               TEXT NOT NULL,
    budget_micro         INTEGER NOT NULL,
    -- The sum of the campaign's grants, less revoked credits.
    spent_micro          INTEGER NOT NULL CONSTRAINT campaigns_spent_is_not_negative CHECK (spent_micro >= 0),
    grant_formula        TEXT NOT NULL
        CONSTRAINT campaigns_formula_is_known CHECK (grant_formula IN ('proportional_loss', 'fixed_amount', 'tiered')),
    -- NULL: the formula needs none. Each grant of a fixed amount then states its own.
    grant_config         TEXT
        CONSTRAINT campaigns_config_is_an_object CHECK (json_valid(grant_config) AND json_type(grant_config) = 'object'),
    pool_id              TEXT NOT NULL
        CONSTRAINT campaigns_pool_id_is_well_formed
        CHECK (length(pool_id) <= 64 AND pool_id GLOB '[a-z0-9]*' AND pool_id NOT GLOB '*[^a-z0-9:._-]*'),
    per_wallet_cap_micro INTEGER NOT NULL CONSTRAINT campaigns_cap_is_not_negative CHECK (per_wallet_cap_micro >= 0),
    -- NULL: no start, no end, and lots that never expire.
    starts_at_us         INTEGER,
    expires_at_us        INTEGER CONSTRAINT campaigns_expire_after_they_start CHECK (expires_at_us > starts_at_us),
    grant_ttl_seconds    INTEGER
        CONSTRAINT campaigns_grant_ttl_is_within_100_years CHECK (grant_ttl_seconds BETWEEN 1 AND 3153600000),
    grant_count          INTEGER NOT NULL,
    created_by           TEXT NOT NULL,
    created_at_us        INTEGER NOT NULL,
    updated_at_us        INTEGER NOT NULL,
    CONSTRAINT campaigns_spent_within_budget CHECK (spent_micro <= budget_micro)
) STRICT;

CREATE INDEX campaigns_by_status ON credit_campaigns (status);

CREATE INDEX campaigns_by_expiry ON credit_campaigns (expires_at_us)
    WHERE status IN ('draft', 'active', 'paused') AND expires_at_us IS NOT NULL;

CREATE INDEX campaigns_integrity_copy
    ON credit_campaigns (name, description, campaign_type, budget_micro, grant_formula, grant_config, pool_id,
                         per_wallet_cap_micro, starts_at_us, expires_at_us, grant_ttl_seconds, created_by, created_at_us,
                         updated_at_us);

CREATE TRIGGER campaigns_start_as_drafts BEFORE INSERT ON credit_campaigns
WHEN NEW.status <> 'draft' OR NEW.spent_micro <> 0 OR NEW.grant_count <> 0
BEGIN SELECT RAISE(ABORT, 'campaigns_start_as_drafts'); END;

CREATE TRIGGER campaigns_status_transition_is_allowed BEFORE UPDATE OF status ON credit_campaigns
WHEN NEW.status <> OLD.status
 AND (OLD.status, NEW.status) NOT IN (
        ('draft', 'active'), ('draft', 'expired'),
        ('active', 'paused'), ('active', 'completed'), ('active', 'expired'),
        ('paused', 'active'), ('paused', 'completed'), ('paused', 'expired'))
BEGIN SELECT RAISE(ABORT, 'campaigns_status_transition_is_allowed'); END;

CREATE TRIGGER campaigns_terms_are_locked_once_active BEFORE UPDATE ON credit_campaigns
WHEN OLD.status <> 'draft'
 AND (OLD.campaign_type <> NEW.campaign_type
   OR OLD.grant_formula <> NEW.grant_formula
   OR OLD.grant_config IS NOT NEW.grant_config
   OR OLD.pool_id <> NEW.pool_id
   OR OLD.per_wallet_cap_micro <> NEW.per_wallet_cap_micro
   OR OLD.starts_at_us IS NOT NEW.starts_at_us
   OR OLD.grant_ttl_seconds IS NOT NEW.grant_ttl_seconds)
BEGIN SELECT RAISE(ABORT, 'campaigns_terms_are_locked_once_active'); END;

CREATE TRIGGER campaigns_ended_are_locked BEFORE UPDATE ON credit_campaigns
WHEN OLD.status IN ('completed', 'expired')
 AND (OLD.name <> NEW.name
   OR OLD.description IS NOT NEW.description
   OR OLD.budget_micro <> NEW.budget_micro
   OR OLD.expires_at_us IS NOT NEW.expires_at_us
   OR OLD.spent_micro < NEW.spent_micro)
BEGIN SELECT RAISE(ABORT, 'campaigns_ended_are_locked'); END;

CREATE TRIGGER campaigns_are_never_deleted BEFORE DELETE ON credit_campaigns
BEGIN SELECT RAISE(ABORT, 'campaigns_are_never_deleted'); END;

CREATE TABLE credit_grants (
    id                     INTEGER PRIMARY KEY,
    campaign_id            INTEGER NOT NULL REFERENCES credit_campaigns (id),
    account_id             INTEGER NOT NULL REFERENCES credit_accounts (id),
    lot_id                 INTEGER NOT NULL REFERENCES credit_lots (id),
    amount_micro           INTEGER NOT NULL,
    status                 TEXT NOT NULL,
    -- The campaign's formula and its input. NULL: no input was given.
    grant_formula          TEXT NOT NULL,
    formula_input          TEXT
        CONSTRAINT grants_formula_input_is_an_object CHECK (json_valid(formula_input) AND json_type(formula_input) = 'object'),
    created_at_us          INTEGER NOT NULL,
    -- NULL all five: not revoked. The amounts are those of the moment of the revocation.
    revoked_at_us          INTEGER,
    revoked_micro          INTEGER CONSTRAINT grants_revoked_within_amount CHECK (revoked_micro BETWEEN 0 AND amount_micro),
    revoked_consumed_micro INTEGER
        CONSTRAINT grants_revoked_consumed_within_amount CHECK (revoked_consumed_micro BETWEEN 0 AND amount_micro),
    revoked_reserved_micro INTEGER
        CONSTRAINT grants_revoked_reserved_within_amount CHECK (revoked_reserved_micro BETWEEN 0 AND amount_micro),
    revoke_reason          TEXT
        CONSTRAINT grants_revoke_reason_has_1_to_500_characters CHECK (length(revoke_reason) BETWEEN 1 AND 500),
    CONSTRAINT grants_revocation_matches_status CHECK (
        CASE status
            WHEN 'granted' THEN coalesce(revoked_at_us, revoked_micro, revoked_consumed_micro, revoked_reserved_micro,
                                         revoke_reason) IS NULL
            WHEN 'revoked' THEN revoked_at_us IS NOT NULL AND revoked_micro IS NOT NULL
                                AND revoked_consumed_micro IS NOT NULL AND revoked_reserved_micro IS NOT NULL
                                AND revoke_reason IS NOT NULL
            ELSE 0
        END)
) STRICT;

CREATE UNIQUE INDEX grants_one_per_campaign_and_account ON credit_grants (campaign_id, account_id);

CREATE UNIQUE INDEX grants_one_per_lot ON credit_grants (lot_id);

CREATE INDEX grants_by_campaign_and_status ON credit_grants (campaign_id, status);

CREATE INDEX grants_by_account ON credit_grants (account_id);

CREATE INDEX grants_revoke_reasons_integrity_copy ON credit_grants (revoke_reason) WHERE revoke_reason IS NOT NULL;

CREATE TRIGGER grants_campaign_is_active BEFORE INSERT ON credit_grants
WHEN NEW.status <> 'granted'
  OR NOT EXISTS (
    SELECT 1 FROM credit_campaigns c
     WHERE c.id = NEW.campaign_id
       AND c.status = 'active'
       AND (c.starts_at_us IS NULL OR c.starts_at_us <= NEW.created_at_us)
       AND (c.expires_at_us IS NULL OR c.expires_at_us > NEW.created_at_us))
BEGIN SELECT RAISE(ABORT, 'grants_campaign_is_active'); END;

CREATE TRIGGER grants_are_within_the_cap BEFORE INSERT ON credit_grants
WHEN NEW.amount_micro > (SELECT per_wallet_cap_micro FROM credit_campaigns WHERE id = NEW.campaign_id)
BEGIN SELECT RAISE(ABORT, 'grants_are_within_the_cap'); END;

CREATE TRIGGER grants_match_their_lot BEFORE INSERT ON credit_grants
WHEN NOT EXISTS (
    SELECT 1 FROM credit_lots l
     WHERE l.id = NEW.lot_id AND l.account_id = NEW.account_id AND l.original_micro = NEW.amount_micro
       AND l.campaign_id = NEW.campaign_id AND l.source_type = 'grant' AND l.source_id IS NULL)
BEGIN SELECT RAISE(ABORT, 'grants_match_their_lot'); END;

CREATE TRIGGER grants_terms_are_fixed
BEFORE UPDATE OF id, campaign_id, account_id, lot_id, amount_micro, grant_formula, formula_input, created_at_us ON credit_grants
BEGIN SELECT RAISE(ABORT, 'grants_terms_are_fixed'); END;

CREATE TRIGGER grants_are_revoked_once BEFORE UPDATE ON credit_grants
WHEN OLD.status = 'revoked'
BEGIN SELECT RAISE(ABORT, 'grants_are_revoked_once'); END;

CREATE TRIGGER grants_are_revoked_with_their_lots BEFORE UPDATE OF status ON credit_grants
WHEN NEW.status = 'revoked'
 AND NEW.revoked_at_us IS NOT (SELECT revoked_at_us FROM credit_lots WHERE id = NEW.lot_id)
BEGIN SELECT RAISE(ABORT, 'grants_are_revoked_with_their_lots'); END;

CREATE TRIGGER grants_are_never_deleted BEFORE DELETE ON credit_grants
BEGIN SELECT RAISE(ABORT, 'grants_are_never_deleted'); END;

CREATE TABLE credit_campaign_totals (
    campaign_id            INTEGER PRIMARY KEY REFERENCES credit_campaigns (id),
    granted_micro          INTEGER NOT NULL,
    reserved_micro         INTEGER NOT NULL,
    expired_micro          INTEGER NOT NULL,
    spending_accounts      INTEGER NOT NULL,
    -- Sums over the revoked grants, of the amounts at the moment of each revocation.
    grants_revoked         INTEGER NOT NULL,
    revoked_micro          INTEGER NOT NULL,
    revoked_consumed_micro INTEGER NOT NULL,
    revoked_reserved_micro INTEGER NOT NULL
) STRICT;

CREATE TABLE credit_campaign_days (
    campaign_id    INTEGER NOT NULL REFERENCES credit_campaigns (id),
    -- Days since 1970-01-01, in UTC.
    day            INTEGER NOT NULL,
    grants         INTEGER NOT NULL,
    granted_micro  INTEGER NOT NULL,
    consumed_micro INTEGER NOT NULL,
    PRIMARY KEY (campaign_id, day)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER campaigns_create_totals AFTER INSERT ON credit_campaigns
BEGIN
    INSERT INTO credit_campaign_totals (
        campaign_id, granted_micro, reserved_micro, expired_micro, spending_accounts, grants_revoked, revoked_micro,
        revoked_consumed_micro, revoked_reserved_micro)
    VALUES (NEW.id, 0, 0, 0, 0, 0, 0, 0, 0);
END;

CREATE TRIGGER campaigns_granted_total_fits_63_bits BEFORE UPDATE OF grant_count ON credit_campaigns
WHEN (SELECT granted_micro FROM credit_campaign_totals WHERE campaign_id = NEW.id)
     > 9223372036854775807 - (NEW.spent_micro - OLD.spent_micro)
BEGIN SELECT RAISE(ABORT, 'campaigns_granted_total_fits_63_bits'); END;

CREATE TRIGGER campaigns_update_granted_totals AFTER UPDATE OF grant_count ON credit_campaigns
BEGIN
    UPDATE credit_campaign_totals
       SET granted_micro = granted_micro + NEW.spent_micro - OLD.spent_micro
     WHERE campaign_id = NEW.id;
    INSERT INTO credit_campaign_days (campaign_id, day, grants, granted_micro, consumed_micro)
    VALUES (NEW.id, NEW.updated_at_us / 86400000000, NEW.grant_count - OLD.grant_count, NEW.spent_micro - OLD.spent_micro, 0)
        ON CONFLICT DO UPDATE
       SET grants        = grants + excluded.grants,
           granted_micro = granted_micro + excluded.granted_micro;
END;

CREATE TRIGGER lots_return_revoked_credits_to_campaign AFTER UPDATE OF revoked_micro ON credit_lots
WHEN NEW.revoked_micro > OLD.revoked_micro AND NEW.campaign_id IS NOT NULL
BEGIN
    UPDATE credit_campaigns
       SET spent_micro   = spent_micro - (NEW.revoked_micro - OLD.revoked_micro),
           updated_at_us = max(updated_at_us, NEW.revoked_at_us)
     WHERE id = NEW.campaign_id;
END;

CREATE TRIGGER lots_update_campaign_totals AFTER UPDATE OF reserved_micro, consumed_micro, expired_micro ON credit_lots
WHEN NEW.campaign_id IS NOT NULL
BEGIN
    UPDATE credit_campaign_totals
       SET reserved_micro      = reserved_micro + NEW.reserved_micro - OLD.reserved_micro,
           expired_micro       = expired_micro + NEW.expired_micro - OLD.expired_micro,
           spending_accounts   = spending_accounts + (OLD.consumed_micro = 0 AND NEW.consumed_micro > 0)
     WHERE campaign_id = NEW.campaign_id;
END;

CREATE TRIGGER grants_update_revoked_totals AFTER UPDATE OF status ON credit_grants
WHEN NEW.status = 'revoked'
BEGIN
    UPDATE credit_campaign_totals
       SET grants_revoked         = grants_revoked + 1,
           revoked_micro          = revoked_micro + NEW.revoked_micro,
           revoked_consumed_micro = revoked_consumed_micro + NEW.revoked_consumed_micro,
           revoked_reserved_micro = revoked_reserved_micro + NEW.revoked_reserved_micro
     WHERE campaign_id = NEW.campaign_id;
END;

CREATE TRIGGER entries_update_campaign_consumption AFTER INSERT ON credit_ledger
WHEN (NEW.entry_type = 'finalize' OR NEW.entry_type = 'charge' OR NEW.entry_type = 'debt_paid')
 AND (SELECT campaign_id FROM credit_lots WHERE id = NEW.lot_id) IS NOT NULL
BEGIN
    INSERT INTO credit_campaign_days (campaign_id, day, grants, granted_micro, consumed_micro)
    VALUES ((SELECT campaign_id FROM credit_lots WHERE id = NEW.lot_id), NEW.created_at_us / 86400000000, 0, 0,
            -NEW.amount_micro)
        ON CONFLICT DO UPDATE
       SET consumed_micro = consumed_micro + excluded.consumed_micro;
END;

CREATE TABLE admin_audit_log (
    seq            INTEGER PRIMARY KEY,
    -- The public id. It grows with seq, and jumps to the base of each new epoch.
    id             INTEGER NOT NULL,
    actor_id       TEXT NOT NULL CONSTRAINT audit_actor_has_1_to_128_characters CHECK (length(actor_id) BETWEEN 1 AND 128),
    action         TEXT NOT NULL,
    target_type    TEXT NOT NULL,
    target_id      TEXT NOT NULL,
    details        TEXT NOT NULL
        CONSTRAINT audit_details_are_an_object CHECK (json_valid(details) AND json_type(details) = 'object'),
    -- NULL each: the request had none.
    ip             TEXT,
    user_agent     TEXT,
    correlation_id TEXT,
    token_id       TEXT,
    created_at_us  INTEGER NOT NULL,
    previous_hash  BLOB NOT NULL,
    hash           BLOB NOT NULL CONSTRAINT audit_hash_has_32_bytes CHECK (length(hash) = 32)
) STRICT;

CREATE INDEX audit_by_time ON admin_audit_log (created_at_us);

CREATE INDEX audit_by_actor ON admin_audit_log (actor_id, created_at_us);

CREATE INDEX audit_by_action ON admin_audit_log (action, created_at_us);

CREATE INDEX audit_by_target ON admin_audit_log (target_id, created_at_us);

CREATE INDEX audit_by_target_type ON admin_audit_log (target_type, created_at_us);

CREATE INDEX audit_of_settings ON admin_audit_log (target_type, target_id, seq)
    WHERE action <> 'account.mint'
      AND action IN ('tiers.replace', 'membership.put', 'membership.delete', 'thresholds.replace', 'campaign.create',
                     'campaign.edit', 'campaign.activate', 'campaign.pause', 'campaign.complete', 'webhook.create',
                     'webhook.edit', 'webhook.rotate_secret', 'webhook.delete', 'token.revoke', 'debt.forgive');

CREATE TRIGGER audit_times_do_not_decrease BEFORE INSERT ON admin_audit_log
WHEN NEW.created_at_us < (SELECT created_at_us FROM admin_audit_log ORDER BY seq DESC LIMIT 1)
BEGIN SELECT RAISE(ABORT, 'audit_times_do_not_decrease'); END;

CREATE TRIGGER audit_rows_are_consecutive BEFORE INSERT ON admin_audit_log
WHEN NEW.seq <> coalesce((SELECT max(seq) FROM admin_audit_log), 0) + 1
  OR NEW.id <= max(coalesce((SELECT id FROM admin_audit_log ORDER BY seq DESC LIMIT 1), 0),
                   coalesce((SELECT max(base_id) FROM book_epochs), 0))
  OR NEW.previous_hash <> coalesce((SELECT hash FROM admin_audit_log ORDER BY seq DESC LIMIT 1), zeroblob(32))
BEGIN SELECT RAISE(ABORT, 'audit_rows_are_consecutive'); END;

CREATE TRIGGER audit_rows_are_never_changed BEFORE UPDATE ON admin_audit_log
BEGIN SELECT RAISE(ABORT, 'audit_rows_are_never_changed'); END;

CREATE TRIGGER audit_rows_are_never_deleted BEFORE DELETE ON admin_audit_log
BEGIN SELECT RAISE(ABORT, 'audit_rows_are_never_deleted'); END;

CREATE TABLE book_chain (
    number       INTEGER PRIMARY KEY,
    -- The last row of each table that the link covers.
    accounts     INTEGER NOT NULL,
    lots         INTEGER NOT NULL,
    reservations INTEGER NOT NULL,
    charges      INTEGER NOT NULL,
    debts        INTEGER NOT NULL,
    entries      INTEGER NOT NULL,
    grants       INTEGER NOT NULL,
    audit_rows   INTEGER NOT NULL,
    events       INTEGER NOT NULL,
    silent_ends  INTEGER NOT NULL,
    keys         INTEGER NOT NULL,
    -- The hash of the idempotency keys, which are pruned. It is part of the hash below; it can be checked while its keys
    -- exist.
    keys_hash    BLOB NOT NULL CONSTRAINT links_keys_hash_has_32_bytes CHECK (length(keys_hash) = 32),
    epochs       INTEGER NOT NULL,
    hash         BLOB NOT NULL CONSTRAINT links_hash_has_32_bytes CHECK (length(hash) = 32)
) STRICT;

CREATE TRIGGER links_are_consecutive BEFORE INSERT ON book_chain
WHEN NEW.number <> coalesce((SELECT max(number) FROM book_chain), 0) + 1
BEGIN SELECT RAISE(ABORT, 'links_are_consecutive'); END;

CREATE TRIGGER links_are_never_changed BEFORE UPDATE ON book_chain
BEGIN SELECT RAISE(ABORT, 'links_are_never_changed'); END;

CREATE TRIGGER links_are_never_deleted BEFORE DELETE ON book_chain
BEGIN SELECT RAISE(ABORT, 'links_are_never_deleted'); END;

CREATE TABLE book_head (
    id              INTEGER PRIMARY KEY CONSTRAINT head_is_one_row CHECK (id = 1),
    -- The commits of the service, and the same number negated. A flipped bit in either shows.
    commits         INTEGER NOT NULL,
    negated_commits INTEGER NOT NULL CONSTRAINT head_copies_match CHECK (negated_commits = -commits)
) STRICT;

CREATE TRIGGER head_commits_increase_by_one BEFORE UPDATE ON book_head
WHEN NEW.commits <> OLD.commits + 1
BEGIN SELECT RAISE(ABORT, 'head_commits_increase_by_one'); END;

CREATE TRIGGER head_is_never_deleted BEFORE DELETE ON book_head
BEGIN SELECT RAISE(ABORT, 'head_is_never_deleted'); END;

CREATE TABLE reconciliations (
    id               INTEGER PRIMARY KEY CONSTRAINT reconciliation_is_one_row CHECK (id = 1),
    -- The time of the checked snapshot.
    reconciled_at_us INTEGER NOT NULL,
    -- The body of the API's response.
    report           TEXT NOT NULL
        CONSTRAINT reconciliation_report_is_an_object CHECK (json_valid(report) AND json_type(report) = 'object'),
    -- The newest audit row when its hash chain last passed the check. NULL both: the log was empty. The next check finds out
    -- if somebody deletes this row or rebuilds the hashes.
    audit_seq        INTEGER,
    audit_hash       BLOB CONSTRAINT reconciliation_audit_hash_has_32_bytes CHECK (length(audit_hash) = 32),
    CONSTRAINT reconciliation_has_audit_seq_and_hash CHECK ((audit_seq IS NULL) = (audit_hash IS NULL))
) STRICT;

CREATE INDEX reconciliations_integrity_copy ON reconciliations (reconciled_at_us, report);

CREATE TRIGGER reconciliation_audit_seq_never_decreases BEFORE UPDATE ON reconciliations
WHEN OLD.audit_seq IS NOT NULL
 AND (NEW.audit_seq IS NULL OR NEW.audit_seq < OLD.audit_seq)
BEGIN SELECT RAISE(ABORT, 'reconciliation_audit_seq_never_decreases'); END;

CREATE TRIGGER reconciliation_is_never_deleted BEFORE DELETE ON reconciliations
BEGIN SELECT RAISE(ABORT, 'reconciliation_is_never_deleted'); END;

CREATE TABLE idempotency_keys (
    id            INTEGER PRIMARY KEY,
    -- 'admin:SUB' or 'service:SUB', by the token.
    caller        TEXT NOT NULL,
    key           TEXT NOT NULL
        CONSTRAINT idempotency_key_has_1_to_255_characters CHECK (length(key) BETWEEN 1 AND 255),
    -- SHA-256 of method, path and body.
    fingerprint   BLOB NOT NULL CONSTRAINT idempotency_fingerprint_has_32_bytes CHECK (length(fingerprint) = 32),
    status        INTEGER NOT NULL CONSTRAINT idempotency_status_is_success CHECK (status BETWEEN 200 AND 299),
    body          BLOB NOT NULL,
    -- In service uptime, which counts only while the service runs. Setting the machine's clock does not move it.
    created_at_us INTEGER NOT NULL,
    -- Over all columns but the id; src/minibill/api/idempotency.py computes it.
    checksum      INTEGER NOT NULL
        CONSTRAINT idempotency_checksum_has_63_bits CHECK (checksum >= 0)
) STRICT;

CREATE UNIQUE INDEX idempotency_one_per_caller_and_key ON idempotency_keys (caller, key);

CREATE TRIGGER idempotency_responses_are_never_changed BEFORE UPDATE ON idempotency_keys
BEGIN SELECT RAISE(ABORT, 'idempotency_responses_are_never_changed'); END;

CREATE TABLE revoked_tokens (
    token_id      TEXT NOT NULL PRIMARY KEY
        CONSTRAINT revoked_tokens_id_has_1_to_255_characters CHECK (length(token_id) BETWEEN 1 AND 255),
    revoked_at_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX revoked_tokens_integrity_copy ON revoked_tokens (revoked_at_us);

CREATE TABLE revoked_subjects (
    sub              TEXT NOT NULL PRIMARY KEY
        CONSTRAINT revoked_subjects_sub_has_1_to_128_characters CHECK (length(sub) BETWEEN 1 AND 128),
    -- Wall-clock time, like the times in tokens.
    issued_before_us INTEGER NOT NULL,
    revoked_at_us    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX revoked_subjects_integrity_copy ON revoked_subjects (revoked_at_us, issued_before_us);

CREATE TRIGGER revoked_subjects_times_never_decrease BEFORE UPDATE ON revoked_subjects
WHEN NEW.sub <> OLD.sub OR NEW.issued_before_us < OLD.issued_before_us OR NEW.revoked_at_us < OLD.revoked_at_us
BEGIN SELECT RAISE(ABORT, 'revoked_subjects_times_never_decrease'); END;

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

CREATE INDEX events_by_entry ON events (after_entry_id);

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

CREATE INDEX thresholds_integrity_copy ON thresholds (account_id, position, recovered_micro, is_below);

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

CREATE INDEX webhooks_integrity_copy
    ON webhooks (url, types, description, is_enabled, secret_version, rotated_until_us, revision, created_at_us, updated_at_us);

CREATE TRIGGER webhooks_are_at_most_20 BEFORE INSERT ON webhooks
WHEN (SELECT count(*) FROM webhooks) >= 20
BEGIN SELECT RAISE(ABORT, 'webhooks_are_at_most_20'); END;

CREATE TABLE webhook_accepted (
    webhook_id INTEGER NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    entry_id   INTEGER NOT NULL,
    event_id   INTEGER NOT NULL,
    PRIMARY KEY (webhook_id, entry_id, event_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE webhook_set_aside (
    webhook_id INTEGER NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    -- The id of the account, or of the campaign for an event without an account.
    line_key   TEXT NOT NULL,
    entry_id   INTEGER NOT NULL,
    event_id   INTEGER NOT NULL,
    PRIMARY KEY (webhook_id, line_key, entry_id, event_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE webhook_replays (
    webhook_id INTEGER NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    entry_id   INTEGER NOT NULL,
    event_id   INTEGER NOT NULL,
    PRIMARY KEY (webhook_id, entry_id, event_id)
) STRICT, WITHOUT ROWID;

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
