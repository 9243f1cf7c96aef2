"""A small valid database, made by SQL alone, with a row of every kind in every state. Tests damage or reject one part of it.

Ada (1) is a gold member of the guild and has a pending and a finalized reservation on one lot. The bot (2) overspent a grant
in soft mode and owes 20 of 60. The guild (3) has a revoked grant, an expired lot and a shadow reservation. The meter (4) has
a charge of two lots, a soft charge of which it owes 13 of 18, a shadow charge, and a charge of nothing. Times are small
numbers; the newest entry has time 1210.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from minibill.audit import log
from minibill.db.connection import open_writer

# One campaign in each state. 6 is active but starts after 2000, and 8 ends at 2000.
CAMPAIGNS = {"draft": 1, "active": 2, "paused": 3, "completed": 4, "expired": 5}
STARTS_LATER, IS_OVER = 6, 8

_ROWS = """
INSERT INTO credit_accounts VALUES (1, 'person', 'ada', 100), (2, 'agent', 'bot', 110),
    (3, 'community', 'guild', 120),
    (4, 'agent', 'meter', 130);

INSERT INTO credit_campaigns
SELECT column1, column2, NULL, column3, 'draft', 1000, 0, column4, NULL, 'general', 500, column5, column6, column7,
       0, 'op', 200, 200
  FROM (VALUES
    (1, 'Draft', 'promotional', 'fixed_amount', NULL, NULL, NULL),
    (2, 'Active', 'reverse_airdrop', 'fixed_amount', NULL, NULL, NULL),
    (3, 'Paused', 'loyalty', 'fixed_amount', 300, 9000, 60),
    (4, 'Completed', 'referral', 'tiered', NULL, NULL, NULL),
    (5, 'Expired', 'promotional', 'fixed_amount', NULL, 260, NULL),
    (6, 'Later', 'promotional', 'fixed_amount', 2001, NULL, NULL),
    (7, 'Second', 'promotional', 'fixed_amount', NULL, NULL, NULL),
    (8, 'Over', 'promotional', 'fixed_amount', NULL, 2000, NULL));
UPDATE credit_campaigns SET status = 'active' WHERE id IN (2, 3, 4, 6, 7, 8);
UPDATE credit_campaigns SET status = 'paused' WHERE id = 3;
UPDATE credit_campaigns SET status = 'completed' WHERE id = 4;
UPDATE credit_campaigns SET status = 'expired', updated_at_us = 260 WHERE id = 5;

INSERT INTO credit_lots VALUES
    (1, 1, 'general', 'deposit', 'order-1', NULL, 50, 1000, 1000, 0, 0, 0, 0, NULL, NULL, NULL, 1010),
    (2, 2, 'general', 'grant', NULL, 2, 50, 100, 100, 0, 0, 0, 0, NULL, NULL, NULL, 1070),
    (3, 2, 'general', 'deposit', 'order-2', NULL, 50, 40, 40, 0, 0, 0, 0, NULL, NULL, NULL, 1110),
    (4, 3, 'general', 'grant', NULL, 2, 50, 100, 100, 0, 0, 0, 0, NULL, NULL, NULL, 1130),
    (5, 3, 'general', 'purchase', 'order-3', NULL, 50, 50, 50, 0, 0, 0, 0, 1155, NULL, NULL, 1150),
    (6, 1, 'general', 'grant', NULL, NULL, 50, 70, 70, 0, 0, 0, 0, NULL, NULL, '{"why":"thanks"}', 1060),
    (7, 4, 'general', 'deposit', 'order-4', NULL, 50, 100, 100, 0, 0, 0, 0, NULL, NULL, NULL, 1180),
    (8, 4, 'general', 'grant', NULL, NULL, 50, 50, 50, 0, 0, 0, 0, NULL, NULL, NULL, 1180),
    (9, 4, 'general', 'deposit', 'order-5', NULL, 50, 5, 5, 0, 0, 0, 0, NULL, NULL, NULL, 1210);
UPDATE credit_campaigns SET spent_micro = 200, grant_count = 2, updated_at_us = 1130 WHERE id = 2;

INSERT INTO discount_tiers VALUES ('guild', 'gold', 1, 1000, 50), ('guild', 'silver', 2, 500, NULL);
INSERT INTO memberships VALUES (1, 1, 'guild', 'gold', NULL), (2, 2, 'guild', 'silver', 1500);

INSERT INTO credit_reservations (
    id, account_id, pool_id, billing_mode, status, list_micro, discount_bps, max_discount_micro, discount_micro,
    community_id, tier, held_micro, expires_at_us, description, metadata, created_by, created_at_us)
VALUES
    (1, 1, 'general', 'live', 'pending', 300, 0, NULL, 0, NULL, NULL, 300, 9000, NULL, NULL, 'service:g', 1020),
    (2, 1, 'general', 'live', 'pending', 200, 1000, 50, 20, 'guild', 'gold', 180, 9000, NULL, NULL, 'service:g', 1030),
    (3, 2, 'general', 'soft', 'pending', 150, 0, NULL, 0, NULL, NULL, 100, 9000, 'a job', '{"job":7}', 'service:g', 1080),
    (4, 3, 'gpu', 'shadow', 'pending', 80, 0, NULL, 0, NULL, NULL, 80, 9000, NULL, NULL, 'service:g', 1170),
    (5, 1, 'general', 'live', 'pending', 0, 0, NULL, 0, NULL, NULL, 0, 9000, NULL, NULL, 'service:g', 1020),
    (6, 1, 'general', 'live', 'pending', 0, 0, NULL, 0, NULL, NULL, 0, 9000, NULL, NULL, 'service:g', 1020);
INSERT INTO reservation_lots VALUES (1, 1, 1, 300), (2, 1, 1, 180), (3, 1, 2, 100);

INSERT INTO credit_ledger VALUES
    ( 1, 1, 'general', 1, 'deposit',        1,    NULL, NULL, 1000, 1000,    0, 1000,   0, NULL, NULL, 1010),
    ( 2, 1, 'general', 2, 'reserve',        1,    1, NULL,    -300, -300,  300,  700, 300, NULL, NULL, 1020),
    ( 3, 1, 'general', 3, 'reserve',        1,    2, NULL,    -180, -180,  180,  520, 480, NULL, NULL, 1030),
    ( 4, 1, 'general', 4, 'finalize',       1,    2, NULL,    -150,    0, -150,  520, 330, NULL, NULL, 1040),
    ( 5, 1, 'general', 5, 'release',        1,    2, NULL,      30,   30,  -30,  550, 300, NULL, NULL, 1050),
    ( 6, 1, 'general', 6, 'grant',          6,    NULL, NULL,   70,   70,    0,  620, 300, NULL, NULL, 1060),
    ( 7, 2, 'general', 1, 'grant',          2,    NULL, NULL,  100,  100,    0,  100,   0, NULL, NULL, 1070),
    ( 8, 2, 'general', 2, 'reserve',        2,    3, NULL,    -100, -100,  100,    0, 100, NULL, NULL, 1080),
    ( 9, 2, 'general', 3, 'finalize',       2,    3, NULL,    -100,    0, -100,    0,   0, NULL, NULL, 1090),
    (10, 2, 'general', 4, 'debt_incurred',  NULL, 3, NULL,     -60,    0,    0,    0,   0, NULL, NULL, 1090),
    (11, 2, 'general', 5, 'deposit',        3,    NULL, NULL,   40,   40,    0,   40,   0, NULL, NULL, 1110),
    (12, 2, 'general', 6, 'debt_paid',      3,    NULL, NULL,  -40,  -40,    0,    0,   0, NULL,
          '{"debtReservationId":"res_0000000000003"}', 1110),
    (13, 3, 'general', 1, 'grant',          4,    NULL, NULL,  100,  100,    0,  100,   0, NULL, NULL, 1130),
    (14, 3, 'general', 2, 'revoke',         4,    NULL, NULL, -100, -100,    0,    0,   0, NULL, NULL, 1140),
    (15, 3, 'general', 3, 'grant',          5,    NULL, NULL,   50,   50,    0,   50,   0, NULL, NULL, 1150),
    (16, 3, 'general', 4, 'expire',         5,    NULL, NULL,  -50,  -50,    0,    0,   0, NULL, NULL, 1160),
    (17, 3, 'gpu',     1, 'shadow_reserve', NULL, 4, NULL,       0,    0,    0,    0,   0, NULL, '{"wouldHold":"80"}', 1170);

INSERT INTO credit_charges VALUES
    (1, 4, 'general', 'call-1', 'live', 120, 1000, 50, 12, 'guild', 'gold', 108, 0, 19, 2, 'a call', '{"call":1}',
     'service:g', 1185),
    (2, 4, 'general', 'call-2', 'soft', 60, 0, NULL, 0, NULL, NULL, 42, 18, 21, 2, NULL, NULL, 'admin:op', 1190),
    (3, 4, 'gpu', NULL, 'shadow', 90, 0, NULL, 0, NULL, NULL, 90, 0, 23, 1, NULL, NULL, 'service:g', 1200),
    (4, 4, 'general', 'free', 'live', 0, 0, NULL, 0, NULL, NULL, 0, 0, 24, 0, NULL, NULL, 'service:g', 1200);
INSERT INTO credit_ledger VALUES
    (18, 4, 'general', 1, 'deposit',        7,    NULL, NULL,  100,  100,    0,  100,   0, NULL, NULL, 1180),
    (19, 4, 'general', 2, 'grant',          8,    NULL, NULL,   50,   50,    0,  150,   0, NULL, NULL, 1180),
    (20, 4, 'general', 3, 'charge',         7,    NULL, 1,    -100, -100,    0,   50,   0, 'a call', '{"call":1}', 1185),
    (21, 4, 'general', 4, 'charge',         8,    NULL, 1,      -8,   -8,    0,   42,   0, 'a call', '{"call":1}', 1185),
    (22, 4, 'general', 5, 'charge',         8,    NULL, 2,     -42,  -42,    0,    0,   0, NULL, NULL, 1190),
    (23, 4, 'general', 6, 'debt_incurred',  NULL, NULL, 2,     -18,    0,    0,    0,   0, NULL, NULL, 1190),
    (24, 4, 'gpu',     1, 'shadow_charge',  NULL, NULL, 3,       0,    0,    0,    0,   0, NULL,
          '{"wouldChargeMicro":"90"}', 1200),
    (25, 4, 'general', 7, 'deposit',        9,    NULL, NULL,    5,    5,    0,    5,   0, NULL, NULL, 1210),
    (26, 4, 'general', 8, 'debt_paid',      9,    NULL, NULL,   -5,   -5,    0,    0,   0, NULL,
          '{"debtChargeId":"charge_0000000000002"}', 1210);

UPDATE credit_lots SET available_micro = 550, reserved_micro = 300, consumed_micro = 150 WHERE id = 1;
UPDATE credit_lots SET available_micro = 0, consumed_micro = original_micro WHERE id IN (2, 3, 7, 8, 9);
UPDATE credit_lots SET available_micro = 0, revoked_micro = original_micro, revoked_at_us = 1140 WHERE id = 4;
UPDATE credit_lots SET available_micro = 0, expired_micro = original_micro WHERE id = 5;

UPDATE credit_reservations
   SET status = 'finalized', actual_cost_micro = 166, finalized_micro = 150, overrun_micro = 0, absorbed_micro = 0,
       released_micro = 30, closed_at_us = 1050
 WHERE id = 2;
UPDATE credit_reservations
   SET status = 'finalized', actual_cost_micro = 160, finalized_micro = 100, overrun_micro = 60, absorbed_micro = 0,
       released_micro = 0, closed_at_us = 1090
 WHERE id = 3;
UPDATE credit_reservations SET status = 'released', released_micro = 0, closed_at_us = 1050 WHERE id = 5;
UPDATE credit_reservations SET status = 'expired', released_micro = 0, closed_at_us = 9000 WHERE id = 6;

INSERT INTO credit_debts VALUES (1, 2, 3, NULL, 60, 0, NULL, 1090), (2, 4, NULL, 2, 18, 0, NULL, 1190);
UPDATE credit_debts SET paid_micro = 40 WHERE id = 1;
UPDATE credit_debts SET paid_micro = 5 WHERE id = 2;

INSERT INTO credit_grants (
    id, campaign_id, account_id, lot_id, amount_micro, status, grant_formula, formula_input, created_at_us)
VALUES
    (1, 2, 2, 2, 100, 'granted', 'fixed_amount', NULL, 1070),
    (2, 2, 3, 4, 100, 'granted', 'fixed_amount', '{"lossMicro":"100"}', 1130);
UPDATE credit_grants
   SET status = 'revoked', revoked_at_us = 1140, revoked_micro = 100, revoked_consumed_micro = 0, revoked_reserved_micro = 0,
       revoke_reason = 'a mistake'
 WHERE id = 2;

INSERT INTO thresholds VALUES (1, 'general', 600, 620, 1, 0), (1, 'general', 700, 800, 2, 1), (2, 'gpu', 5, 5, 1, 1);

INSERT INTO webhooks VALUES (1, 'https://example.com/hook', '["ledger.*"]', NULL, 1, 1, NULL, 16, 5, NULL, 1, 1200, 1200);

INSERT INTO reconciliations VALUES (1, 1160, '{"status":"healthy"}', NULL, NULL);

INSERT INTO idempotency_keys VALUES (1, 'admin:op', 'key-1', zeroblob(32), 201, x'7b7d', 1000, 625297192556928864);
INSERT INTO revoked_tokens VALUES ('token-1', 1000);
INSERT INTO revoked_subjects VALUES ('mallory', 1000, 1000);
"""

_AUDIT = (
    (1, 1, "op", "account.open", "account", "acct_1", "{}", None, None, None, None, 210),
    (2, 2, "op", "account.mint", "account", "acct_1", '{"after":1}', "192.0.2.7", "curl", "abc", "token-0", 1150),
)


_CAMPAIGNS = (
    ("Draft", "promotional", "draft", "fixed_amount", None, None, None),
    ("Active", "reverse_airdrop", "active", "fixed_amount", None, None, None),
    ("Paused", "loyalty", "paused", "fixed_amount", 300, 9000, 60),
    ("Completed", "referral", "completed", "tiered", None, None, None),
    # The background sweep expired it.
    ("Expired", "promotional", "draft", "fixed_amount", None, 260, None),
    ("Later", "promotional", "active", "fixed_amount", 2001, None, None),
    ("Second", "promotional", "active", "fixed_amount", None, None, None),
    ("Over", "promotional", "active", "fixed_amount", None, 2000, None),
)


def _time(micro: int | None) -> str | None:
    return None if micro is None else f"1970-01-01T00:00:00.{micro:06}Z"


def _campaign(number: int) -> dict[str, object]:
    name, kind, status, formula, starts, expires, ttl = _CAMPAIGNS[number - 1]
    return {
        "id": f"camp_{number:013}", "name": name, "description": None, "campaignType": kind, "status": status,
        "budgetMicro": "1000", "spentMicro": "0", "remainingMicro": "1000", "grantFormula": formula, "grantConfig": None,
        "poolId": "general", "perWalletCapMicro": "500", "startsAt": _time(starts), "expiresAt": _time(expires),
        "grantTtlSeconds": ttl, "grantCount": 0, "createdBy": "op", "createdAt": _time(200), "updatedAt": _time(200),
    }  # fmt: skip


def _membership(account: int, tier: str, expires: int | None) -> dict[str, object]:
    return {"accountId": f"acct_{account:013}", "communityId": "guild", "tier": tier, "expiresAt": _time(expires)}


def _threshold(pool: str, below: int, recovered: int, state: str) -> dict[str, object]:
    return {
        "poolId": pool, "belowMicro": str(below), "recoveredMicro": str(recovered), "state": state, "availableMicro": "0",
    }  # fmt: skip


def _settings() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield the admin writes to rows that change in place: action, target type, target id and details."""
    tiers = [
        {"tier": "gold", "rateBps": 1000, "maxDiscountMicro": "50"},
        {"tier": "silver", "rateBps": 500, "maxDiscountMicro": None},
    ]
    yield "tiers.replace", "community", "guild", {"before": [], "after": tiers}
    for account, tier, expires in ((1, "gold", None), (2, "silver", 1500)):
        after = _membership(account, tier, expires)
        yield "membership.put", "account", f"acct_{account:013}", {"before": None, "after": after}
    ada = [_threshold("general", 600, 620, "above"), _threshold("general", 700, 800, "below")]
    for account, after_all in ((1, ada), (2, [_threshold("gpu", 5, 5, "below")])):
        yield "thresholds.replace", "account", f"acct_{account:013}", {"before": [], "after": after_all}
    for number in range(1, len(_CAMPAIGNS) + 1):
        details = {"before": None, "after": _campaign(number)}
        yield "campaign.create", "campaign", f"camp_{number:013}", details
    hook = {
        "id": "hook_0000000000001", "url": "https://example.com/hook", "types": ["ledger.*"], "description": None,
        "enabled": True, "delivered": "evt_1", "failingSince": None, "createdAt": _time(1200), "updatedAt": _time(1200),
    }  # fmt: skip
    secret = {"secretVersion": 1, "previousSecretUntil": None}
    yield "webhook.create", "webhook", "hook_0000000000001", {"before": None, "after": hook, **secret}
    yield "token.revoke", "token", "token-1", {"runningUs": 1000}
    yield "token.revoke", "subject", "mallory", {"issuedBefore": _time(1000), "runningUs": 1000}


def audit_rows() -> list[tuple[object, ...]]:
    """Return the rows of the audit log with their hashes."""
    rows: list[tuple[object, ...]] = []
    previous_hash = log.NO_HASH
    settings = (
        (seq, seq, "op", action, kind, target, msgspec.json.encode(details).decode(), None, None, None, None, 1210)
        for seq, (action, kind, target, details) in enumerate(_settings(), 3)
    )
    for row in (*_AUDIT, *settings):
        own_hash = log.row_hash(row, previous_hash)
        rows.append((*row, previous_hash, own_hash))
        previous_hash = own_hash
    return rows


def make_book(migrated_file: Path, folder: Path) -> Path:
    """Create the database in a new file, and return its path."""
    path = folder / "book.db"
    shutil.copyfile(migrated_file, path)
    conn = open_writer(path)
    try:
        conn.executescript(f"BEGIN;\n{_ROWS}")
        conn.executemany(f"INSERT INTO admin_audit_log VALUES ({', '.join('?' * 14)})", audit_rows())
        conn.execute("UPDATE reconciliations SET audit_seq = 1, audit_hash = ?", (audit_rows()[0][-1],))
        conn.execute("COMMIT")
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        conn.close()
    return path


def literal(value: object) -> str:
    """Return a value as a SQL literal."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"
