"""Settings compared with the audit log: rows that administrators change in place.

The audit row of such a write holds the state after it. The audit log is a hash chain, so a row that was changed, added or
deleted by hand differs from its newest audit row. Columns that the service changes by itself are not compared: SECURITY.md
lists them.
"""

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from minibill.config import REVOCATION_SECONDS_MIN
from minibill.core import ids
from minibill.core.clock import US_PER_SECOND, format_time
from minibill.core.write_result import TargetType
from minibill.db.queries import Row, queries
from minibill.db.sqlite import Connection

SQL = queries("settings")

# Targets that are compared between two pauses: a few milliseconds.
PAUSE_TARGETS = 100

# Members of the details that follow from other rows, or that the service changes.
_DERIVED = {
    "campaign": {"id", "spentMicro", "remainingMicro", "grantCount", "updatedAt"},
    "threshold": {"state", "availableMicro"},
    "webhook": {"id", "delivered", "failingSince", "updatedAt"},
}

# Raised by details or rows that hold values which minibill never writes.
_UNREADABLE = (TypeError, ValueError, KeyError, AttributeError, OverflowError, msgspec.MsgspecError)

# The state of a target in JSON types; None if it has no rows.
State = Any


class Setting(NamedTuple):
    """A table of settings: `fold` returns the state after an audit row, `load` the state that the table holds.

    `fold` takes the previous state, the action and the details. `load` also takes the expected state, because the service
    may have changed some members since.
    """

    rule: str
    target_type: TargetType
    actions: frozenset[str]
    fold: Callable[[State, str, dict[str, Any]], State]
    load: Callable[[Connection, str, State], State]
    # A query of the keys of all targets that have rows, and the prefix of their ids; None if the key is the id.
    owners: str
    prefix: str | None


def differences(conn: Connection, setting: Setting, pause: Callable[[], object]) -> Iterator[str]:
    """Yield the id of every target whose rows differ from the audit log."""
    present = 0
    audited = conn.cursor().execute(SQL.audited_settings.sql, (setting.target_type,))
    for number, (target_id, rows) in enumerate(groupby(audited, key=lambda row: row[0])):
        history = [(action, details) for _, action, details in rows if action in setting.actions]
        if not history:
            continue
        try:
            expected = _expected(setting, history)
            found = setting.load(conn, target_id, expected)
            is_same = _canonical(found) == _canonical(expected)
        except _UNREADABLE:
            found, is_same = None, False
        present += found is not None
        if not is_same:
            yield target_id
        if number % PAUSE_TARGETS == 0:
            pause()
    count = conn.execute(f"SELECT count(*) FROM ({setting.owners})").fetchone()[0]
    if count != present:
        yield from _without_audit_row(conn, setting, pause)


def _without_audit_row(conn: Connection, setting: Setting, pause: Callable[[], object]) -> Iterator[str]:
    """Yield targets that have rows but no audit row."""
    for number, (key,) in enumerate(conn.cursor().execute(setting.owners)):
        target_id = key if setting.prefix is None else ids.encode(setting.prefix, key)
        audited = SQL.audited_actions.all(conn, target_type=setting.target_type, target_id=target_id)
        if not any(action in setting.actions for (action,) in audited):
            yield target_id
        if number % PAUSE_TARGETS == 0:
            pause()


def _expected(setting: Setting, history: list[tuple[str, str]]) -> State:
    state: State = None
    for action, details in history:
        state = setting.fold(state, action, msgspec.json.decode(details))
    return state


def _canonical(state: State) -> bytes:
    """Encode a state as JSON, where `1`, `1.0` and `true` differ. In Python they are equal."""
    return msgspec.json.encode(state, order="sorted")


def _without(members: dict[str, Any], kind: str) -> dict[str, Any]:
    return {name: value for name, value in members.items() if name not in _DERIVED[kind]}


def _time(time_us: int | None) -> str | None:
    return None if time_us is None else format_time(time_us)


def _micro(amount: int | None) -> str | None:
    return None if amount is None else str(amount)


def _json(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)


# --- tiers of a community ---


def _fold_tiers(_: State, __: str, details: dict[str, Any]) -> State:
    return details["after"] or None


def _load_tiers(conn: Connection, community_id: str, _: State) -> State:
    rows = SQL.tiers_to_compare.all(conn, community_id=community_id)
    _require_positions(rows)
    return [
        {"tier": tier, "rateBps": rate_bps, "maxDiscountMicro": _micro(max_micro)} for _, tier, rate_bps, max_micro in rows
    ] or None


def _require_positions(rows: list[Row]) -> None:
    if [position for position, *_ in rows] != list(range(1, len(rows) + 1)):
        raise ValueError("the positions are not 1, 2, 3 …")


# --- memberships of an account, by community ---


def _fold_memberships(state: State, action: str, details: dict[str, Any]) -> State:
    memberships: dict[str, Any] = dict(state or {})
    if action == "membership.put":
        memberships[details["after"]["communityId"]] = details["after"]
    else:
        del memberships[details["before"]["communityId"]]
    return memberships or None


def _load_memberships(conn: Connection, account_id: str, _: State) -> State:
    rows = SQL.memberships_to_compare.all(conn, account_id=ids.decode(ids.ACCOUNT, account_id))
    return {
        community_id: {
            "accountId": account_id,
            "communityId": community_id,
            "tier": tier,
            "expiresAt": _time(expires_at_us),
        }
        for community_id, tier, expires_at_us in rows
    } or None


# --- thresholds of an account ---


def _fold_thresholds(_: State, __: str, details: dict[str, Any]) -> State:
    return [_without(threshold, "threshold") for threshold in details["after"]] or None


def _load_thresholds(conn: Connection, account_id: str, _: State) -> State:
    rows = SQL.thresholds_to_compare.all(conn, account_id=ids.decode(ids.ACCOUNT, account_id))
    _require_positions(rows)
    return [
        {"poolId": pool_id, "belowMicro": str(below_micro), "recoveredMicro": str(recovered_micro)}
        for _, pool_id, below_micro, recovered_micro in rows
    ] or None


# --- campaigns ---


def _fold_campaign(_: State, __: str, details: dict[str, Any]) -> State:
    return _without(details["after"], "campaign")


def _load_campaign(conn: Connection, campaign_id: str, expected: State) -> State:
    row = SQL.campaign_to_compare.one(conn, campaign_id=ids.decode(ids.CAMPAIGN, campaign_id))
    if row is None:
        return None
    (
        name, description, campaign_type, status, budget_micro, grant_formula, grant_config, pool_id, per_wallet_cap_micro,
        starts_at_us, expires_at_us, grant_ttl_seconds, created_by, created_at_us, updated_at_us,
    ) = row  # fmt: skip
    if _has_expired(status, expected["status"], expires_at_us, updated_at_us):
        status = expected["status"]
    return {
        "name": name,
        "description": description,
        "campaignType": campaign_type,
        "status": status,
        "budgetMicro": str(budget_micro),
        "grantFormula": grant_formula,
        "grantConfig": _json(grant_config),
        "poolId": pool_id,
        "perWalletCapMicro": str(per_wallet_cap_micro),
        "startsAt": _time(starts_at_us),
        "expiresAt": _time(expires_at_us),
        "grantTtlSeconds": grant_ttl_seconds,
        "createdBy": created_by,
        "createdAt": _time(created_at_us),
    }


def _has_expired(status: str, expected: str, expires_at_us: int | None, updated_at_us: int) -> bool:
    """Return true if the campaign expired after its newest audit row, recorded by a sweep or not."""
    if expires_at_us is None or "completed" in (status, expected):
        return False
    return expires_at_us <= updated_at_us if status == "expired" else expected == "expired"


# --- webhooks ---


def _fold_webhook(state: State, action: str, details: dict[str, Any]) -> State:
    if action == "webhook.delete":
        return None
    secret = details if "secretVersion" in details else state
    return _without(details["after"], "webhook") | {name: secret[name] for name in ("secretVersion", "previousSecretUntil")}


def _load_webhook(conn: Connection, webhook_id: str, expected: State) -> State:
    row = SQL.webhook_to_compare.one(conn, webhook_id=ids.decode(ids.WEBHOOK, webhook_id))
    if row is None:
        return None
    url, types, description, is_enabled, secret_version, rotated_until_us, failing_since_us, created_at_us = row
    enabled = bool(is_enabled)
    # The service itself disables a webhook whose receiver has failed for too long.
    if expected is not None and failing_since_us is not None and not enabled:
        enabled = expected["enabled"]
    return {
        "url": url,
        "types": _json(types),
        "description": description,
        "enabled": enabled,
        "createdAt": _time(created_at_us),
        "secretVersion": secret_version,
        "previousSecretUntil": _time(rotated_until_us),
    }


# --- tokens on the deny list ---


def _fold_token(state: State, _: str, details: dict[str, Any]) -> State:
    return max(state or 0, details["runningUs"])


def _load_token(conn: Connection, token_id: str, expected: State) -> State:
    row = SQL.revoked_token_to_compare.one(conn, token_id=token_id)
    if row is not None:
        return row[0]
    return expected if _may_be_pruned(conn, expected) else None


def _may_be_pruned(conn: Connection, revoked_us: int) -> bool:
    newest = SQL.newest_uptime_to_compare.one(conn)
    assert newest is not None
    found: int = newest[0]
    return revoked_us < found - REVOCATION_SECONDS_MIN * US_PER_SECOND


# --- subjects whose earlier tokens are rejected ---


def _fold_subject(state: State, _: str, details: dict[str, Any]) -> State:
    # The audit row names the latest time so far.
    return {
        "issuedBefore": details["issuedBefore"],
        "runningUs": max(state["runningUs"] if state else 0, details["runningUs"]),
    }


def _load_subject(conn: Connection, sub: str, expected: State) -> State:
    row = SQL.revoked_subject_to_compare.one(conn, sub=sub)
    if row is not None:
        return {"issuedBefore": format_time(row[0]), "runningUs": row[1]}
    return expected if _may_be_pruned(conn, expected["runningUs"]) else None


# --- debts that were written off ---


def _fold_forgiven_debt(state: State, _: str, details: dict[str, Any]) -> State:
    # A repeated request writes nothing, and names no lot.
    return state or details["lotId"]


def _load_forgiven_debt(conn: Connection, debt_id: str, _: State) -> State:
    row = SQL.forgiven_debt_to_compare.one(conn, debt_id=ids.decode(ids.DEBT, debt_id))
    return None if row is None or row[0] is None else ids.encode(ids.LOT, row[0])


_SETTINGS = (
    Setting(
        "tiers_match_the_audit_log", "community", frozenset({"tiers.replace"}),
        _fold_tiers, _load_tiers, "SELECT DISTINCT community_id FROM discount_tiers", None,
    ),
    Setting(
        "memberships_match_the_audit_log", "account", frozenset({"membership.put", "membership.delete"}),
        _fold_memberships, _load_memberships, "SELECT DISTINCT account_id FROM memberships", ids.ACCOUNT,
    ),
    Setting(
        "thresholds_match_the_audit_log", "account", frozenset({"thresholds.replace"}),
        _fold_thresholds, _load_thresholds, "SELECT DISTINCT account_id FROM thresholds", ids.ACCOUNT,
    ),
    Setting(
        "campaigns_match_the_audit_log", "campaign",
        frozenset({"campaign.create", "campaign.edit", "campaign.activate", "campaign.pause", "campaign.complete"}),
        _fold_campaign, _load_campaign, "SELECT id FROM credit_campaigns", ids.CAMPAIGN,
    ),
    Setting(
        "webhooks_match_the_audit_log", "webhook",
        frozenset({"webhook.create", "webhook.edit", "webhook.rotate_secret", "webhook.delete"}),
        _fold_webhook, _load_webhook, "SELECT id FROM webhooks", ids.WEBHOOK,
    ),
    Setting(
        "revoked_tokens_match_the_audit_log", "token", frozenset({"token.revoke"}),
        _fold_token, _load_token, "SELECT token_id FROM revoked_tokens", None,
    ),
    Setting(
        "revoked_subjects_match_the_audit_log", "subject", frozenset({"token.revoke"}),
        _fold_subject, _load_subject, "SELECT sub FROM revoked_subjects", None,
    ),
    Setting(
        "forgiven_debts_match_the_audit_log", "debt", frozenset({"debt.forgive"}),
        _fold_forgiven_debt, _load_forgiven_debt, "SELECT id FROM credit_debts WHERE forgiven_lot_id IS NOT NULL", ids.DEBT,
    ),
)  # fmt: skip

SETTINGS = {setting.rule: setting for setting in _SETTINGS}
