"""The cost of jobs, and the welcome campaign."""

import pytest

from minibill.client import Client, Entity
from minibill.testing import BookForTests
from renderfarm.jobs import TooPoor, render
from renderfarm.welcome import open_campaign, welcome


def test_only_good_frames_are_charged(book: BookForTests, service: Client) -> None:
    assert render(service, "ada", 10, lambda frame: frame != 3) == 9
    assert book.balance("ada") == 4_100_000
    assert book.story("ada")[1:] == [("reserve", -1_000_000), ("finalize", -900_000), ("release", 100_000)]


def test_a_job_that_fails_costs_nothing(book: BookForTests, service: Client) -> None:
    with pytest.raises(ZeroDivisionError):
        render(service, "ada", 10, lambda frame: 1 // frame == 1)
    assert (book.balance("ada"), book.reserved("ada")) == (5_000_000, 0)


def test_a_customer_without_credits_learns_the_missing_amount(book: BookForTests, service: Client) -> None:
    with pytest.raises(TooPoor) as error:
        render(service, "bob", 2, lambda frame: True)
    assert error.value.missing_micro == 50_000
    assert book.story("bob") == [("grant", 150_000)]


def test_the_reservation_of_a_crashed_worker_expires_after_an_hour(book: BookForTests, service: Client) -> None:
    service.reserve(Entity("person", "ada"), 1_000_000, ttl_seconds=3600)
    assert book.balance("ada") == 4_000_000
    book.advance(3600)
    assert book.balance("ada") == 5_000_000


def test_a_welcome_grant_is_paid_once(book: BookForTests, operator: Client) -> None:
    campaign = open_campaign(operator, customers_max=2)
    assert welcome(operator, campaign, ["bob", "eve"]) == 2
    assert welcome(operator, campaign, ["bob", "eve"]) == 0
    assert (book.balance("bob"), book.balance("eve")) == (1_150_000, 1_000_000)
