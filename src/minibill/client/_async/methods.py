"""All operations of the API as methods."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import TypeVar

from minibill.api.schemas import AcceptedClock, Now, RevokedToken, RevokedTokens
from minibill.audit.schemas import AuditRow
from minibill.client._async.accounts import AsyncAccounts
from minibill.client._async.campaigns import AsyncCampaigns
from minibill.client._async.charges import AsyncCharges
from minibill.client._async.events import AsyncFeed
from minibill.client.operation import time
from minibill.integrity.report import Report

T = TypeVar("T")


class AsyncMethods(AsyncAccounts, AsyncCharges, AsyncCampaigns, AsyncFeed):
    """The operations of the admin API and the service API. Responses are structs.

    Amounts are integers of micro-units in arguments, and strings of digits in responses: convert them with `int(…)`. Times
    are datetimes with an offset, or RFC 3339 text. `key` is the idempotency key of a write: repeating a request with its key
    returns the stored response. With `dry_run` a write of an admin returns its response and is rolled back; services have
    none. An error response is raised as the class of `minibill.core.problems` with its code.
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
        """Yield the audit log, newest first. `since` is inclusive, `until` exclusive."""
        query = {"actorId": actor_id, "action": action, "targetType": target_type, "targetId": target_id}
        return self._pages(AuditRow, "/audit", {}, **query, **{"from": time(since), "to": time(until)})

    async def revoke_token(self, token_id: str, *, key: str | None = None, dry_run: bool = False) -> RevokedToken:
        """Revoke a token by its `jti`."""
        route, segments = "/tokens/{token_id}/revoke", {"token_id": token_id}
        return await self._write(RevokedToken, "POST", route, segments, {}, key, dry_run=dry_run)

    async def revoke_tokens(
        self, sub: str, issued_before: datetime | str, *, key: str | None = None, dry_run: bool = False
    ) -> RevokedTokens:
        """Revoke all tokens of a `sub` that were issued before a time."""
        body = {"sub": sub, "issuedBefore": time(issued_before)}
        return await self._write(RevokedTokens, "POST", "/tokens/revoke", {}, body, key, dry_run=dry_run)

    async def last_reconciliation(self) -> Report:
        """Return the report of the last reconciliation."""
        return await self._read(Report, "/reconciliation", {})

    async def reconcile(self, *, key: str | None = None, dry_run: bool = False) -> Report:
        """Run a reconciliation, and return its report once it has ended."""
        return await self._write(Report, "POST", "/reconciliation", {}, {}, key, dry_run=dry_run)

    async def now(self) -> Now:
        """Return the ledger's time. Raises `NotFound` without a test clock."""
        return await self._read(Now, "/clock", {})

    async def accept_clock(self, *, key: str | None = None, dry_run: bool = False) -> AcceptedClock:
        """Let the ledger's time follow the wall clock again, however far ahead that is."""
        return await self._write(AcceptedClock, "POST", "/clock/accept", {}, {}, key, dry_run=dry_run)

    async def advance_clock(self, seconds: int) -> Now:
        """Move the ledger's time forward and expire all overdue items. Raises `NotFound` without a test clock."""
        return await self._write(Now, "POST", "/clock/advance", {}, {"seconds": seconds}, None)
