"""Fixture: the frozen clock of the reservation tests."""

import pytest

from tests.reservations.conftest import Moment


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Moment:
    """Freeze the clock of the book; request this fixture before `api`."""
    return Moment(monkeypatch)
