-- A reservation holds credits of one or more lots until it is finalized, released or expired. The price is the list price
-- less a discount. Modes: live charges at most the held credits, soft may charge more (an overrun), and shadow only records
-- the price.

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

-- Overdue reservations, for a write that touches one account and for the background sweep.
CREATE INDEX reservations_by_account_and_expiry ON credit_reservations (account_id, expires_at_us) WHERE status = 'pending';
CREATE INDEX reservations_by_expiry ON credit_reservations (expires_at_us) WHERE status = 'pending';
-- A balance of a past moment leaves out reservations that were overdue then and expired later.
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

-- Reservations that ended without an entry, in the order of their ends. The hash chain covers ends by these rows and by
-- entries.
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

-- The lots that a reservation holds, in the order in which it reserves and consumes them.
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
