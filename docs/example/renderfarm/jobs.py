"""Rendering frames for credits."""

from collections.abc import Callable

from minibill.client import Client, Entity
from minibill.core.problems import InsufficientBalance

FRAME_MICRO = 100_000


class TooPoor(Exception):
    """The customer has too few credits; `missing_micro` says how many."""

    def __init__(self, missing_micro: int) -> None:
        super().__init__(f"{missing_micro} micro-units are missing")
        self.missing_micro = missing_micro


def render(book: Client, customer: str, frames: int, work: Callable[[int], bool]) -> int:
    """Renders frames, and charges for those that came out well; answers how many did.

    `work` renders one frame. When it raises, nothing is charged.
    """
    try:
        held = book.reserve(Entity("person", customer), frames * FRAME_MICRO, ttl_seconds=3600)
    except InsufficientBalance as refusal:
        missing = int(refusal.extensions["requested_micro"]) - int(refusal.extensions["available_micro"])
        raise TooPoor(missing) from None
    try:
        good = sum(work(frame) for frame in range(frames))
    except BaseException:
        book.release(held.reservation_id)
        raise
    book.finalize(held.reservation_id, good * FRAME_MICRO)
    return good
