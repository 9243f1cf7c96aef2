"""Accounts, lots, debts, reservations and discounts."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

from minibill.api.types import EntityType
from minibill.client._async.base import AsyncBaseClient
from minibill.client.operation import AccountRef, Json, TierOf, account_of, flag, micro, tier, time
from minibill.discounts.schemas import Membership, Quote, Tiers
from minibill.ledger.schemas import (
    Account,
    Balance,
    BillingMode,
    Debt,
    Entry,
    EntryType,
    Finalized,
    ForgivenDebt,
    Lot,
    LotState,
    Minted,
    Released,
    ReservationExplained,
    ReservedExplained,
)

T = TypeVar("T")


class AsyncAccounts(AsyncBaseClient):
    """Operations on accounts."""

    # --- accounts ---

    async def open_account(
        self, entity_type: EntityType, entity_id: str, *, key: str | None = None, dry_run: bool = False
    ) -> Account:
        """Open the account of an entity, or return the existing one."""
        body = {"entityType": entity_type, "entityId": entity_id}
        return await self._write(Account, "POST", "/accounts", {}, body, key, dry_run=dry_run)

    async def account(self, account_id: str) -> Account:
        """Return an account. Raises `AccountNotFound`."""
        return await self._read(Account, "/accounts/{account_id}", {"account_id": account_id})

    def accounts(self, *, entity_type: EntityType | None = None, entity_id: str | None = None) -> AsyncIterator[Account]:
        """Yield all accounts, or those of an entity, oldest first."""
        return self._pages(Account, "/accounts", {}, entityType=entity_type, entityId=entity_id)

    async def balance(self, account_id: str, *, pool_id: str | None = None, at: datetime | str | None = None) -> Balance:
        """Return the balance of an account by pool, now or at a past time, in micro-units. Raises `AccountNotFound`."""
        segments = {"account_id": account_id}
        return await self._read(Balance, "/accounts/{account_id}/balance", segments, poolId=pool_id, at=time(at))

    def lots(self, account_id: str, *, state: LotState | None = None) -> AsyncIterator[Lot]:
        """Yield the lots of an account, oldest first."""
        return self._pages(Lot, "/accounts/{account_id}/lots", {"account_id": account_id}, state=state)

    def history(
        self,
        account_id: str,
        *,
        pool_id: str | None = None,
        entry_type: EntryType | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
    ) -> AsyncIterator[Entry]:
        """Yield the entries of an account, newest first. `since` is inclusive, `until` exclusive."""
        query = {"poolId": pool_id, "entryType": entry_type, "from": time(since), "to": time(until)}
        return self._pages(Entry, "/accounts/{account_id}/history", {"account_id": account_id}, **query)

    async def mint(
        self,
        account_id: str,
        amount_micro: int,
        *,
        source_type: str | None = None,
        source_id: str | None = None,
        pool_id: str | None = None,
        priority: int | None = None,
        expires_at: datetime | str | None = None,
        description: str | None = None,
        metadata: Json | None = None,
        key: str | None = None,
        dry_run: bool = False,
    ) -> Minted:
        """Mint a lot of `amount_micro` micro-units. A `source_id` is credited once, however often it is sent.

        A repeated source with the same account and amount returns the first lot and `duplicate=True`. Raises
        `SourceAlreadyCredited` if its account or amount differ, `AmountTooLarge`, `TooManyPools` or `AccountNotFound`.
        """
        body = {
            "amountMicro": micro(amount_micro),
            "sourceType": source_type,
            "sourceId": source_id,
            "poolId": pool_id,
            "priority": priority,
            "expiresAt": time(expires_at),
            "description": description,
            "metadata": metadata,
        }
        segments = {"account_id": account_id}
        return await self._write(Minted, "POST", "/accounts/{account_id}/mint", segments, body, key, dry_run=dry_run)

    # --- debts ---

    def debts(self, account_id: str, *, is_open: bool | None = None) -> AsyncIterator[Debt]:
        """Yield the debts of an account, oldest first: all, open ones, or closed ones."""
        shown = None if is_open is None else str(is_open).lower()
        return self._pages(Debt, "/accounts/{account_id}/debts", {"account_id": account_id}, open=shown)

    async def forgive_debt(
        self, account_id: str, debt_id: str, reason: str, *, key: str | None = None, dry_run: bool = False
    ) -> ForgivenDebt:
        """Write off the unpaid rest of a debt. Raises `DebtNotFound`."""
        segments = {"account_id": account_id, "debt_id": debt_id}
        route = "/accounts/{account_id}/debts/{debt_id}/forgive"
        return await self._write(ForgivenDebt, "POST", route, segments, {"reason": reason}, key, dry_run=dry_run)

    # --- reservations ---

    async def reserve(
        self,
        who: AccountRef,
        amount_micro: int,
        *,
        pool_id: str | None = None,
        ttl_seconds: int | None = None,
        billing_mode: BillingMode | None = None,
        description: str | None = None,
        metadata: Json | None = None,
        explain: bool = False,
        key: str | None = None,
        dry_run: bool = False,
    ) -> ReservedExplained:
        """Reserve `amount_micro` micro-units until they are finalized, released or expired.

            reservation = book.reserve(account.id, 250_000, ttl_seconds=60)
            book.finalize(reservation.reservation_id, 180_000)

        Raises `InsufficientBalance`, `AmountTooLarge`, `TooManyLots`, `TooManyReservations`, `BillingModeNotAllowed` or
        `AccountNotFound`. Only service tokens may name an `Entity`; `TypeError` otherwise.
        """
        body = {
            "amountMicro": micro(amount_micro),
            "poolId": pool_id,
            "ttlSeconds": ttl_seconds,
            "billingMode": billing_mode,
            "description": description,
            "metadata": metadata,
        }
        options: dict[str, Any] = {"query": {"explain": flag(explain)}, "dry_run": dry_run, "kind": self._spending}
        if self._spending == "service":
            return await self._write(ReservedExplained, "POST", "/reservations", {}, account_of(who) | body, key, **options)
        if not isinstance(who, str):
            raise TypeError("an admin must name the account by its id; only services may name an entity")
        segments = {"account_id": who}
        return await self._write(
            ReservedExplained, "POST", "/accounts/{account_id}/reservations", segments, body, key, **options
        )

    async def finalize(
        self, reservation_id: str, actual_cost_micro: int, *, key: str | None = None, dry_run: bool = False
    ) -> Finalized:
        """Charge a reservation with the actual cost in micro-units, and release the rest.

        Raises `ReservationNotPending`, `ReservationConflict` if it was finalized with another cost, `AmountTooLarge` or
        `ReservationNotFound`.
        """
        return await self._end(
            Finalized, reservation_id, "finalize", {"actualCostMicro": micro(actual_cost_micro)}, key, dry_run
        )

    async def release(self, reservation_id: str, *, key: str | None = None, dry_run: bool = False) -> Released:
        """Release a reservation. Raises `ReservationNotPending` or `ReservationNotFound`."""
        return await self._end(Released, reservation_id, "release", {}, key, dry_run)

    async def _end(self, expected: type[T], reservation_id: str, verb: str, body: Json, key: str | None, dry_run: bool) -> T:
        if self._spending == "service":
            named = {"reservationId": reservation_id, **body}
            return await self._write(expected, "POST", f"/{verb}", {}, named, key, dry_run=dry_run, kind="service")
        route, segments = f"/reservations/{{reservation_id}}/{verb}", {"reservation_id": reservation_id}
        return await self._write(expected, "POST", route, segments, body, key, dry_run=dry_run)

    async def reservation(self, reservation_id: str, *, explain: bool = False) -> ReservationExplained:
        """Return a reservation; with `explain`, also why it reserves that amount. Raises `ReservationNotFound`."""
        operation = self._operation(
            "GET",
            "/reservations/{reservation_id}",
            {"reservation_id": reservation_id},
            query={"explain": flag(explain)},
            kind=self._spending,
        )
        return self._decode(await self.send(operation), ReservationExplained)

    # --- discounts ---

    async def put_tiers(
        self, community_id: str, tiers: Sequence[TierOf], *, key: str | None = None, dry_run: bool = False
    ) -> Tiers:
        """Replace the discount tiers of a community."""
        segments, body = {"community_id": community_id}, {"tiers": [tier(of) for of in tiers]}
        return await self._write(Tiers, "PUT", "/discounts/{community_id}/tiers", segments, body, key, dry_run=dry_run)

    async def tiers(self, community_id: str) -> Tiers:
        """Return the discount tiers of a community."""
        return await self._read(Tiers, "/discounts/{community_id}/tiers", {"community_id": community_id})

    async def put_membership(
        self,
        account_id: str,
        community_id: str,
        tier: str,
        *,
        expires_at: datetime | str | None = None,
        key: str | None = None,
        dry_run: bool = False,
    ) -> Membership:
        """Create or replace the membership of an account. Raises `TierNotFound` or `AccountNotFound`."""
        segments = {"account_id": account_id, "community_id": community_id}
        body = {"tier": tier, "expiresAt": time(expires_at)}
        route = "/accounts/{account_id}/memberships/{community_id}"
        return await self._write(Membership, "PUT", route, segments, body, key, dry_run=dry_run)

    async def delete_membership(
        self, account_id: str, community_id: str, *, key: str | None = None, dry_run: bool = False
    ) -> None:
        """Delete a membership."""
        segments = {"account_id": account_id, "community_id": community_id}
        route = "/accounts/{account_id}/memberships/{community_id}"
        await self.send(self._operation("DELETE", route, segments, key=key or self._new_key(), dry_run=dry_run))

    def memberships(self, account_id: str) -> AsyncIterator[Membership]:
        """Yield the memberships of an account, in the order of their creation."""
        return self._pages(Membership, "/accounts/{account_id}/memberships", {"account_id": account_id})

    async def quote(self, account_id: str, amount_micro: int) -> Quote:
        """Return the discount on a list price in micro-units for an account now, and the memberships considered."""
        segments = {"account_id": account_id}
        return await self._read(Quote, "/accounts/{account_id}/quote", segments, amountMicro=micro(amount_micro))
