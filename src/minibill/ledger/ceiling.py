"""The ceiling: how much one request may move. Source: contract, section 1."""

from minibill.problems import AmountTooLarge


def require_within_ceiling(amount_micro: int, ceiling_micro: int) -> None:
    """Raises `AmountTooLarge` for more than one request may move."""
    if amount_micro > ceiling_micro:
        raise AmountTooLarge(
            f"one request moves at most {ceiling_micro} micro-units",
            limit_micro=str(ceiling_micro),
            requested_micro=str(amount_micro),
        )
