"""One database for all tests, prepared once and restored for each test."""

from collections.abc import Iterator

import pytest

from minibill.client import Client
from minibill.testing import BookForTests, Snapshot


@pytest.fixture(scope="session")
def prepared(minibill_service: BookForTests) -> Snapshot:
    minibill_service.reset()
    minibill_service.give("ada", 5_000_000)
    minibill_service.give("bob", 150_000)
    return minibill_service.snapshot()


@pytest.fixture
def book(minibill_service: BookForTests, prepared: Snapshot) -> Iterator[BookForTests]:
    minibill_service.restore(prepared)
    yield minibill_service
    minibill_service.verify()


@pytest.fixture
def service(book: BookForTests) -> Iterator[Client]:
    """A client of the render farm, over HTTP with a service token."""
    with Client(book.url, book.service_token(), service=True) as client:
        yield client


@pytest.fixture
def operator(book: BookForTests) -> Iterator[Client]:
    """A client of an operator who may create campaigns and pay grants only."""
    with Client(book.url, book.token("admin:campaigns:write", "admin:grants:write")) as client:
        yield client
