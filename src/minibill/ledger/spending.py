"""The plan of a spend, which reservations and charges share: its account, its price and its lots."""

from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

import msgspec

from minibill.api.types import Entity, encode
from minibill.core import ids
from minibill.core.problems import AccountNotFound, FieldError, InsufficientBalance, InvalidRequest, TooManyLots
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.ledger.account_cache import CachedAccount
from minibill.ledger.accounts import account_id_of_entity
from minibill.ledger.drawdown import Draw, choose_draws, spendable_micro
from minibill.ledger.expiry import spending_account_for_update
from minibill.ledger.explanations import LOTS_MAX, explain_reserve
from minibill.ledger.limits import LOTS_PER_SPEND_MAX
from minibill.ledger.pricing import NO_DISCOUNT, Discount, Membership, best_discount
from minibill.ledger.schemas import ReserveExplanation

DISCOUNTS = queries("discounts")


def account_to_spend_from(
    conn: Connection, account_id: str | None, entity: Entity | None, *, pool_id: str, now_us: int
) -> CachedAccount:
    """Return the account of an id or an entity. With both, they must name the same account.

    Raises `AccountNotFound`, `InvalidRequest` for two accounts, and `ExpiryDue`.
    """
    name = account_id_of_entity(conn, entity) if entity is not None else account_id or ""
    if account_id is not None and name != account_id:
        raise InvalidRequest(FieldError("entity", f"expected the entity of {account_id}, or nothing"))
    key = ids.decode(ids.ACCOUNT, name)
    account = None if key is None else spending_account_for_update(conn, key, pool_id=pool_id, now_us=now_us)
    if account is None:
        raise AccountNotFound(name)
    return account


def memberships_of(conn: Connection, account_id: int) -> list[Membership]:
    """Return the memberships of an account with the terms of their tiers."""
    return [Membership(*row) for row in DISCOUNTS.memberships_with_terms.all(conn, account_id=account_id)]


def memberships_of_accounts(conn: Connection, account_ids: Collection[int]) -> dict[int, list[Membership]]:
    """Return the same for several accounts; those without memberships are left out."""
    memberships: dict[int, list[Membership]] = {}
    for account_id, *terms in DISCOUNTS.memberships_of_accounts.all(conn, account_ids=encode(account_ids).decode()):
        memberships.setdefault(account_id, []).append(Membership(*terms))
    return memberships


class SpendPlan(NamedTuple):
    """The price of a spend, and the lots that it takes credits from, before anything is written.

    `taken_micro` is the sum of the draws; in shadow mode, the price. `explanation` is None unless it was asked for.
    """

    discount: Discount
    discount_micro: int
    taken_micro: int
    draws: list[Draw]
    explanation: ReserveExplanation | None


def plan_spend(
    conn: Connection,
    account: CachedAccount,
    *,
    pool_id: str,
    list_micro: int,
    billing_mode: str,
    explain: bool,
    now_us: int,
) -> SpendPlan:
    """Apply the discount of the account's best membership, and choose lots in drawdown order.

    Live mode takes the whole price or raises `InsufficientBalance` or `TooManyLots`. Soft mode takes what is available, from
    as many lots as a spend may have. Shadow mode applies no discount and takes nothing.
    """
    key = account.account_id
    memberships = memberships_of(conn, key) if account.has_memberships else []
    discount = NO_DISCOUNT
    if memberships and billing_mode != "shadow":
        discount = best_discount(memberships, list_micro, now_us=now_us)
    discount_micro = discount.on(list_micro)
    explanation_of = None
    if explain:
        explanation_of = partial(
            explain_reserve, conn, account_id=key, pool_id=pool_id, list_micro=list_micro, discount=discount,
            memberships=memberships, now_us=now_us,
        )  # fmt: skip
    taken_micro = list_micro - discount_micro
    draws: list[Draw] = []
    if billing_mode != "shadow":
        available_micro = spendable_micro(account.balances, key, pool_id)
        if available_micro < taken_micro and billing_mode == "live":
            extensions: dict[str, Any] = {}
            if explanation_of is not None:
                draws = choose_draws(conn, account, pool_id=pool_id, amount_micro=available_micro, lots_max=LOTS_MAX)
                extensions["explanation"] = explanation_of(held_micro=0, draws=draws, is_rejected=True)
            raise InsufficientBalance(
                available_micro=available_micro,
                requested_micro=taken_micro,
                list_micro=list_micro,
                pool_id=pool_id,
                **extensions,
            )
        draws, taken_micro = _choose_draws(conn, account, pool_id, min(taken_micro, available_micro), billing_mode)
    explanation = None
    if explanation_of is not None:
        explanation = explanation_of(held_micro=taken_micro, draws=draws, is_rejected=False)
    return SpendPlan(discount, discount_micro, taken_micro, draws, explanation)


def shadow_metadata(figures: dict[str, Any], metadata: str | None) -> str:
    """Return the metadata of a shadow entry: its figures, and the caller's metadata as their member."""
    return encode(figures if metadata is None else figures | {"metadata": msgspec.Raw(metadata)}).decode()


def _choose_draws(
    conn: Connection, account: CachedAccount, pool_id: str, amount_micro: int, billing_mode: str
) -> tuple[list[Draw], int]:
    """Choose lots for an available amount; return the draws and their sum. Raises `TooManyLots` in live mode."""
    draws = choose_draws(conn, account, pool_id=pool_id, amount_micro=amount_micro)
    if len(draws) < LOTS_PER_SPEND_MAX:
        return draws, amount_micro
    drawn_micro = sum(d.amount_micro for d in draws)
    if drawn_micro < amount_micro and billing_mode == "live":
        raise TooManyLots(
            f"the first {LOTS_PER_SPEND_MAX} lots hold {drawn_micro} of {amount_micro} micro-units; "
            f"spend at most {drawn_micro} at once",
            limit=LOTS_PER_SPEND_MAX,
            available_micro=str(drawn_micro),
            requested_micro=str(amount_micro),
        )
    return draws, drawn_micro
