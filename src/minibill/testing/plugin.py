"""The pytest plugin with the fixtures `minibill_service` and `minibill_book`.

pytest loads it wherever minibill is installed, so it imports the rest of minibill only when a test uses a fixture.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from minibill.testing.book import BookForTests


@pytest.fixture(scope="session")
def minibill_service(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[BookForTests]":
    """Return the running service of the session, for books that are prepared once and restored for each test."""
    from minibill.testing.book import BookForTests

    book = BookForTests(tmp_path_factory.mktemp("minibill") / "book.db")
    yield book
    book.close()


@pytest.fixture
def minibill_book(minibill_service: "BookForTests") -> "BookForTests":
    """Return an empty book for one test."""
    minibill_service.reset()
    return minibill_service
