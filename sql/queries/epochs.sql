-- Epochs of ids, and ids of new rows.

-- name: newest_epoch
-- No row means that the database is in its first epoch.
SELECT number, base_id
  FROM book_epochs
 ORDER BY base_id DESC
 LIMIT 1;

-- name: newest_ids
-- The base of the epoch, and the newest id of each append-only table; 0 if it is empty.
SELECT coalesce((SELECT max(base_id) FROM book_epochs), 0),
       coalesce((SELECT id FROM admin_audit_log ORDER BY seq DESC LIMIT 1), 0),
       coalesce((SELECT max(id) FROM credit_accounts), 0),
       coalesce((SELECT max(id) FROM credit_lots), 0),
       coalesce((SELECT max(id) FROM credit_reservations), 0),
       coalesce((SELECT max(id) FROM credit_charges), 0),
       coalesce((SELECT max(id) FROM credit_debts), 0),
       coalesce((SELECT max(id) FROM credit_ledger), 0),
       coalesce((SELECT max(id) FROM credit_campaigns), 0),
       coalesce((SELECT max(id) FROM credit_grants), 0),
       coalesce((SELECT max(id) FROM events), 0);

-- name: newest_counted_id
-- The newest id of the tables whose rows can be deleted, including deleted rows.
SELECT coalesce(max(seq), 0)
  FROM sqlite_sequence;

-- name: begin_epoch
INSERT INTO book_epochs (
    base_id, number, reason, began_at_us, accounts, lots, reservations, charges, debts, entries, campaigns, grants,
    events)
VALUES (
    :base_id, :number, :reason, :began_at_us, :accounts, :lots, :reservations, :charges, :debts, :entries, :campaigns,
    :grants, :events);

-- name: forget_counted_id
DELETE FROM sqlite_sequence
 WHERE name = :name;

-- name: count_on_from
INSERT INTO sqlite_sequence (name, seq)
VALUES (:name, :seq);
