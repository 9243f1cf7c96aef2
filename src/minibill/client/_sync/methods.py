"""Every operation of a book as a method."""

# Made from _async/methods.py by `make client`: change that one.

from collections.abc import Iterator
from datetime import datetime
from typing import TypeVar

from minibill.api.schemas import AcceptedClock, Now, RevokedToken, RevokedTokens
from minibill.audit.schemas import AuditRow
from minibill.client._sync.accounts import Accounts
from minibill.client._sync.campaigns import Campaigns
from minibill.client._sync.events import Feed
from minibill.client.operation import time
from minibill.integrity.report import Report

T = TypeVar("T")


class Methods(Accounts, Campaigns, Feed):
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
    ) -> Iterator[AuditRow]:
        """What admins did, newest first: from `since` on and before `until`."""
        query = {"actorId": actor_id, "action": action, "targetType": target_type, "targetId": target_id}
        return self._pages(AuditRow, "/audit", {}, **query, **{"from": time(since), "to": time(until)})

    def revoke_token(self, token_id: str, *, key: str | None = None, dry_run: bool = False) -> RevokedToken:
        """Refuses a token from now on."""
        route, segments = "/tokens/{token_id}/revoke", {"token_id": token_id}
        return self._write(RevokedToken, "POST", route, segments, {}, key, dry_run=dry_run)

    def revoke_tokens(
        self, sub: str, issued_before: datetime | str, *, key: str | None = None, dry_run: bool = False
    ) -> RevokedTokens:
        """Rejects all tokens of a `sub` that were issued before a time."""
        body = {"sub": sub, "issuedBefore": time(issued_before)}
        return self._write(RevokedTokens, "POST", "/tokens/revoke", {}, body, key, dry_run=dry_run)

    def last_reconciliation(self) -> Report:
        """The report of the last reconciliation."""
        return self._read(Report, "/reconciliation", {})

    def reconcile(self, *, key: str | None = None, dry_run: bool = False) -> Report:
        """Recomputes the whole book now."""
        return self._write(Report, "POST", "/reconciliation", {}, {}, key, dry_run=dry_run)

    def now(self) -> Now:
        """The book's time; only with a test clock."""
        return self._read(Now, "/clock", {})

    def accept_clock(self, *, key: str | None = None, dry_run: bool = False) -> AcceptedClock:
        """Makes the book's time follow the wall clock again, however far that is ahead."""
        return self._write(AcceptedClock, "POST", "/clock/accept", {}, {}, key, dry_run=dry_run)

    def advance_clock(self, seconds: int) -> Now:
        """Moves the book's time forward, and settles what falls due; only with a test clock."""
        return self._write(Now, "POST", "/clock/advance", {}, {"seconds": seconds}, None)
