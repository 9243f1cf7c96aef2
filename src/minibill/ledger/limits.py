"""Limits of one request: how much it may move, and how much work it may be. Source: contract, sections 1 and 3."""

from minibill.core.problems import AmountTooLarge

# The database holds this limit too (balances_are_at_most_64_per_account).
POOLS_MAX = 64
# Pending reservations of an account. Only the service counts them: a trigger would count up to 10,000 rows each time.
PENDING_MAX = 10_000
# Lots that one reservation draws on, its overrun included. The database limits those that it holds
# (reservation_lots_are_at_most_1000).
LOTS_PER_SPEND_MAX = 1_000


def require_within_ceiling(amount_micro: int, ceiling_micro: int) -> None:
    """Raises `AmountTooLarge` for more than one request may move."""
    if amount_micro > ceiling_micro:
        raise AmountTooLarge(
            f"one request moves at most {ceiling_micro} micro-units",
            limit_micro=str(ceiling_micro),
            requested_micro=str(amount_micro),
        )
