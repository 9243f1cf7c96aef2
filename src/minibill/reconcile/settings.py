"""Settings: rows that an administrator changes in place, each compared with the audit log.

The audit row of such a write holds the state after it. The audit log is a hash chain, so a row that was changed, added or
deleted by hand differs from what its newest audit row says. Members that the system changes by itself are left out:
SECURITY.md lists them.
"""

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from minibill import ids
from minibill.auth.tokens import CLOCK_SKEW_SECONDS, KEEP_DENIED_SECONDS, SERVICE_TOKEN_MAX_TTL
from minibill.campaigns.lifecycle import ENDED, CampaignRow, campaign_answer
from minibill.clock import US_PER_SECOND
from minibill.db.queries import Row, queries
from minibill.db.sqlite import sqlite3
from minibill.discounts.memberships import membership_answer
from minibill.discounts.tiers import tiers_answer
from minibill.events.thresholds import thresholds_answer
from minibill.outcome import TargetType
from minibill.webhooks.hooks import Hook, webhook_answer
from minibill.wire import optional_time

SQL = queries("reconcile")
REQUESTS = queries("requests")
EVENTS = queries("events")
CAMPAIGNS = queries("campaigns")
WEBHOOKS = queries("webhooks")

# Targets that are compared between two pauses: some milliseconds.
PAUSE_TARGETS = 100

# Members of an answer that follow from other rows, or that the system changes.
_DERIVED = {
    "campaign": {"spentMicro", "remainingMicro", "grantCount", "updatedAt"},
    "threshold": {"state", "availableMicro"},
    "webhook": {"delivered", "failingSince", "updatedAt"},
}

# A token on the deny list stays there for at least this long, whatever the longest life of a token is set to.
_DENIED_US_MIN = (SERVICE_TOKEN_MAX_TTL + 2 * CLOCK_SKEW_SECONDS + KEEP_DENIED_SECONDS) * US_PER_SECOND

# Raised by details or rows that hold values which this version never writes.
_UNREADABLE = (TypeError, ValueError, KeyError, AttributeError, OverflowError, msgspec.MsgspecError)

# The state of a target in JSON types; None: it has no rows.
State = Any


class Setting(NamedTuple):
    """A table of settings: `fold` gives the state after an audit row, `load` the state that the table holds.

    `fold` takes the state before, the action and the details. `load` takes the expected state as well, since some
    differences are allowed.
    """

    rule: str
    target_type: TargetType
    actions: frozenset[str]
    fold: Callable[[State, str, dict[str, Any]], State]
    load: Callable[[sqlite3.Connection, str, State], State]
    # SQL of the keys of all targets that have rows, and the prefix of their ids; None: the key is the id.
    owners: str
    prefix: str | None


def differences(conn: sqlite3.Connection, setting: Setting, pause: Callable[[], object]) -> Iterator[str]:
    """Yields the id of every target whose rows differ from the audit log."""
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


def _without_audit_row(conn: sqlite3.Connection, setting: Setting, pause: Callable[[], object]) -> Iterator[str]:
    """Yields targets that have rows although the audit log names them nowhere."""
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
    """Encodes a state so that `1`, `1.0` and `true` differ, which they don't in Python."""
    return msgspec.json.encode(state, order="sorted")


def _plain(answer: object, derived: str | None = None) -> Any:
    """Converts an answer to JSON types, without the derived members."""
    return _without(msgspec.json.decode(msgspec.json.encode(answer)), derived)


def _without(members: dict[str, Any], derived: str | None) -> dict[str, Any]:
    left_out = _DERIVED[derived] if derived else set[str]()
    return {name: value for name, value in members.items() if name not in left_out}


# --- tiers of a community ---


def _fold_tiers(_: State, __: str, details: dict[str, Any]) -> State:
    return details["after"] or None


def _load_tiers(conn: sqlite3.Connection, community_id: str, _: State) -> State:
    rows = SQL.tiers_with_positions.all(conn, community_id=community_id)
    _require_positions(rows)
    return [_plain(tier) for tier in tiers_answer(community_id, [row[1:] for row in rows]).tiers] or None


def _require_positions(rows: list[Row]) -> None:
    if [position for position, *_ in rows] != list(range(1, len(rows) + 1)):
        raise ValueError("positions don't count from 1")


# --- memberships of an account, by community ---


def _fold_memberships(state: State, action: str, details: dict[str, Any]) -> State:
    memberships: dict[str, Any] = dict(state or {})
    if action == "membership.put":
        memberships[details["after"]["communityId"]] = details["after"]
    else:
        del memberships[details["before"]["communityId"]]
    return memberships or None


def _load_memberships(conn: sqlite3.Connection, account_id: str, _: State) -> State:
    rows = SQL.memberships_of_account.all(conn, account_id=ids.decode(ids.ACCOUNT, account_id))
    answers = [membership_answer(row) for row in rows]
    return {answer.community_id: _plain(answer) for answer in answers} or None


# --- thresholds of an account ---


def _fold_thresholds(_: State, __: str, details: dict[str, Any]) -> State:
    return [_without(threshold, "threshold") for threshold in details["after"]] or None


def _load_thresholds(conn: sqlite3.Connection, account_id: str, _: State) -> State:
    key = ids.decode(ids.ACCOUNT, account_id)
    _require_positions(SQL.threshold_positions.all(conn, account_id=key))
    rows = EVENTS.thresholds_of_account.all(conn, account_id=key)
    return [_plain(threshold, "threshold") for threshold in thresholds_answer(account_id, rows).thresholds] or None


# --- campaigns ---


def _fold_campaign(_: State, __: str, details: dict[str, Any]) -> State:
    return _without(details["after"], "campaign")


def _load_campaign(conn: sqlite3.Connection, campaign_id: str, expected: State) -> State:
    row = CAMPAIGNS.find_campaign.one(conn, campaign_id=ids.decode(ids.CAMPAIGN, campaign_id))
    if row is None:
        return None
    campaign = CampaignRow(*row)
    # At a time before any end, so that the status is the one that is written.
    found = _plain(campaign_answer(campaign, now_us=-1), "campaign")
    if _has_expired(campaign, expected):
        found["status"] = expected["status"]
    return found


def _has_expired(campaign: CampaignRow, expected: State) -> bool:
    """Tells whether the campaign reached its end after its newest audit row, or before the sweep wrote that down."""
    if campaign.expires_at_us is None or "completed" in (campaign.status, expected["status"]):
        return False
    if campaign.status == "expired":
        return campaign.expires_at_us <= campaign.updated_at_us
    return expected["status"] == "expired" and campaign.status not in ENDED


# --- webhooks ---


def _fold_webhook(state: State, action: str, details: dict[str, Any]) -> State:
    if action == "webhook.delete":
        return None
    secret = details if "secretVersion" in details else state
    return _without(details["after"], "webhook") | {name: secret[name] for name in ("secretVersion", "previousSecretUntil")}


def _load_webhook(conn: sqlite3.Connection, webhook_id: str, expected: State) -> State:
    row = WEBHOOKS.find_webhook.one(conn, webhook_id=ids.decode(ids.WEBHOOK, webhook_id))
    if row is None:
        return None
    hook = Hook(*row)
    found = _plain(webhook_answer(hook), "webhook") | {
        "secretVersion": hook.secret_version,
        "previousSecretUntil": optional_time(hook.rotated_until_us),
    }
    # The service itself disables a webhook whose receiver has failed for too long.
    if expected is not None and hook.failing_since_us is not None and not hook.is_enabled:
        found["enabled"] = expected["enabled"]
    return found


# --- tokens on the deny list ---


def _fold_token(state: State, _: str, details: dict[str, Any]) -> State:
    return max(state or 0, details["runningUs"])


def _load_token(conn: sqlite3.Connection, token_id: str, expected: State) -> State:
    row = SQL.revoked_token.one(conn, token_id=token_id)
    if row is not None:
        return row[0]
    newest = REQUESTS.newest_running_time.one(conn)
    assert newest is not None
    # From then on the service may have pruned it.
    return expected if expected < newest[0] - _DENIED_US_MIN else None


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
)  # fmt: skip

# By rule.
SETTINGS = {setting.rule: setting for setting in _SETTINGS}
