-- A charge spends credits without a reservation. The price is the list price less a discount. Live mode charges the price
-- from available credits, soft mode leaves the uncovered part as a debt, and shadow only records the price.

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

-- A usage record charges an account once.
CREATE UNIQUE INDEX charges_one_per_account_and_source ON credit_charges (account_id, source_id) WHERE source_id IS NOT NULL;
CREATE INDEX charges_by_account ON credit_charges (account_id);

CREATE TRIGGER charges_are_never_changed BEFORE UPDATE ON credit_charges
BEGIN SELECT RAISE(ABORT, 'charges_are_never_changed'); END;

CREATE TRIGGER charges_are_never_deleted BEFORE DELETE ON credit_charges
BEGIN SELECT RAISE(ABORT, 'charges_are_never_deleted'); END;

-- The charge comes first and reserves the ids of its entries. They consume lots of its account.
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
