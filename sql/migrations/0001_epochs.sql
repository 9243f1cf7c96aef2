-- Epochs keep ids unique across lost copies of a database. A database starts in epoch 1, which has no row. A restore, or a
-- start that may have lost commits, opens the next epoch. All ids of an epoch are above its base, so ids that a lost copy
-- has issued are not issued again. src/minibill/db/epochs.py chooses the base.
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

-- The number of ids that each epoch skipped, by table. Readers subtract it to count rows by their ids.
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
