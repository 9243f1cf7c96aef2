"""Every operation of a book as a method."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import TypeVar

from minibill.api.schemas import AcceptedClock, Now, RevokedToken, RevokedTokens
from minibill.audit.schemas import AuditRow
from minibill.client._async.accounts import AsyncAccounts
from minibill.client._async.campaigns import AsyncCampaigns
from minibill.client._async.events import AsyncFeed
from minibill.client.operation import time
from minibill.integrity.report import Report

T = TypeVar("T")


class AsyncMethods(AsyncAccounts, AsyncCampaigns, AsyncFeed):
    """The operations of the admin API and of the spending services, with the structs of the wire as answers.

    Amounts go in as integers of micro-units and come out as the wire has them, as strings of digits: `int(…)` makes them
    numbers. Times go in as datetimes with an offset or as RFC 3339 text. Every write takes `key`, its idempotency key: the
    same key with the same request is done once and answered again. With `dry_run` a write is judged, answered and taken
    back. A refusal is raised as the class of `minibill.core.problems` with its code.
    """

    def audit(
        self,
        *,
        actor_id: str | None = None,
        action: str | None = None,
        target_type: str | None = None,
        target_id: str | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
    ) -> AsyncIterator[AuditRow]:
        """What admins did, newest first: from `since` on and before `until`."""
        query = {"actorId": actor_id, "action": action, "targetType": target_type, "targetId": target_id}
        return self._pages(AuditRow, "/audit", {}, **query, **{"from": time(since), "to": time(until)})

    async def revoke_token(self, token_id: str, *, key: str | None = None, dry_run: bool = False) -> RevokedToken:
        """Refuses a token from now on."""
        route, segments = "/tokens/{token_id}/revoke", {"token_id": token_id}
        return await self._write(RevokedToken, "POST", route, segments, {}, key, dry_run=dry_run)

    async def revoke_tokens(
        self, sub: str, issued_before: datetime | str, *, key: str | None = None, dry_run: bool = False
    ) -> RevokedTokens:
        """Rejects all tokens of a `sub` that were issued before a time."""
        body = {"sub": sub, "issuedBefore": time(issued_before)}
        return await self._write(RevokedTokens, "POST", "/tokens/revoke", {}, body, key, dry_run=dry_run)

    async def last_reconciliation(self) -> Report:
        """The report of the last reconciliation."""
        return await self._read(Report, "/reconciliation", {})

    async def reconcile(self, *, key: str | None = None, dry_run: bool = False) -> Report:
        """Recomputes the whole book now."""
        return await self._write(Report, "POST", "/reconciliation", {}, {}, key, dry_run=dry_run)

    async def now(self) -> Now:
        """The book's time; only with a test clock."""
        return await self._read(Now, "/clock", {})

    async def accept_clock(self, *, key: str | None = None, dry_run: bool = False) -> AcceptedClock:
        """Makes the book's time follow the wall clock again, however far that is ahead."""
        return await self._write(AcceptedClock, "POST", "/clock/accept", {}, {}, key, dry_run=dry_run)

    async def advance_clock(self, seconds: int) -> Now:
        """Moves the book's time forward, and settles what falls due; only with a test clock."""
        return await self._write(Now, "POST", "/clock/advance", {}, {"seconds": seconds}, None)
