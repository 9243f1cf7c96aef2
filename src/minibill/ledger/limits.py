"""Limits on one account and on one request. See docs/concepts/ledger.md."""

from minibill.core.problems import AmountTooLarge, BillingModeNotAllowed

# The database enforces this limit too (balances_are_at_most_64_per_account).
POOLS_MAX = 64
# Pending reservations of an account. Only the service enforces it: a trigger would count up to 10,000 rows each time.
PENDING_MAX = 10_000
# Lots that one reservation draws on, its overrun included. The database limits the lots that it holds
# (reservation_lots_are_at_most_1000).
LOTS_PER_SPEND_MAX = 1_000


def require_within_ceiling(amount_micro: int, ceiling_micro: int) -> None:
    """Raise `AmountTooLarge` if one request would move more than the ceiling."""
    if amount_micro > ceiling_micro:
        raise AmountTooLarge(
            f"one request moves at most {ceiling_micro} micro-units",
            limit_micro=str(ceiling_micro),
            requested_micro=str(amount_micro),
        )


def require_allowed_mode(billing_mode: str | None, allowed: tuple[str, ...]) -> None:
    """Raise `BillingModeNotAllowed` if a service names a mode that it may not name."""
    if billing_mode is not None and billing_mode not in allowed:
        raise BillingModeNotAllowed(billing_mode, allowed)
