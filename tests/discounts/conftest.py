"""The time that stands still, as the tests of reservations have it."""

import pytest

from tests.reservations.conftest import Moment


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Moment:
    """The time of the book; ask for it before the API."""
    return Moment(monkeypatch)
