-- The hash chain, and the commit count of the database.

-- name: count_commit
UPDATE book_head
   SET commits = commits + 1,
       negated_commits = negated_commits - 1
 WHERE id = 1;

-- name: mark
-- The high-water mark. The link is NULL if there is none yet. No row means that book_head is damaged.
SELECT h.commits, c.number, CAST(c.hash AS BLOB)
  FROM book_head h
  LEFT JOIN book_chain c ON c.number = (SELECT max(number) FROM book_chain)
 WHERE h.id = 1
   AND h.negated_commits = -h.commits;

-- name: link_hash
SELECT hash
  FROM book_chain
 WHERE number = :number;

-- name: last_link
SELECT number, hash, accounts, lots, reservations, charges, debts, entries, grants, audit_rows, events, silent_ends, keys, epochs
  FROM book_chain
 ORDER BY number DESC
 LIMIT 1;

-- name: links
SELECT number, hash, keys_hash, accounts, lots, reservations, charges, debts, entries, grants, audit_rows, events, silent_ends,
       keys, epochs
  FROM book_chain
 ORDER BY number;

-- name: rows_to_link
-- The range of the next link: up to :count rows of each table after the last covered one. Rows are counted, because ids skip to
-- the base of each new epoch.
SELECT coalesce((SELECT max(id) FROM (SELECT id FROM credit_accounts WHERE id > :accounts ORDER BY id LIMIT :count + 0)), :accounts),
       coalesce((SELECT max(id) FROM (SELECT id FROM credit_lots WHERE id > :lots ORDER BY id LIMIT :count + 0)), :lots),
       coalesce((SELECT max(id) FROM (SELECT id FROM credit_reservations WHERE id > :reservations ORDER BY id LIMIT :count + 0)), :reservations),
       coalesce((SELECT max(id) FROM (SELECT id FROM credit_charges WHERE id > :charges ORDER BY id LIMIT :count + 0)), :charges),
       coalesce((SELECT max(id) FROM (SELECT id FROM credit_debts WHERE id > :debts ORDER BY id LIMIT :count + 0)), :debts),
       coalesce((SELECT max(id) FROM (SELECT id FROM credit_ledger WHERE id > :entries ORDER BY id LIMIT :count + 0)), :entries),
       coalesce((SELECT max(id) FROM (SELECT id FROM credit_grants WHERE id > :grants ORDER BY id LIMIT :count + 0)), :grants),
       coalesce((SELECT max(seq) FROM (SELECT seq FROM admin_audit_log WHERE seq > :audit_rows ORDER BY seq LIMIT :count + 0)), :audit_rows),
       coalesce((SELECT max(id) FROM (SELECT id FROM events WHERE id > :events ORDER BY id LIMIT :count + 0)), :events),
       coalesce((SELECT max(id) FROM (SELECT id FROM silent_ends WHERE id > :silent_ends ORDER BY id LIMIT :count + 0)), :silent_ends),
       coalesce((SELECT max(id) FROM (SELECT id FROM idempotency_keys WHERE id > :keys ORDER BY id LIMIT :count + 0)), :keys),
       coalesce((SELECT max(base_id) FROM (SELECT base_id FROM book_epochs WHERE base_id > :epochs ORDER BY base_id LIMIT :count + 0)), :epochs);

-- name: append_link
INSERT INTO book_chain (
    number, hash, keys_hash, accounts, lots, reservations, charges, debts, entries, grants, audit_rows, events, silent_ends, keys,
    epochs)
VALUES (
    :number, :hash, :keys_hash, :accounts, :lots, :reservations, :charges, :debts, :entries, :grants, :audit_rows, :events,
    :silent_ends, :keys, :epochs);

-- The hashed rows of a link: one table as JSON, in key order, with all columns that never change. SQLite encodes the JSON in half
-- the time that reading the rows takes. The result is a blob, because damaged text may not be UTF-8.

-- name: linked_accounts
SELECT CAST(json_group_array(json_array(id, entity_type, entity_id, created_at_us)) AS BLOB)
  FROM credit_accounts NOT INDEXED
 WHERE id > :after AND id <= :until;

-- name: linked_lots
SELECT CAST(json_group_array(json_array(
           id, account_id, pool_id, source_type, source_id, campaign_id, priority, original_micro, expires_at_us, metadata,
           created_at_us)) AS BLOB)
  FROM credit_lots NOT INDEXED
 WHERE id > :after AND id <= :until;

-- name: linked_reservations
SELECT CAST(json_group_array(json_array(
           id, account_id, pool_id, billing_mode, list_micro, discount_bps, max_discount_micro, discount_micro, community_id,
           tier, held_micro, expires_at_us, description, metadata, created_by, created_at_us)) AS BLOB)
  FROM credit_reservations NOT INDEXED
 WHERE id > :after AND id <= :until;

-- name: linked_reservation_lots
SELECT CAST(json_group_array(json_array(reservation_id, position, lot_id, reserved_micro)) AS BLOB)
  FROM reservation_lots NOT INDEXED
 WHERE reservation_id > :after AND reservation_id <= :until;

-- name: linked_charges
SELECT CAST(json_group_array(json_array(
           id, account_id, pool_id, source_id, billing_mode, list_micro, discount_bps, max_discount_micro, discount_micro,
           community_id, tier, charged_micro, debt_micro, after_entry_id, entry_count, description, metadata, created_by,
           created_at_us)) AS BLOB)
  FROM credit_charges NOT INDEXED
 WHERE id > :after AND id <= :until;

-- name: linked_debts
SELECT CAST(json_group_array(json_array(id, account_id, reservation_id, charge_id, original_micro, created_at_us)) AS BLOB)
  FROM credit_debts NOT INDEXED
 WHERE id > :after AND id <= :until;

-- name: linked_entries
SELECT CAST(json_group_array(json_array(
           id, account_id, pool_id, entry_seq, entry_type, lot_id, reservation_id, charge_id, amount_micro,
           available_delta_micro, reserved_delta_micro, available_after_micro, reserved_after_micro, description, metadata,
           created_at_us)) AS BLOB)
  FROM credit_ledger NOT INDEXED
 WHERE id > :after AND id <= :until;

-- name: linked_grants
SELECT CAST(json_group_array(json_array(
           id, campaign_id, account_id, lot_id, amount_micro, grant_formula, formula_input, created_at_us)) AS BLOB)
  FROM credit_grants NOT INDEXED
 WHERE id > :after AND id <= :until;

-- name: linked_audit_rows
-- The hash of an audit row covers all of its columns.
SELECT CAST(json_group_array(json_array(seq, hex(hash))) AS BLOB)
  FROM admin_audit_log NOT INDEXED
 WHERE seq > :after AND seq <= :until;

-- name: linked_events
SELECT CAST(json_group_array(json_array(
           id, after_entry_id, type, account_id, campaign_id, data, created_at_us)) AS BLOB)
  FROM events NOT INDEXED
 WHERE id > :after AND id <= :until;

-- name: linked_silent_ends
SELECT CAST(json_group_array(json_array(id, reservation_id)) AS BLOB)
  FROM silent_ends NOT INDEXED
 WHERE id > :after AND id <= :until;

-- The ends of reservations, which happen once. An end with credits has an entry; the others are in silent_ends.

-- name: reservation_ends
SELECT CAST(json_group_array(json_array(
           r.id, r.status, r.actual_cost_micro, r.finalized_micro, r.overrun_micro, r.absorbed_micro, r.released_micro,
           r.closed_at_us, r.closed_by)) AS BLOB)
  FROM credit_ledger e NOT INDEXED
 CROSS JOIN credit_reservations r ON r.id = e.reservation_id
 WHERE e.id > :after AND e.id <= :until
   AND e.entry_type IN ('finalize', 'release', 'expire', 'revoke', 'shadow_finalize');

-- name: silent_reservation_ends
SELECT CAST(json_group_array(json_array(
           r.id, r.status, r.actual_cost_micro, r.finalized_micro, r.overrun_micro, r.absorbed_micro, r.released_micro,
           r.closed_at_us, r.closed_by)) AS BLOB)
  FROM silent_ends s NOT INDEXED
 CROSS JOIN credit_reservations r ON r.id = s.reservation_id
 WHERE s.id > :after AND s.id <= :until;

-- name: hashed_keys
-- The checksum of a key covers all of its columns.
SELECT CAST(json_group_array(json_array(id, checksum)) AS BLOB)
  FROM idempotency_keys NOT INDEXED
 WHERE id > :after AND id <= :until;

-- name: oldest_key
SELECT min(id)
  FROM idempotency_keys;

-- name: linked_epochs
SELECT CAST(json_group_array(json_array(
           base_id, number, reason, began_at_us, accounts, lots, reservations, charges, debts, entries, campaigns,
           grants, events)) AS BLOB)
  FROM book_epochs NOT INDEXED
 WHERE base_id > :after AND base_id <= :until;
