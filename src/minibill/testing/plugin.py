"""The pytest plugin: books for tests.

pytest loads it wherever minibill is installed, so it imports nothing else until a fixture is used.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from minibill.testing.book import BookForTests


@pytest.fixture(scope="session")
def minibill_service(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[BookForTests]":
    """One running service for the whole session: for books that are prepared once and restored for each test."""
    from minibill.testing.book import BookForTests

    book = BookForTests(tmp_path_factory.mktemp("minibill") / "book.db")
    yield book
    book.close()


@pytest.fixture
def minibill_book(minibill_service: "BookForTests") -> "BookForTests":
    """An empty book for one test."""
    minibill_service.reset()
    return minibill_service
