-- A debt is the part of a soft overrun, or of a soft charge, that no credits covered. New lots of the account pay it.

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
