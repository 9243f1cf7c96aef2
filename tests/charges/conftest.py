"""Fixtures: the frozen clock of the reservation tests, an account with 1,005 lots, and machines that restore books."""

from tests.epochs.conftest import machine, new_machine
from tests.reservations.conftest import moment
from tests.reservations.test_limits import scattered

__all__ = ["machine", "moment", "new_machine", "scattered"]
