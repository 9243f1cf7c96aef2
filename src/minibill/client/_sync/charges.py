"""Charges: spending without a reservation."""

# Generated from _async/charges.py by `make client`; edit that file.

from collections.abc import Iterator, Sequence
from typing import Any

from minibill.charges.schemas import ChargeBatch, ChargedExplained, ChargeExplained
from minibill.client._sync.base import BaseClient
from minibill.client.operation import AccountRef, Json, UsageOf, account_of, flag, make_operation, micro, usage_record
from minibill.ledger.schemas import BillingMode


class Charges(BaseClient):
    """Operations on charges."""

    def charge(
        self,
        who: AccountRef,
        cost_micro: int,
        *,
        source_id: str | None = None,
        pool_id: str | None = None,
        billing_mode: BillingMode | None = None,
        description: str | None = None,
        metadata: Json | None = None,
        explain: bool = False,
        key: str | None = None,
        dry_run: bool = False,
    ) -> ChargedExplained:
        """Charge `cost_micro` micro-units at list price. A `source_id` charges an account once, however often it is sent.

            book.charge(account.id, 250_000, source_id="call-17")

        A repeated source with the same cost and pool returns the first charge and `duplicate=True`. Raises
        `SourceAlreadyCharged` if they differ, `InsufficientBalance`, `AmountTooLarge`, `TooManyLots`, `TooManyPools`,
        `BillingModeNotAllowed` or `AccountNotFound`. Only service tokens may name an `Entity`; `TypeError` otherwise.
        """
        body = {
            "costMicro": micro(cost_micro),
            "sourceId": source_id,
            "poolId": pool_id,
            "billingMode": billing_mode,
            "description": description,
            "metadata": metadata,
        }
        options: dict[str, Any] = {"query": {"explain": flag(explain)}, "dry_run": dry_run, "kind": self._spending}
        if self._spending == "service":
            return self._write(ChargedExplained, "POST", "/charges", {}, account_of(who) | body, key, **options)
        if not isinstance(who, str):
            raise TypeError("an admin must name the account by its id; only services may name an entity")
        route, segments = "/accounts/{account_id}/charges", {"account_id": who}
        return self._write(ChargedExplained, "POST", route, segments, body, key, **options)

    def charge_batch(self, charges: Sequence[UsageOf], *, key: str | None = None) -> ChargeBatch:
        """Charge up to 1,000 usage records, each once. A rejected one has no effect on the others.

            book.charge_batch([UsageOf(account.id, 250_000, "call-17"), UsageOf(Entity("agent", "a7"), 90, "call-18")])

        Sending the batch again charges what was rejected, if it is covered by then, and nothing twice. Only services charge
        in batches; `TypeError` for an admin's client. Raises `BatchTooLarge` or `BillingModeNotAllowed`.
        """
        if self._spending != "service":
            raise TypeError("only services charge in batches; use a service token")
        body = {"charges": [usage_record(record) for record in charges]}
        return self._write(ChargeBatch, "POST", "/charges/batch", {}, body, key, kind="service")

    def charge_by_id(self, charge_id: str, *, explain: bool = False) -> ChargeExplained:
        """Return a charge; with `explain`, also why it charged that amount. Raises `ChargeNotFound`."""
        segments, query = {"charge_id": charge_id}, {"explain": flag(explain)}
        operation = make_operation("GET", "/charges/{charge_id}", segments, query=query, kind=self._spending)
        return self._decode(self.send(operation), ChargeExplained)

    def charges(self, account_id: str, *, source_id: str | None = None) -> Iterator[ChargeExplained]:
        """Yield the charges of an account, or the one of a source, newest first."""
        segments = {"account_id": account_id}
        return self._pages(ChargeExplained, "/accounts/{account_id}/charges", segments, sourceId=source_id)
