"""Section 1: what a body may be. Whatever does not fit is a 400 that names the path, and changes nothing."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from minibill import web
from tests.api import UNIT, Api, Json, done, refused

MAX = 2**63 - 1

# --- what is wrong for each kind of member ---

NOT_TEXT: list[Json] = [5, 0, 1.5, True, False, {}, {"a": "b"}, [], ["x"]]
NOT_AN_OBJECT: list[Json] = [5, 1.5, True, "", "x", "{}", [], [{}]]


def text(longest: int, *, shortest: int = 1) -> list[Json]:
    return [*NOT_TEXT, "x" * (longest + 1), "é" * (longest + 1), "a\0b", "\0", *([""] if shortest else [])]


MICRO: list[Json] = [
    5, 0, 1.0, True, {}, ["1"], "", "01", "00", "+1", "-1", "-0", " 1", "1 ", "1\n", "1.0", "1e3", "0x1", "1_000", "1,000", "٣", "１",
    "²", "NaN", "1\0", str(MAX + 1), str(2**64), "9" * 5_000,
]  # fmt: skip
TIME: list[Json] = [
    5, 1.5, True, {}, [], "", "now", "2030-01-01", "2030-01-01T00:00:00", "2030-01-01T00:00Z", "2030-01-01 00:00:00Z",
    "2030-02-29T00:00:00Z", "2030-13-01T00:00:00Z", "2030-01-01T24:00:00Z", "2030-01-01T00:00:00+24:00",
    "2030-01-01T00:00:00+0100", "2030-01-01T00:00:00,5Z", "2030-01-01T00:00:00.Z", "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59-00:01", "٢٠٣٠-01-01T00:00:00Z", "+2030-01-01T00:00:00Z", " 2030-01-01T00:00:00Z",
    "2030-01-01T00:00:00Z\n", "2030-01-01T00:00:00Z\0", "1893456000",
]  # fmt: skip
PAST: list[Json] = ["2001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"]
POOL: list[Json] = [*NOT_TEXT, "", "General", "-a", ":a", "a b", "a/b", "a\n", "é", "a\0", "a" * 65]
ID: list[Json] = [*NOT_TEXT, "", "x" * 65]
FLAG: list[Json] = ["true", "", 0, 1, 1.0, {}, [True]]


def integer(lowest: int, highest: int) -> list[Json]:
    return [
        lowest - 1, highest + 1, -(2**63) - 1, 2**63, 2**64, 10**30, float(highest), 0.5, True, False, str(highest), "", {}, [],
    ]  # fmt: skip


def one_of(*good: str) -> list[Json]:
    return [*NOT_TEXT, "", "nope", good[0].upper(), f" {good[0]}", f"{good[0]}\0", f"{good[0]}\n", [good[0]]]


def too_big_objects() -> list[Json]:
    deep: Json = 1
    for _ in range(100):
        deep = {"a": deep}
    return [*NOT_AN_OBJECT, {"a": "x" * 4096}, {"a": deep}]


ENTITY_TYPE = one_of("agent", "person", "community", "mod", "protocol", "foundation", "commons")
CAMPAIGN_TYPE = one_of("reverse_airdrop", "promotional", "loyalty", "referral")
FORMULA = one_of("proportional_loss", "fixed_amount", "tiered")
GRANT_TTL = integer(1, 3_153_600_000)
METADATA = too_big_objects()

# --- the routes that take a body, with a good one ---


class Target(NamedTuple):
    """A route that takes a body, and a body that it takes."""

    method: str
    path: Callable[[Api], str]
    body: Json


ENTITY: Json = {"entityType": "person", "entityId": "ada"}
CAMPAIGN: Json = {"name": "Airdrop", "campaignType": "loyalty", "budgetMicro": "100", "perWalletCapMicro": "100"}
BRACKET: Json = {"minMicro": "1", "maxMicro": "5", "amountMicro": "2"}
BRACKETS: Json = {"brackets": [BRACKET, {"minMicro": "5", "amountMicro": "3"}]}


def _batch_path(api: Api, **campaign: Json) -> str:
    return f"/campaigns/{api.campaign(**campaign)}/grants/batch"


TARGETS = {
    "open": Target("POST", lambda _: "/accounts", ENTITY),
    "mint": Target("POST", lambda api: f"/accounts/{api.account()}/mint", {"amountMicro": "5"}),
    "create": Target("POST", lambda _: "/campaigns", CAMPAIGN),
    "create fixed": Target("POST", lambda _: "/campaigns", {**CAMPAIGN, "grantConfig": {"amountMicro": "5"}}),
    "create loss": Target("POST", lambda _: "/campaigns", {**CAMPAIGN, "grantFormula": "proportional_loss", "grantConfig": {}}),
    "create tiered": Target("POST", lambda _: "/campaigns", {**CAMPAIGN, "grantFormula": "tiered", "grantConfig": BRACKETS}),
    "edit": Target("PATCH", lambda api: f"/campaigns/{api.draft()}", {"name": "Another"}),
    "batch": Target("POST", _batch_path, {"grants": [{"entity": ENTITY, "amountMicro": "5"}]}),
    "batch by id": Target("POST", _batch_path, {"grants": [{"accountId": "acct_0", "amountMicro": "5"}]}),
    "batch of losses": Target(
        "POST",
        lambda api: _batch_path(api, grantFormula="proportional_loss"),
        {"grants": [{"entity": {**ENTITY, "entityId": "eve"}, "formulaInput": {"lossMicro": "1"}},
                    {"entity": ENTITY, "formulaInput": {"lossMicro": "5", "source": "list", "n": [1.5, None]}}]},
    ),
    "advance": Target("POST", lambda _: "/clock/advance", {"seconds": 1}),
}  # fmt: skip

# Route, member, whether it is required, wrong values. The path of the error is the member.
MEMBERS: list[tuple[str, str, bool, list[Json]]] = [
    ("open", "entityType", True, ENTITY_TYPE),
    ("open", "entityId", True, text(200)),
    ("mint", "amountMicro", True, [*MICRO, "0"]),
    ("mint", "sourceType", False, [*one_of("grant"), "purchase", "transfer_in", "commons_dividend"]),
    ("mint", "sourceId", False, text(200)),
    ("mint", "poolId", False, POOL),
    ("mint", "priority", False, integer(0, 100)),
    ("mint", "expiresAt", False, TIME + PAST),
    ("mint", "description", False, text(500, shortest=0)),
    ("mint", "metadata", False, METADATA),
    ("create", "name", True, text(200)),
    ("create", "campaignType", True, CAMPAIGN_TYPE),
    ("create", "budgetMicro", True, MICRO),
    *[
        (route, member, False, wrong)
        for route in ("create", "edit")
        for member, wrong in [
            ("description", text(2_000, shortest=0)),
            ("grantFormula", FORMULA),
            ("grantConfig", NOT_AN_OBJECT),
            ("poolId", POOL),
            ("perWalletCapMicro", MICRO),
            ("startsAt", TIME),
            ("expiresAt", TIME + PAST),
            ("grantTtlSeconds", GRANT_TTL),
        ]
    ],
    ("edit", "name", False, text(200)),
    ("edit", "campaignType", False, CAMPAIGN_TYPE),
    ("edit", "budgetMicro", False, MICRO),
    ("create fixed", "grantConfig.amountMicro", True, MICRO),
    ("create loss", "grantConfig.ratioBps", False, integer(1, 1_000_000)),
    ("create loss", "grantConfig.minLossMicro", False, MICRO),
    ("create loss", "grantConfig.capMicro", False, MICRO),
    ("create tiered", "grantConfig.brackets", True, [5, "x", True, {}, [], BRACKET]),
    ("create tiered", "grantConfig.brackets[0]", True, [5, "x", True, []]),
    ("create tiered", "grantConfig.brackets[1]", True, [5, "x", True, []]),
    ("create tiered", "grantConfig.brackets[0].minMicro", True, MICRO),
    ("create tiered", "grantConfig.brackets[0].maxMicro", False, [*MICRO, "1", "0"]),
    ("create tiered", "grantConfig.brackets[0].amountMicro", True, MICRO),
    ("create tiered", "grantConfig.brackets[1].minMicro", True, [*MICRO, "4", "0"]),
    ("batch", "grants", True, [5, "x", True, {}, []]),
    ("batch", "grants[0]", True, [5, "x", True, [], {}]),
    ("batch", "force", False, FLAG),
    ("batch", "grants[0].entity", False, [*NOT_TEXT[:5], "person", []]),
    ("batch", "grants[0].entity.entityType", True, ENTITY_TYPE),
    ("batch", "grants[0].entity.entityId", True, text(200)),
    ("batch", "grants[0].amountMicro", False, MICRO),
    ("batch", "grants[0].formulaInput", False, METADATA),
    ("batch by id", "grants[0].accountId", False, ID),
    ("batch of losses", "grants[1].formulaInput", False, METADATA),
    ("batch of losses", "grants[1].formulaInput.lossMicro", True, MICRO),
    ("advance", "seconds", True, integer(0, 315_360_000)),
]


def _steps(member: str) -> Iterator[str | int]:
    for part in member.split("."):
        name, *places = part.replace("]", "").split("[")
        yield name
        yield from (int(place) for place in places)


def with_member(body: Json, member: str, value: Json) -> Json:
    """A copy of the body in which one member is this."""
    changed = copy.deepcopy(body)
    *steps, last = _steps(member)
    inner = changed
    for step in steps:
        inner = inner[step]
    inner[last] = value
    return changed


def without_member(body: Json, member: str) -> Json:
    changed = with_member(body, member, None)
    *steps, last = _steps(member)
    inner = changed
    for step in steps:
        inner = inner[step]
    del inner[last]
    return changed


def _id(value: object) -> str | None:
    return value if isinstance(value, str) else ""


# --- members ---


@pytest.mark.parametrize("name", TARGETS)
def test_the_good_bodies_of_these_tables_are_good(api: Api, name: str) -> None:
    target = TARGETS[name]
    done(api.call(target.method, target.path(api), target.body))


@pytest.mark.parametrize(("name", "member", "required", "wrong"), MEMBERS, ids=_id)
def test_a_wrong_member_is_refused_by_its_path(api: Api, name: str, member: str, required: bool, wrong: list[Json]) -> None:
    target = TARGETS[name]
    path = target.path(api)
    with api.unchanged():
        for value in wrong:
            response = api.call(target.method, path, with_member(target.body, member, value))
            assert response.status_code == 400, value
            refused(response, 400, "validation_error", member)
        if required:
            refused(api.call(target.method, path, with_member(target.body, member, None)), 400, "validation_error", member)


@pytest.mark.parametrize(("name", "member"), [row[:2] for row in MEMBERS if row[2] and not row[1].endswith("]")])
def test_a_required_member_that_is_missing_is_named(api: Api, name: str, member: str) -> None:
    target = TARGETS[name]
    path = target.path(api)
    with api.unchanged():
        response = api.call(target.method, path, without_member(target.body, member))
        # A fixed amount may be left to each grant, so a campaign's config may be empty.
        if member != "grantConfig.amountMicro":
            refused(response, 400, "validation_error", member)
        elif response.is_success:
            pytest.fail("the config of a fixed amount was taken without its amount") if name != "create fixed" else None
        if response.is_success:
            # Take back what the one good request did, so that the comparison above means something.
            pytest.skip("an empty config is allowed for a fixed amount")
