"""Concurrent requests never reserve, charge or return the same credits twice."""

import asyncio
import json
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.api_client import Api, Json, ok
from tests.reservations.conftest import Moment
from tests.reservations.helpers import balance, entries


def at_once(api: Api, *requests: tuple[str, Json], sweeps: int = 0) -> list[httpx.Response]:
    """Send these requests to /api/internal/billing concurrently, with sweeps in between; return the responses."""
    headers = {"Authorization": f"Bearer {api.sign_service()}", "Content-Type": "application/json"}

    async def send() -> list[httpx.Response]:
        url = "/api/internal/billing"
        beside = [asyncio.create_task(api.book.sweep()) for _ in range(sweeps)]
        answers = await asyncio.gather(
            *(api.http.post(f"{url}{path}", content=json.dumps(body), headers=headers) for path, body in requests)
        )
        await asyncio.gather(*beside)
        return answers

    return api.loop.run(send())


def codes(answers: list[httpx.Response]) -> Counter[Any]:
    return Counter(answer.status_code if answer.is_success else answer.json()["code"] for answer in answers)


@pytest.mark.parametrize(("there", "lots"), [(1_000, 1), (1_003, 17)])
def test_500_concurrent_reserves_share_out_the_credits_exactly(api: Api, there: int, lots: int) -> None:
    account = api.account(*[there // lots + (number < there % lots) for number in range(lots)])
    wanted = ("/reservations", {"accountId": account, "amountMicro": "7"})
    answers = at_once(api, *[wanted] * 500)
    fit = there // 7
    assert codes(answers) == {201: fit, "insufficient_balance": 500 - fit}
    assert balance(api, account) == (there - 7 * fit, 7 * fit, 0)
    held = [answer.json()["reservationId"] for answer in answers if answer.is_success]
    assert len(set(held)) == fit
    assert codes(at_once(api, *[("/release", {"reservationId": each}) for each in held])) == {200: fit}
    assert balance(api, account) == (there, 0, 0)


def test_concurrent_soft_reserves_never_share_credits(api: Api) -> None:
    account = api.account(50, 50)
    answers = at_once(api, *[("/reservations", {"accountId": account, "amountMicro": "7", "billingMode": "soft"})] * 60)
    held = Counter(ok(answer)["totalReservedMicro"] for answer in answers)
    assert held == {"7": 14, "2": 1, "0": 45}
    assert balance(api, account) == (0, 100, 0)


def test_50_concurrent_finalizes_of_one_reservation_charge_once(api: Api) -> None:
    account = api.account(100)
    held = api.reserve(account, 20, billingMode="soft")
    answers = at_once(api, *[("/finalize", {"reservationId": held, "actualCostMicro": "25"})] * 50)
    assert codes(answers) == {200: 50}
    assert len({answer.content for answer in answers}) == 1
    assert balance(api, account) == (75, 0, 0)
    assert [entry.type for entry in entries(api, account, 2)] == ["finalize", "finalize"]


def test_racing_finalizes_and_releases_have_one_winner(api: Api) -> None:
    account = api.account(1_000)
    for number in range(10):
        before = balance(api, account)[0]
        held = api.reserve(account, 20)
        finalize, release = (
            ("/finalize", {"reservationId": held, "actualCostMicro": "5"}),
            ("/release", {"reservationId": held}),
        )
        other = ("/finalize", {"reservationId": held, "actualCostMicro": "6"})
        racing = [(finalize, other, release)[(place + number) % 3] for place in range(9)]
        answers = at_once(api, *racing)
        status = api.get(f"/reservations/{held}")["status"]
        spent = before - balance(api, account)[0]
        winners = {path for (path, _), answer in zip(racing, answers, strict=True) if answer.is_success}
        assert winners == {"/finalize" if status == "finalized" else "/release"}
        assert spent in ({5, 6} if status == "finalized" else {0})
        assert codes(answers)[200] == 3


def test_racing_finalizes_releases_and_expiry_have_one_winner(moment: Moment, api: Api) -> None:
    account = api.account(10_000)
    wins: Counter[str] = Counter()
    for number in range(1, 11):
        moment.at(number * 10)
        held = [api.reserve(account, 20, ttlSeconds=1) for _ in range(10)]
        before = balance(api, account)[0]
        # They expire while they are being finalized and released: each read of the clock is a microsecond later.
        moment.at(number * 10 + 1, -5 * number)
        moment.step_us = 1
        finalizes = [("/finalize", {"reservationId": each, "actualCostMicro": "3"}) for each in held]
        releases = [("/release", {"reservationId": each}) for each in held]
        racing = [request for pair in zip(finalizes, releases, strict=True) for request in pair[:: (-1) ** number]]
        answers = at_once(api, *racing, sweeps=3)
        moment.step_us = 0
        moment.at(number * 10 + 2)
        ends = [api.get(f"/reservations/{each}")["status"] for each in held]
        won = {"finalized": "/finalize", "released": "/release", "expired": None}
        for place, (path, body) in enumerate(racing):
            status = ends[held.index(body["reservationId"])]
            # Releasing an expired reservation succeeds.
            succeeds = won[status] == path or (status == "expired" and path == "/release")
            assert answers[place].status_code == (200 if succeeds else 409)
        assert balance(api, account) == (before + 200 - 3 * ends.count("finalized"), 0, 0)
        wins.update(ends)
    # Otherwise no race took place.
    assert set(wins) == {"finalized", "released", "expired"}


def test_concurrent_requests_with_one_key_reserve_once(api: Api) -> None:
    account = api.account(100)
    headers = {"Authorization": f"Bearer {api.sign_service()}", "Content-Type": "application/json", "Idempotency-Key": "k"}
    body = json.dumps({"accountId": account, "amountMicro": "7"})

    async def send() -> list[httpx.Response]:
        url = "/api/internal/billing/reservations"
        return await asyncio.gather(*(api.http.post(url, content=body, headers=headers) for _ in range(50)))

    answers = api.loop.run(send())
    assert codes(answers) == {201: 50}
    assert len({answer.content for answer in answers}) == 1
    assert balance(api, account) == (93, 7, 0)
