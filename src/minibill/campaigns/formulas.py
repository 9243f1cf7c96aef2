"""Formulas for the amount of a grant: integers only, rounded down, without I/O. See docs/concepts/campaigns.md."""

from collections.abc import Callable
from typing import Annotated, NamedTuple

from msgspec import Meta

from minibill.api.decoding import Decoder
from minibill.api.types import Body, Micro
from minibill.core.problems import FieldError, InvalidRequest, MalformedJson

BPS_PER_WHOLE = 10_000
BRACKETS_MAX = 1_000


class FixedAmountConfig(Body, frozen=True):
    amount_micro: Micro


class ProportionalLossConfig(Body, frozen=True):
    ratio_bps: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    min_loss_micro: Micro | None = None
    cap_micro: Micro | None = None


class Bracket(Body, frozen=True):
    """The half-open interval of losses [`min_micro`, `max_micro`); None is no upper bound."""

    min_micro: Micro
    amount_micro: Micro
    max_micro: Micro | None = None


class TieredConfig(Body, frozen=True):
    brackets: Annotated[list[Bracket], Meta(min_length=1, max_length=BRACKETS_MAX)]


class Result(NamedTuple):
    """The amount of a grant, in micro-units, and the reason if it is 0."""

    amount_micro: int
    reason: str | None = None


class Formula(NamedTuple):
    """A formula with its config: either a function of the loss in micro-units, or a fixed amount."""

    of_loss: Callable[[int], Result] | None
    # None also for a fixed amount without a config: each grant then names its own amount.
    fixed_micro: int | None


_FIXED, _PROPORTIONAL, _TIERED = Decoder(FixedAmountConfig), Decoder(ProportionalLossConfig), Decoder(TieredConfig)


def build(name: str, config: str | None, *, per_wallet_cap_micro: int) -> Formula:
    """Build the formula of a campaign. Raises `InvalidRequest`, with paths in `grantConfig`, for a config it cannot use."""
    try:
        match name:
            case "fixed_amount":
                return _fixed_amount(config)
            case "proportional_loss":
                return _proportional_loss(_PROPORTIONAL.decode((config or "{}").encode()), per_wallet_cap_micro)
            case _:
                return _tiered(_TIERED.decode((config or "{}").encode()), per_wallet_cap_micro)
    except InvalidRequest as error:
        errors: list[FieldError] = error.extensions["errors"]
        raise InvalidRequest(
            *[FieldError(f"grantConfig.{each.path}".rstrip("."), each.message) for each in errors]
        ) from None
    except MalformedJson as error:
        raise InvalidRequest(FieldError("grantConfig", error.detail)) from None


def proportional_loss(loss_micro: int, *, ratio_bps: int, min_loss_micro: int, cap_micro: int) -> Result:
    """Return a share of the loss, at most `cap_micro`; zero for a loss below `min_loss_micro`."""
    if loss_micro < min_loss_micro:
        return Result(0, "below_minimum_loss")
    amount_micro = min(loss_micro * ratio_bps // BPS_PER_WHOLE, cap_micro)
    return Result(amount_micro, None if amount_micro else "comes_to_zero")


def tiered(loss_micro: int, *, brackets: list[Bracket], cap_micro: int) -> Result:
    """Return the amount of the bracket that contains the loss, at most `cap_micro`; zero outside all brackets."""
    for bracket in brackets:
        if bracket.min_micro <= loss_micro and (bracket.max_micro is None or loss_micro < bracket.max_micro):
            amount_micro = min(int(bracket.amount_micro), cap_micro)
            return Result(amount_micro, None if amount_micro else "comes_to_zero")
    return Result(0, "outside_all_brackets")


def _fixed_amount(config: str | None) -> Formula:
    # A config without an amount is an error; without a config each grant names its own amount.
    if config is None:
        return Formula(None, None)
    return Formula(None, int(_FIXED.decode(config.encode()).amount_micro))


def _proportional_loss(config: ProportionalLossConfig, per_wallet_cap_micro: int) -> Formula:
    ratio_bps = BPS_PER_WHOLE if config.ratio_bps is None else config.ratio_bps
    min_loss_micro = int(config.min_loss_micro or 0)
    cap_micro = per_wallet_cap_micro if config.cap_micro is None else min(int(config.cap_micro), per_wallet_cap_micro)

    def of_loss(loss_micro: int) -> Result:
        return proportional_loss(loss_micro, ratio_bps=ratio_bps, min_loss_micro=min_loss_micro, cap_micro=cap_micro)

    return Formula(of_loss, None)


def _tiered(config: TieredConfig, per_wallet_cap_micro: int) -> Formula:
    _require_ascending(config.brackets)

    def of_loss(loss_micro: int) -> Result:
        return tiered(loss_micro, brackets=config.brackets, cap_micro=per_wallet_cap_micro)

    return Formula(of_loss, None)


def _require_ascending(brackets: list[Bracket]) -> None:
    end_micro: int | None = 0
    for position, bracket in enumerate(brackets):
        path = f"brackets[{position}]"
        if end_micro is None:
            raise InvalidRequest(FieldError(path, "expected no bracket after one without maxMicro"))
        if bracket.min_micro < end_micro:
            raise InvalidRequest(
                FieldError(f"{path}.minMicro", f"expected at least {end_micro}, where the bracket before ends")
            )
        if bracket.max_micro is not None and bracket.max_micro <= bracket.min_micro:
            raise InvalidRequest(FieldError(f"{path}.maxMicro", "expected more than minMicro"))
        end_micro = bracket.max_micro
