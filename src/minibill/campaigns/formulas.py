"""Formulas: what a grant comes to. Values in, values out; integers only, rounded down. Source: contract, section 4."""

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
    """Half-open: from `min_micro` up to, not including, `max_micro`; None for no end."""

    min_micro: Micro
    amount_micro: Micro
    max_micro: Micro | None = None


class TieredConfig(Body, frozen=True):
    brackets: Annotated[list[Bracket], Meta(min_length=1, max_length=BRACKETS_MAX)]


class Result(NamedTuple):
    """What a formula comes to; where that is 0, `reason` says why."""

    amount_micro: int
    reason: str | None = None


class Formula(NamedTuple):
    """A formula with its config, ready to be asked; `of_loss` takes a loss in micro-units and is None for a fixed amount."""

    of_loss: Callable[[int], Result] | None
    # What every grant gets without input; None where the formula needs input, or no amount is configured.
    fixed_micro: int | None


_FIXED, _PROPORTIONAL, _TIERED = Decoder(FixedAmountConfig), Decoder(ProportionalLossConfig), Decoder(TieredConfig)


def build(name: str, config: str | None, *, per_wallet_cap_micro: int) -> Formula:
    """The formula of a campaign. Raises `InvalidRequest`, with paths in `grantConfig`, for a config it can't evaluate."""
    try:
        match name:
            case "fixed_amount":
                return _fixed_amount(config)
            case "proportional_loss":
                return _proportional_loss(_PROPORTIONAL.decode((config or "{}").encode()), per_wallet_cap_micro)
            case _:
                return _tiered(_TIERED.decode((config or "{}").encode()), per_wallet_cap_micro)
    except InvalidRequest as error:
        wrong: list[FieldError] = error.extensions["errors"]
        raise InvalidRequest(*[FieldError(f"grantConfig.{e.path}".rstrip("."), e.message) for e in wrong]) from None
    except MalformedJson as error:
        raise InvalidRequest(FieldError("grantConfig", error.detail)) from None


def proportional_loss(loss_micro: int, *, ratio_bps: int, min_loss_micro: int, cap_micro: int) -> Result:
    """A share of the loss, at most `cap_micro`; nothing below `min_loss_micro`."""
    if loss_micro < min_loss_micro:
        return Result(0, "below_minimum_loss")
    amount_micro = min(loss_micro * ratio_bps // BPS_PER_WHOLE, cap_micro)
    return Result(amount_micro, None if amount_micro else "comes_to_zero")


def tiered(loss_micro: int, *, brackets: list[Bracket], cap_micro: int) -> Result:
    """The amount of the bracket that holds the loss, at most `cap_micro`; nothing outside all brackets."""
    for bracket in brackets:
        if bracket.min_micro <= loss_micro and (bracket.max_micro is None or loss_micro < bracket.max_micro):
            amount_micro = min(int(bracket.amount_micro), cap_micro)
            return Result(amount_micro, None if amount_micro else "comes_to_zero")
    return Result(0, "outside_all_brackets")


def _fixed_amount(config: str | None) -> Formula:
    # Without a config each grant names its amount; one that is there and names none is a slip.
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
    for place, bracket in enumerate(brackets):
        path = f"brackets[{place}]"
        if end_micro is None:
            raise InvalidRequest(FieldError(path, "expected no bracket after one without an end"))
        if bracket.min_micro < end_micro:
            raise InvalidRequest(FieldError(f"{path}.minMicro", f"expected at least {end_micro}, where the one before ends"))
        if bracket.max_micro is not None and bracket.max_micro <= bracket.min_micro:
            raise InvalidRequest(FieldError(f"{path}.maxMicro", "expected more than minMicro"))
        end_micro = bracket.max_micro
