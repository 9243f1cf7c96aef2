"""Repeated members of JSON objects are rejected with their path, since parsers disagree about their value."""

import json
import random
from typing import Any

import pytest

from minibill.api.unique_members import PATH_CHARACTERS_MAX, require_unique_members
from minibill.core.problems import InvalidRequest
from tests.api_client import Api, ok, problem_of

NAMES = ["a", "b", 'c"', "", "\\", "é"]
TEXTS = ['"x"', '"\\""', '"a\\":b"', '"\\u0022"', '"\\u0022:"', '"\\\\"', '"é"', '"\\u00e9"']


def path_of(body: bytes) -> str | None:
    try:
        require_unique_members(body)
    except InvalidRequest as problem:
        return str(problem.extensions["errors"][0].path)
    return None


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"a":1,"a":2}', "a"),
        (b'{"a":1,"\\u0061":2}', "a"),
        (b'{"g":[{"x":1},{"y":{"b" :1,"c":[],\n"b"\t: 2}}]}', "g[1].y.b"),
        (b'{"m":1e999,"q":1,"m":"x"}', "m"),
        (b'{"a":"\\u0022","b":1,"b":2}', "b"),
        (b'{"a":"\\u0022","":1,"":2}', ""),
        (b'[{"a":null,"a":null}]', "[0].a"),
        (b'{"n":' + b"1" * 5_000 + b',"n":1}', "n"),
        (b'{"a":[1,{"a":{"a":1}},"a"],"b":"\\":"}', None),
        (b'{"a":"\\u0022:","b":"a"}', None),
        (b'{"m":1e999,"n":' + b"1" * 5_000 + b"}", None),
        (b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", None),
    ],
)
def test_the_first_repeated_member_is_named(body: bytes, path: str | None) -> None:
    assert path_of(body) == path


def test_a_path_in_a_response_has_a_limit() -> None:
    name = b"x" * 2_000
    assert path_of(b'{"%b":1,"%b":2}' % (name, name)) == "x" * PATH_CHARACTERS_MAX


def test_any_json_gets_the_verdict_of_a_slow_parser(long: bool) -> None:
    rng = random.Random("members")

    def value(depth: int) -> str:
        kind = rng.random()
        if depth > 3 or kind < 0.4:
            return rng.choice([*TEXTS, "1", "1e999", "null", "[]", "{}"])
        inner = [value(depth + 1) for _ in range(rng.randint(0, 4))]
        if kind < 0.7:
            return f"[{','.join(inner)}]"
        names = [json.dumps(rng.choice(NAMES), ensure_ascii=rng.random() < 0.5) for _ in inner]
        return "{" + ",".join(n + rng.choice([":", " :", "\n: "]) + v for n, v in zip(names, inner, strict=True)) + "}"

    def has_twice(text: str) -> bool:
        found = []

        def members(pairs: list[tuple[str, Any]]) -> None:
            found.append(len({name for name, _ in pairs}) < len(pairs))

        json.loads(text, object_pairs_hook=members)
        return any(found)

    seen = [0, 0]
    for _ in range(200_000 if long else 5_000):
        text = value(0)
        expected = has_twice(text)
        seen[expected] += 1
        assert (path_of(text.encode()) is not None) == expected, text
    assert min(seen) > sum(seen) / 20


def test_a_body_with_a_repeated_member_changes_nothing(api: Api) -> None:
    account, campaign = api.account(100), api.campaign()
    item = f'{{"accountId": "{account}", "amountMicro": "1"'
    batch = f"/campaigns/{campaign}/grants/batch"
    bodies = [
        ("POST", f"/accounts/{account}/mint", '{"amountMicro": "1", "amountMicro": "2"}', "amountMicro"),
        ("POST", f"/accounts/{account}/mint", '{"amountMicro": "1", "metadata": {"a": {"b": 1, "b": 1}}}', "metadata.a.b"),
        ("POST", batch, f'{{"grants": [{item}, "amountMicro": "2"}}]}}', "grants[0].amountMicro"),
        ("POST", batch, f'{{"grants": [{item}, "formulaInput": {{"x": 1, "x": 2}}}}]}}',
         "grants[0].formulaInput.x"),
        ("PATCH", f"/campaigns/{campaign}", '{"name": "a", "name": "b"}', "name"),
    ]  # fmt: skip
    with api.unchanged():
        for method, path, body, where in bodies:
            problem = problem_of(api.call(method, path, raw=body.encode()), 400, "validation_error", where)
            assert problem["errors"][0]["message"] == "is given twice"
        body = f'{{"accountId": "{account}", "amountMicro": "1", "amountMicro": "2"}}'
        problem_of(api.internal("POST", "/reservations", raw=body.encode()), 400, "validation_error", "amountMicro")
    ok(
        api.call(
            "POST", f"/accounts/{account}/mint", raw=b'{"amountMicro": "1", "metadata": {"a": {"a": 1}, "b": {"a": 1}}}'
        )
    )
