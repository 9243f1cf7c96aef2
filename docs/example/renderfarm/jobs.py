"""Render frames and charge for them."""

from collections.abc import Callable

from minibill.client import Client, Entity
from minibill.core.problems import InsufficientBalance

FRAME_MICRO = 100_000


class TooPoor(Exception):
    """The customer lacks `missing_micro` micro-units for the job."""

    def __init__(self, missing_micro: int) -> None:
        super().__init__(f"{missing_micro} micro-units are missing")
        self.missing_micro = missing_micro


def render(book: Client, customer: str, frames: int, work: Callable[[int], bool]) -> int:
    """Render frames, charge for the good ones, and return their number.

    `work` renders one frame and returns whether it is good. If it raises, nothing is charged.
    """
    try:
        reservation = book.reserve(Entity("person", customer), frames * FRAME_MICRO, ttl_seconds=3600)
    except InsufficientBalance as error:
        missing = int(error.extensions["requested_micro"]) - int(error.extensions["available_micro"])
        raise TooPoor(missing) from None
    try:
        good = sum(work(frame) for frame in range(frames))
    except BaseException:
        book.release(reservation.reservation_id)
        raise
    book.finalize(reservation.reservation_id, good * FRAME_MICRO)
    return good
