"""Request bodies: an invalid one gets a 400 with the path of each error, and changes nothing."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from minibill.api import body as request_body
from tests.api_client import UNIT, Api, Json, ok, problem_of

MAX = 2**63 - 1

# --- wrong values of each kind of member ---

NOT_TEXT: list[Json] = [5, 0, 1.5, True, False, {}, {"a": "b"}, [], ["x"]]
NOT_AN_OBJECT: list[Json] = [5, 1.5, True, "", "x", "{}", [], [{}]]


def text(longest: int, *, shortest: int = 1) -> list[Json]:
    return [*NOT_TEXT, "x" * (longest + 1), "é" * (longest + 1), "a\0b", "\0", *([""] if shortest else [])]


MICRO: list[Json] = [
    5, 0, 1.0, True, {}, ["1"], "", "01", "00", "+1", "-1", "-0", " 1", "1 ", "1\n", "1.0", "1e3", "0x1", "1_000", "1,000",
    "٣", "\uff11", "²", "NaN", "1\0", str(MAX + 1), str(2**64), "9" * 3_000,
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
        lowest - 1, highest + 1, -(2**63) - 1, 2**63, 2**64, 10**30, float(highest), 0.5, True, False, str(highest), "",
        {}, [],
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

# --- routes with a body, and a valid one ---


class Target(NamedTuple):
    """A route that takes a body, and a valid body."""

    method: str
    path: Callable[[Api], str]
    body: Json


ENTITY: Json = {"entityType": "person", "entityId": "ada"}
CAMPAIGN: Json = {"name": "Airdrop", "campaignType": "loyalty", "budgetMicro": "100", "perWalletCapMicro": "100"}
BRACKET: Json = {"minMicro": "1", "maxMicro": "5", "amountMicro": "2"}
BRACKETS: Json = {"brackets": [BRACKET, {"minMicro": "5", "amountMicro": "3"}]}


def _batch_path(api: Api, **campaign: Json) -> str:
    return f"/campaigns/{api.campaign(**campaign)}/grants/batch"


TIER: Json = {"tier": "gold", "rateBps": 5, "maxDiscountMicro": "7"}


def _membership_path(api: Api) -> str:
    ok(api.call("PUT", "/discounts/guild/tiers", {"tiers": [TIER]}))
    return f"/accounts/{api.account()}/memberships/guild"


TARGETS = {
    "open": Target("POST", lambda _: "/accounts", ENTITY),
    "mint": Target("POST", lambda api: f"/accounts/{api.account()}/mint", {"amountMicro": "5"}),
    "create": Target("POST", lambda _: "/campaigns", CAMPAIGN),
    "create fixed": Target("POST", lambda _: "/campaigns", {**CAMPAIGN, "grantConfig": {"amountMicro": "5"}}),
    "create loss": Target(
        "POST", lambda _: "/campaigns", {**CAMPAIGN, "grantFormula": "proportional_loss", "grantConfig": {}}
    ),
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
    "tiers": Target("PUT", lambda _: "/discounts/guild/tiers", {"tiers": [TIER, {"tier": "free", "rateBps": 10000}]}),
    "membership": Target("PUT", _membership_path, {"tier": "gold"}),
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
    ("tiers", "tiers", True, [5, "x", True, {}, TIER, [TIER] * 101]),
    ("tiers", "tiers[0]", True, [5, "x", True, []]),
    ("tiers", "tiers[0].tier", True, text(64)),
    ("tiers", "tiers[1].tier", True, [*text(64), "gold"]),
    ("tiers", "tiers[1].rateBps", True, integer(0, 10_000)),
    ("tiers", "tiers[1].maxDiscountMicro", False, MICRO),
    ("membership", "tier", True, text(64)),
    ("membership", "expiresAt", False, TIME),
    ("advance", "seconds", True, integer(0, 315_360_000)),
]


def _steps(member: str) -> Iterator[str | int]:
    for part in member.split("."):
        name, *places = part.replace("]", "").split("[")
        yield name
        yield from (int(place) for place in places)


def with_member(body: Json, member: str, value: Json) -> Json:
    """Return a copy of the body with one changed member."""
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
def test_the_valid_bodies_of_these_tables_are_accepted(api: Api, name: str) -> None:
    target = TARGETS[name]
    ok(api.call(target.method, target.path(api), target.body))


@pytest.mark.parametrize(("name", "member", "required", "wrong"), MEMBERS, ids=_id)
def test_a_wrong_member_is_rejected_with_its_path(
    api: Api, name: str, member: str, required: bool, wrong: list[Json]
) -> None:
    target = TARGETS[name]
    path = target.path(api)
    with api.unchanged():
        for value in wrong:
            response = api.call(target.method, path, with_member(target.body, member, value))
            assert response.status_code == 400, value
            problem_of(response, 400, "validation_error", member)
        if required:
            problem_of(
                api.call(target.method, path, with_member(target.body, member, None)), 400, "validation_error", member
            )


@pytest.mark.parametrize(("name", "member"), [row[:2] for row in MEMBERS if row[2] and not row[1].endswith("]")], ids=_id)
def test_a_missing_required_member_is_named(api: Api, name: str, member: str) -> None:
    target = TARGETS[name]
    path = target.path(api)
    with api.unchanged():
        body = without_member(target.body, member)
        problem_of(api.call(target.method, path, body), 400, "validation_error", member)


OPTIONAL = [row[:2] for row in MEMBERS if not row[2]]


@pytest.mark.parametrize(("name", "member"), OPTIONAL, ids=_id)
def test_null_for_an_optional_member_counts_as_absent(api: Api, name: str, member: str) -> None:
    target = TARGETS[name]
    path = target.path(api)
    left_out = without_member(with_member(target.body, member, 0), member)
    answers = [
        api.call(target.method, path, body, dryRun="true") for body in (left_out, with_member(target.body, member, None))
    ]
    assert answers[0].status_code == answers[1].status_code
    # A stored object is returned as it was sent, with its nulls.
    own = r'"[-0-9T:.]+Z"|"requestId":"\w+"|"grantConfig":\{[^{}]*\}'
    assert re.sub(own, "", answers[0].text) == re.sub(own, "", answers[1].text)


# Members for which null counts as absent: the response has the default or the value from before.
@pytest.mark.parametrize("name", ["mint", "create", "edit"])
def test_all_optional_members_may_be_null_at_once(api: Api, name: str) -> None:
    target = TARGETS[name]
    path = target.path(api)
    members = [member for route, member, required, _ in MEMBERS if route == name and not required]
    body = {**dict.fromkeys(members, None), **target.body}
    answer = ok(api.call(target.method, path, body))
    shown: Json = {
        "mint": {"poolId": "general", "priority": 50, "expiresAt": None},
        "create": {
            "description": None, "grantFormula": "fixed_amount", "poolId": "general", "startsAt": None, "expiresAt": None,
            "grantTtlSeconds": None,
        },
        "edit": {"name": "Another", "campaignType": "reverse_airdrop", "budgetMicro": str(100 * UNIT), "poolId": "general"},
    }[name]  # fmt: skip
    assert shown.items() <= answer.items()


def test_a_repeated_null_is_rejected_like_any_member(api: Api) -> None:
    account = api.account()
    raw = b'{"description": null, "amountMicro": "5", "description": null}'
    with api.unchanged():
        problem_of(api.post(f"/accounts/{account}/mint", raw=raw), 400, "validation_error", "description")


# The place of an object, and the path of an unknown member in it.
OBJECTS = [
    ("open", ""),
    ("mint", ""),
    ("create", ""),
    ("create fixed", "grantConfig"),
    ("create loss", "grantConfig"),
    ("create tiered", "grantConfig"),
    ("create tiered", "grantConfig.brackets[1]"),
    ("edit", ""),
    ("batch", ""),
    ("batch", "grants[0]"),
    ("batch", "grants[0].entity"),
    ("batch of losses", "grants[1]"),
    ("tiers", ""),
    ("tiers", "tiers[1]"),
    ("membership", ""),
    ("advance", ""),
]


@pytest.mark.parametrize(("name", "where"), OBJECTS, ids=_id)
def test_an_unknown_member_is_rejected_with_its_path(api: Api, name: str, where: str) -> None:
    target = TARGETS[name]
    path = target.path(api)
    prefix = f"{where}." if where else ""
    with api.unchanged():
        for unknown in ("amount_micro", "Name", "entityid", "a.b", "a`b", "ä", "x" * 100):
            body = with_member(target.body, f"{prefix}PLACE", 1)
            raw = json.dumps(body).replace("PLACE", unknown).encode()
            problem_of(api.call(target.method, path, raw=raw), 400, "validation_error", f"{prefix}{unknown}")


def test_an_unknown_member_of_any_name_is_named(api: Api) -> None:
    with api.unchanged():
        body = {**ENTITY, "x - at `$.entityId": 1}
        problem_of(api.post("/accounts", body), 400, "validation_error", "x - at `$.entityId")


def test_a_very_long_unknown_name_is_cut(api: Api) -> None:
    with api.unchanged():
        problem = problem_of(api.post("/accounts", {**ENTITY, "x" * 100_000: 1}), 400, "validation_error")
        assert len(json.dumps(problem)) < 1_000


@pytest.mark.parametrize("name", TARGETS)
def test_a_body_that_is_no_object_is_rejected(api: Api, name: str) -> None:
    target = TARGETS[name]
    path = target.path(api)
    with api.unchanged():
        bodies: list[Json] = [[], [{}], 5, 1.5, "x", "", True, False, None]
        for body in bodies:
            problem_of(api.call(target.method, path, raw=json.dumps(body).encode()), 400, "validation_error", "")


TEXT_MEMBERS = [
    ("open", "entityId"), ("open", "entityType"), ("mint", "amountMicro"), ("mint", "sourceId"), ("mint", "poolId"),
    ("mint", "description"), ("mint", "expiresAt"), ("mint", "metadata"), ("create", "name"), ("create", "description"),
    ("edit", "name"), ("batch by id", "grants[0].accountId"), ("batch", "grants[0].entity.entityId"),
    ("batch", "grants[0].formulaInput"), ("batch of losses", "grants[0].formulaInput"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "member"), TEXT_MEMBERS, ids=_id)
def test_half_of_a_surrogate_pair_is_rejected(api: Api, name: str, member: str) -> None:
    target = TARGETS[name]
    path = target.path(api)
    with api.unchanged():
        for half in ("\\ud800", "\\udfff", "\\udc00\\ud800", "\\ud83dx"):
            value = {"lossMicro": "1", "a": "PLACE"} if member.endswith(("metadata", "formulaInput")) else "PLACE"
            raw = json.dumps(with_member(target.body, member, value)).replace("PLACE", half).encode()
            response = api.call(target.method, path, raw=raw)
            assert response.status_code == 400, raw
            assert response.json()["code"] in ("malformed_json", "validation_error")


@pytest.mark.parametrize("behind", ["", "a", "aaaa", "aaaaa", "a" * 50, "\\n", "\\\\"])
def test_half_of_a_surrogate_pair_has_one_error_everywhere(api: Api, behind: str) -> None:
    for body in (f'{{"entityType": "person", "entityId": "\\ud800{behind}"}}', f'{{"\\uDBFF{behind}":1}}'):
        problem = problem_of(api.post("/accounts", raw=body.encode()), 400, "malformed_json")
        assert "surrogate pair" in problem["detail"]
    for cut in (
        b'{"entityId": "\\ud800',
        b'{"entityId": "\\ud83d\\ude0',
        b'{"entityId": "\\\\ud800',
        b'{"entityId": "\\ud8',
    ):
        problem = problem_of(api.post("/accounts", raw=cut), 400, "malformed_json")
        assert problem["detail"] == "Input data was truncated"


@pytest.mark.parametrize("number", ["1e999", "-1e400", "1" + "0" * 400])
def test_a_number_out_of_range_is_rejected_with_its_path(api: Api, number: str) -> None:
    for name, member in [
        ("open", "entityId"),
        ("mint", "priority"),
        ("mint", "amountMicro"),
        ("batch", "grants[0].entity.entityType"),
        ("tiers", "tiers[1].rateBps"),
        ("create loss", "grantConfig.ratioBps"),
        ("edit", "startsAt"),
    ]:
        target = TARGETS[name]
        path = target.path(api)
        raw = json.dumps(with_member(target.body, member, "PLACE")).replace('"PLACE"', number).encode()
        with api.unchanged():
            problem = problem_of(api.call(target.method, path, raw=raw), 400, "validation_error", member)
        assert re.search("[Ee]xpected", problem["errors"][0]["message"])


def test_a_surrogate_pair_is_one_character(api: Api) -> None:
    opened = ok(api.post("/accounts", raw=b'{"entityType": "person", "entityId": "\\ud83d\\ude00"}'))
    assert opened["entityId"] == "\U0001f600"


def test_the_longest_and_largest_values_are_accepted(api: Api) -> None:
    entity = "é" * 200
    account = ok(api.post("/accounts", {"entityType": "agent", "entityId": entity}))
    assert account["entityId"] == entity
    padding = 4_096 - len('{"a": ""}')
    metadata = {"a": "x" * padding}
    ok(api.post(f"/accounts/{account['id']}/mint", {
        "amountMicro": "1", "sourceId": "s" * 200, "poolId": "0" + "z:._-" * 12 + "abc", "priority": 100,
        "metadata": metadata, "expiresAt": "9999-12-31T23:59:59.999999Z", "description": "d" * 500,
    }))  # fmt: skip
    [lot] = api.get(f"/accounts/{account['id']}/lots")["items"]
    assert (lot["metadata"], lot["expiresAt"]) == (metadata, "9999-12-31T23:59:59.999999Z")
    campaign = ok(api.post("/campaigns", {
        **CAMPAIGN, "name": "n" * 200, "description": "d" * 2_000, "budgetMicro": str(MAX), "perWalletCapMicro": str(MAX),
        "grantTtlSeconds": 3_153_600_000,
    }))  # fmt: skip
    assert (campaign["budgetMicro"], campaign["remainingMicro"]) == (str(MAX), str(MAX))


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ("2037-01-31T12:00:00Z", "2037-01-31T12:00:00.000000Z"),
        ("2037-01-31T12:00:00+02:00", "2037-01-31T10:00:00.000000Z"),
        ("2037-01-31T12:00:00-23:59", "2037-02-01T11:59:00.000000Z"),
        ("2037-01-31T12:00:00.5z", "2037-01-31T12:00:00.500000Z"),
        ("2037-01-31t12:00:00.1234567890123Z", "2037-01-31T12:00:00.123456Z"),
        ("2036-02-29T00:00:00-00:00", "2036-02-29T00:00:00.000000Z"),
    ],
)
def test_a_time_may_have_any_offset_and_is_returned_in_utc(api: Api, sent: str, answered: str) -> None:
    account = api.account()
    assert api.mint(account, 1, expiresAt=sent)["expiresAt"] == answered


# --- malformed JSON ---

MALFORMED: dict[str, bytes] = {
    "cut off": b'{"amountMicro": "5"',
    "cut in a string": b'{"amountMicro": "5',
    "cut in a literal": b'{"metadata": nul',
    "only spaces": b"   ",
    "a brace": b"{",
    "two values": b"{} {}",
    "something behind": b'{"amountMicro": "5"} x',
    "a NUL behind": b'{"amountMicro": "5"}\0',
    "a byte order mark": b'\xef\xbb\xbf{"amountMicro": "5"}',
    "NaN": b'{"amountMicro": NaN}',
    "Infinity": b'{"amountMicro": -Infinity}',
    "NaN in what is kept as sent": b'{"amountMicro": "5", "metadata": {"a": NaN}}',
    "a comment": b'{"amountMicro": "5" /* five */}',
    "a line comment": b'{"amountMicro": "5"} // five',
    "a comma at the end": b'{"amountMicro": "5",}',
    "a comma at the end of what is kept": b'{"amountMicro": "5", "metadata": {"a": 1,}}',
    "single quotes": b"{'amountMicro': '5'}",
    "a bare name": b'{amountMicro: "5"}',
    "a leading zero": b'{"priority": 01, "amountMicro": "5"}',
    "a leading zero in what is kept": b'{"amountMicro": "5", "metadata": {"a": 01}}',
    "a leading point": b'{"priority": .5, "amountMicro": "5"}',
    "a plus": b'{"priority": +5, "amountMicro": "5"}',
    "a hexadecimal": b'{"priority": 0x5, "amountMicro": "5"}',
    "a line feed in a string": b'{"amountMicro": "5\n"}',
    "a control character in what is kept": b'{"amountMicro": "5", "metadata": {"a": "\x01"}}',
    "an unknown escape": b'{"amountMicro": "\\x35"}',
    "an unknown escape in what is kept": b'{"amountMicro": "5", "metadata": {"a": "\\x35"}}',
    "half an escape": b'{"amountMicro": "\\u00"}',
    "True": b'{"metadata": True, "amountMicro": "5"}',
    "100,000 arrays": b"[" * 100_000 + b"]" * 100_000,
    "100,000 open arrays": b"[" * 100_000,
    "100,000 arrays in an unknown member": b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects in what is kept": b'{"amountMicro": "5", "metadata": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
    "invalid UTF-8": b'{"amountMicro": "\xff"}',
    "invalid UTF-8 in what is kept": b'{"amountMicro": "5", "metadata": {"a": "\xff"}}',
    "invalid UTF-8 in a name": b'{"amountMicro": "5", "\xc3\x28": 1}',
    "an encoded surrogate": b'{"amountMicro": "5", "description": "\xed\xa0\x80"}',
    "an overlong encoding": b'{"amountMicro": "5", "description": "\xc0\xaf"}',
    "UTF-16": '{"amountMicro": "5"}'.encode("utf-16"),
    "UTF-16 without mark": '{"amountMicro": "5"}'.encode("utf-16-le"),
    "UTF-32": '{"amountMicro": "5"}'.encode("utf-32"),
    "text": b"amountMicro=5",
    "a bracket": b"]",
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_body_that_is_no_json_is_malformed(api: Api, kind: str) -> None:
    account = api.account()
    with api.unchanged():
        problem_of(api.post(f"/accounts/{account}/mint", raw=MALFORMED[kind]), 400, "malformed_json")


def test_a_stored_object_that_is_no_json_is_malformed(api: Api) -> None:
    path = TARGETS["batch"].path(api)
    with api.unchanged():
        for evidence in (
            b'{"a": "\xff"}',
            b'{"a": NaN}',
            b'{"a": 1,}',
            b'{"a": 01}',
            b'{"a": "\\x"}',
            b"{'a': 1}",
            b"{" * 100_000,
        ):
            raw = b'{"grants": [{"accountId": "acct_0", "amountMicro": "5", "formulaInput": ' + evidence + b"}]}"
            problem_of(api.post(path, raw=raw), 400, "malformed_json")


@pytest.mark.parametrize("name", TARGETS)
def test_a_truncated_body_is_malformed_on_every_route(api: Api, name: str) -> None:
    target = TARGETS[name]
    path = target.path(api)
    whole = json.dumps(target.body).encode()
    with api.unchanged():
        for end in range(1, len(whole)):
            assert api.call(target.method, path, raw=whole[:end]).json()["code"] == "malformed_json", whole[:end]


def test_metadata_is_returned_as_it_was_sent(api: Api) -> None:
    account = api.account()
    kept = b'{"big": 123456789012345678901234567890, "f": 1.10, "e": 1E5, "u": "\\u00e9", "s": "\xc3\xa9", "a": [ null ]}'
    ok(api.post(f"/accounts/{account}/mint", raw=b'{"amountMicro": "1", "metadata":   ' + kept + b"  }"))
    assert kept in api.call("GET", f"/accounts/{account}/lots").content
    assert kept in api.call("GET", f"/accounts/{account}/history").content


# --- no body ---

NEEDS_NO_BODY = ["activate", "pause", "complete"]


@pytest.mark.parametrize(
    ("name", "missing"),
    [("open", "entityType"), ("mint", "amountMicro"), ("create", "name"), ("batch", "grants"), ("advance", "seconds")],
)
def test_a_missing_body_names_the_required_member(api: Api, name: str, missing: str) -> None:
    target = TARGETS[name]
    path = target.path(api)
    with api.unchanged():
        for raw in (b"", b"{}", b" { } "):
            problem_of(api.call(target.method, path, raw=raw), 400, "validation_error", missing)


@pytest.mark.parametrize("raw", [b"", b"{}", b" {\n} "])
def test_an_optional_body_may_be_absent_or_an_empty_object(api: Api, raw: bytes) -> None:
    campaign = api.draft()
    for verb in ("activate", "pause", "complete"):
        ok(api.post(f"/campaigns/{campaign}/{verb}", raw=raw))
    ok(api.post("/tokens/some-id/revoke", raw=raw))


def test_an_absent_body_needs_no_content_type(api: Api) -> None:
    campaign = api.draft()
    headers = api.admin_headers()[:1]
    assert api.ask("POST", f"/admin/billing/campaigns/{campaign}/activate", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["activate", "pause", "complete", "revoke"])
def test_an_optional_body_with_members_is_rejected(api: Api, path: str) -> None:
    campaign = api.draft() if path == "activate" else api.campaign()
    target = "/tokens/some-id/revoke" if path == "revoke" else f"/campaigns/{campaign}/{path}"
    with api.unchanged():
        problem_of(api.post(target, {"force": True}), 400, "validation_error", "force")
        problem_of(api.post(target, []), 400, "validation_error", "")
        problem_of(api.post(target, raw=b"null"), 400, "validation_error", "")
        problem_of(api.post(target, raw=b"{"), 400, "malformed_json")


# --- size, type, arrival ---

MINT = b'{"amountMicro": "5"}'


def _chunks(*parts: bytes, whole: bool = True) -> list[Json]:
    messages: list[Json] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    return [*messages, *([{"type": "http.request", "body": b"", "more_body": False}] if whole else [])]


def test_a_body_may_have_exactly_the_limit(api: Api) -> None:
    account = api.account()
    path = f"/accounts/{account}/mint"
    assert ok(api.post(path, raw=MINT + b" " * (1_048_576 - len(MINT))))["amountMicro"] == "5"
    with api.unchanged():
        problem = problem_of(api.post(path, raw=MINT + b" " * (1_048_577 - len(MINT))), 413, "payload_too_large")
        assert problem["limitBytes"] == 1_048_576


def test_the_limit_on_bodies_is_a_setting(start: Callable[..., Api]) -> None:
    api = start(MINIBILL_MAX_BODY_BYTES="50")
    ok(api.post("/accounts", raw=b'{"entityType": "mod", "entityId": "x"}'.ljust(50)))
    with api.unchanged():
        problem_of(api.post("/accounts", raw=b'{"entityType": "mod", "entityId": "y"}'.ljust(51)), 413, "payload_too_large")


@pytest.mark.parametrize("length", [b"1048577", b"9" * 18, b"9" * 200, b"1" + b"0" * 4_400])
def test_a_body_announced_as_too_large_is_not_awaited(api: Api, length: bytes) -> None:
    path = f"/admin/billing/accounts/{api.account()}/mint"
    headers = [*api.admin_headers(), (b"content-length", length)]
    with api.unchanged():
        response = api.ask("POST", path, headers=headers, messages=[])
        problem_of(response, 413, "payload_too_large")
        assert response.headers["connection"] == "close"


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"20")], [(b"transfer-encoding", b"chunked")]])
def test_a_body_over_the_limit_is_rejected_while_it_arrives(api: Api, headers: list[tuple[bytes, bytes]]) -> None:
    path = f"/admin/billing/accounts/{api.account()}/mint"
    with api.unchanged():
        messages = _chunks(MINT, b" " * 600_000, b" " * 600_000, whole=False)
        problem_of(api.ask("POST", path, headers=api.admin_headers() + headers, messages=messages), 413, "payload_too_large")


@pytest.mark.parametrize("length", [b"\xb2", b"", b"-1", b"+5", b"5, 5", b"abc", b"\xff", b"0x10"])
def test_an_invalid_content_length_is_no_internal_error(api: Api, length: bytes) -> None:
    path = f"/admin/billing/accounts/{api.account()}/mint"
    headers = [*api.admin_headers(), (b"content-length", length)]
    assert api.ask("POST", path, headers=headers, messages=_chunks(MINT)).status_code < 500


def test_a_body_in_several_messages_is_the_same(api: Api) -> None:
    path = f"/admin/billing/accounts/{api.account()}/mint"
    pieces = [bytes([byte]) for byte in MINT]
    response = api.ask("POST", path, messages=_chunks(*pieces, b"", b""))
    assert (response.status_code, response.json()["amountMicro"]) == (201, "5")


@pytest.mark.parametrize(
    "messages", [[], _chunks(b"", whole=False), _chunks(MINT, whole=False), _chunks(MINT[:5], whole=False)]
)
def test_a_body_that_does_not_arrive_is_abandoned(api: Api, monkeypatch: pytest.MonkeyPatch, messages: list[Json]) -> None:
    monkeypatch.setattr(request_body, "BODY_SECONDS_MAX", 0.01)
    path = f"/admin/billing/accounts/{api.account()}/mint"
    with api.unchanged():
        response = api.ask("POST", path, messages=messages)
        problem_of(response, 400, "malformed_json")
        assert response.headers["connection"] == "close"


@pytest.mark.parametrize("before", [[], [MINT[:5]], [MINT]])
def test_a_client_that_disconnects_in_its_body_changes_nothing(api: Api, before: list[bytes]) -> None:
    path = f"/admin/billing/accounts/{api.account()}/mint"
    with api.unchanged():
        messages = [*_chunks(*before, whole=False), {"type": "http.disconnect"}]
        problem_of(api.ask("POST", path, messages=messages), 400, "malformed_json")


OTHER_TYPES = [
    None, b"", b"text/plain", b"text/json", b"application/jsonx", b"application/json2; charset=utf-8", b"application/xml",
    b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"application/problem+json", b"*/*", b"json",
    b"application/json; charset=latin-1", b"application/json; charset=utf-16", b"application/json; charset=us-ascii",
    b"application/json;charset=", b"application/json, text/plain", b"\xff",
]  # fmt: skip


@pytest.mark.parametrize("content_type", OTHER_TYPES, ids=repr)
def test_another_content_type_than_json_is_rejected(api: Api, content_type: bytes | None) -> None:
    path = f"/admin/billing/accounts/{api.account()}/mint"
    headers = [*api.admin_headers()[:1], *([] if content_type is None else [(b"content-type", content_type)])]
    with api.unchanged():
        problem_of(api.ask("POST", path, headers=headers, messages=_chunks(MINT)), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type",
    [b"application/json", b"Application/JSON", b"application/json;charset=utf-8", b'application/json; charset="UTF-8"',
     b"application/json ; charset=utf-8", b" application/json "],
)  # fmt: skip
def test_the_content_type_of_json_has_several_spellings(api: Api, content_type: bytes) -> None:
    path = f"/admin/billing/accounts/{api.account()}/mint"
    headers = [*api.admin_headers()[:1], (b"content-type", content_type)]
    assert api.ask("POST", path, headers=headers, messages=_chunks(MINT)).status_code == 201
