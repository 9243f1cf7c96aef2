"""Every operation of a book as a method. How an operation gets there is a subclass's business."""

# Made from _async/methods.py by `make client`: change that one.

import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

from minibill.auth.doors import Kind
from minibill.campaigns.structs import (
    BatchResult,
    Campaign,
    CampaignStatus,
    CampaignType,
    Formula,
    Grant,
    GrantStatus,
    RevokedCampaign,
    RevokedGrant,
    Stats,
)
from minibill.client.ask import (
    Ask,
    GrantTo,
    Json,
    PageOf,
    TierOf,
    Who,
    account_of,
    flag,
    grant_item,
    micro,
    read,
    tier,
    time,
    to_ask,
)
from minibill.discounts.structs import Membership, Quote, Tiers
from minibill.ledger.structs import (
    Account,
    Balance,
    BillingMode,
    Entry,
    EntryType,
    Finalized,
    Lot,
    LotState,
    Minted,
    Released,
    ReservationExplained,
    ReservedExplained,
)
from minibill.reconcile.report import Report
from minibill.structs import AuditRow, Now, RevokedToken
from minibill.wire import PAGE_ITEMS_MAX, EntityType

T = TypeVar("T")


class Methods:
    """The operations of the admin API and of the spending services, with the structs of the wire as answers.

    Amounts go in as integers of micro-units and come out as the wire has them, as strings of digits: `int(…)` makes them
    numbers. Times go in as datetimes with an offset or as RFC 3339 text. Every write takes `key`, its idempotency key: the
    same key with the same request is done once and answered again. With `dry_run` a write is judged, answered and taken
    back. A refusal is raised as the class of `minibill.problems` with its code.
    """

    # Whose door reservations are made at: services may also name an entity, and are not audited.
    _spending: Kind = "admin"

    def _send(self, ask: Ask) -> bytes:
        """The JSON of a success; raises the `Problem` of a refusal."""
        raise NotImplementedError

    def _new_key(self) -> str | None:
        """The idempotency key of a write that the caller gave none."""
        return uuid.uuid4().hex

    def _read(self, expected: type[T], route: str, segments: Json, **query: Any) -> T:
        return self._understood(self._send(to_ask("GET", route, segments, query=query)), expected)

    def _write(
        self, expected: type[T], method: str, route: str, segments: Json, body: Json, key: str | None, **how: Any
    ) -> T:
        ask = to_ask(method, route, segments, body=body, key=key or self._new_key(), **how)
        return self._understood(self._send(ask), expected)

    def _pages(self, expected: type[T], route: str, segments: Json, **query: Any) -> Iterator[T]:
        cursor = None
        while True:
            page = self._read(PageOf[expected], route, segments, limit=PAGE_ITEMS_MAX, cursor=cursor, **query)  # type: ignore[valid-type]
            for item in page.items:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return

    def _understood(self, answer: bytes, expected: type[T]) -> T:
        return read(answer, expected)

    # --- accounts ---

    def open_account(
        self, entity_type: EntityType, entity_id: str, *, key: str | None = None, dry_run: bool = False
    ) -> Account:
        """Opens the account of an entity, or finds it."""
        body = {"entityType": entity_type, "entityId": entity_id}
        return self._write(Account, "POST", "/accounts", {}, body, key, dry_run=dry_run)

    def account(self, account_id: str) -> Account:
        """One account."""
        return self._read(Account, "/accounts/{account_id}", {"account_id": account_id})

    def accounts(self, *, entity_type: EntityType | None = None, entity_id: str | None = None) -> Iterator[Account]:
        """All accounts, or those of an entity; oldest first."""
        return self._pages(Account, "/accounts", {}, entityType=entity_type, entityId=entity_id)

    def balance(self, account_id: str, *, pool_id: str | None = None, at: datetime | str | None = None) -> Balance:
        """What an account has, now or at a past moment."""
        segments = {"account_id": account_id}
        return self._read(Balance, "/accounts/{account_id}/balance", segments, poolId=pool_id, at=time(at))

    def lots(self, account_id: str, *, state: LotState | None = None) -> Iterator[Lot]:
        """The lots of an account, oldest first."""
        return self._pages(Lot, "/accounts/{account_id}/lots", {"account_id": account_id}, state=state)

    def history(
        self,
        account_id: str,
        *,
        pool_id: str | None = None,
        entry_type: EntryType | None = None,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
    ) -> Iterator[Entry]:
        """The entries of an account, newest first: those of `since` and later, and before `until`."""
        query = {"poolId": pool_id, "entryType": entry_type, "from": time(since), "to": time(until)}
        return self._pages(Entry, "/accounts/{account_id}/history", {"account_id": account_id}, **query)

    def mint(
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
        """Makes a lot of credits. One `source_id` is credited once, however often it is sent."""
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
        return self._write(Minted, "POST", "/accounts/{account_id}/mint", segments, body, key, dry_run=dry_run)

    # --- reservations ---

    def reserve(
        self,
        who: Who,
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
        """Holds credits of an account until they are finalized, released or overdue.

        Raises `InsufficientBalance` when there is not enough.
        """
        body = {
            "amountMicro": micro(amount_micro),
            "poolId": pool_id,
            "ttlSeconds": ttl_seconds,
            "billingMode": billing_mode,
            "description": description,
            "metadata": metadata,
        }
        how: dict[str, Any] = {"query": {"explain": flag(explain)}, "dry_run": dry_run, "door": self._spending}
        if self._spending == "service":
            return self._write(ReservedExplained, "POST", "/reservations", {}, account_of(who) | body, key, **how)
        if not isinstance(who, str):
            raise TypeError("an admin reserves for an account by its id; only services name an entity")
        segments = {"account_id": who}
        return self._write(ReservedExplained, "POST", "/accounts/{account_id}/reservations", segments, body, key, **how)

    def finalize(
        self, reservation_id: str, actual_cost_micro: int, *, key: str | None = None, dry_run: bool = False
    ) -> Finalized:
        """Charges a reservation with what the work cost, and gives the rest back."""
        return self._end(Finalized, reservation_id, "finalize", {"actualCostMicro": micro(actual_cost_micro)}, key, dry_run)

    def release(self, reservation_id: str, *, key: str | None = None, dry_run: bool = False) -> Released:
        """Gives all of a reservation back."""
        return self._end(Released, reservation_id, "release", {}, key, dry_run)

    def _end(self, expected: type[T], reservation_id: str, verb: str, body: Json, key: str | None, dry_run: bool) -> T:
        if self._spending == "service":
            named = {"reservationId": reservation_id, **body}
            return self._write(expected, "POST", f"/{verb}", {}, named, key, dry_run=dry_run, door="service")
        route, segments = f"/reservations/{{reservation_id}}/{verb}", {"reservation_id": reservation_id}
        return self._write(expected, "POST", route, segments, body, key, dry_run=dry_run)

    def reservation(self, reservation_id: str, *, explain: bool = False) -> ReservationExplained:
        """One reservation."""
        ask = to_ask(
            "GET",
            "/reservations/{reservation_id}",
            {"reservation_id": reservation_id},
            query={"explain": flag(explain)},
            door=self._spending,
        )
        return self._understood(self._send(ask), ReservationExplained)

    # --- discounts ---

    def put_tiers(
        self, community_id: str, tiers: Sequence[TierOf], *, key: str | None = None, dry_run: bool = False
    ) -> Tiers:
        """Replaces the tiers of a community."""
        segments, body = {"community_id": community_id}, {"tiers": [tier(of) for of in tiers]}
        return self._write(Tiers, "PUT", "/discounts/{community_id}/tiers", segments, body, key, dry_run=dry_run)

    def tiers(self, community_id: str) -> Tiers:
        """The tiers of a community."""
        return self._read(Tiers, "/discounts/{community_id}/tiers", {"community_id": community_id})

    def put_membership(
        self,
        account_id: str,
        community_id: str,
        tier: str,
        *,
        expires_at: datetime | str | None = None,
        key: str | None = None,
        dry_run: bool = False,
    ) -> Membership:
        """Makes an account a member of a community, or changes its membership."""
        segments = {"account_id": account_id, "community_id": community_id}
        body = {"tier": tier, "expiresAt": time(expires_at)}
        route = "/accounts/{account_id}/memberships/{community_id}"
        return self._write(Membership, "PUT", route, segments, body, key, dry_run=dry_run)

    def delete_membership(
        self, account_id: str, community_id: str, *, key: str | None = None, dry_run: bool = False
    ) -> None:
        """Ends a membership."""
        segments = {"account_id": account_id, "community_id": community_id}
        route = "/accounts/{account_id}/memberships/{community_id}"
        self._send(to_ask("DELETE", route, segments, key=key or self._new_key(), dry_run=dry_run))

    def memberships(self, account_id: str) -> Iterator[Membership]:
        """The memberships of an account, in the order in which they began."""
        return self._pages(Membership, "/accounts/{account_id}/memberships", {"account_id": account_id})

    def quote(self, account_id: str, amount_micro: int) -> Quote:
        """What a list price comes to for an account now, and why."""
        segments = {"account_id": account_id}
        return self._read(Quote, "/accounts/{account_id}/quote", segments, amountMicro=micro(amount_micro))

    # --- campaigns ---

    def create_campaign(
        self,
        name: str,
        campaign_type: CampaignType,
        budget_micro: int,
        *,
        description: str | None = None,
        grant_formula: Formula | None = None,
        grant_config: Json | None = None,
        pool_id: str | None = None,
        per_wallet_cap_micro: int | None = None,
        starts_at: datetime | str | None = None,
        expires_at: datetime | str | None = None,
        grant_ttl_seconds: int | None = None,
        key: str | None = None,
        dry_run: bool = False,
    ) -> Campaign:
        """Makes a campaign, as a draft."""
        body = {
            "name": name,
            "campaignType": campaign_type,
            "budgetMicro": micro(budget_micro),
            "description": description,
            "grantFormula": grant_formula,
            "grantConfig": grant_config,
            "poolId": pool_id,
            "perWalletCapMicro": micro(per_wallet_cap_micro),
            "startsAt": time(starts_at),
            "expiresAt": time(expires_at),
            "grantTtlSeconds": grant_ttl_seconds,
        }
        return self._write(Campaign, "POST", "/campaigns", {}, body, key, dry_run=dry_run)

    def edit_campaign(
        self,
        campaign_id: str,
        *,
        name: str | None = None,
        campaign_type: CampaignType | None = None,
        budget_micro: int | None = None,
        description: str | None = None,
        grant_formula: Formula | None = None,
        grant_config: Json | None = None,
        pool_id: str | None = None,
        per_wallet_cap_micro: int | None = None,
        starts_at: datetime | str | None = None,
        expires_at: datetime | str | None = None,
        grant_ttl_seconds: int | None = None,
        key: str | None = None,
        dry_run: bool = False,
    ) -> Campaign:
        """Changes what is given; the rest stays."""
        body = {
            "name": name,
            "campaignType": campaign_type,
            "budgetMicro": micro(budget_micro),
            "description": description,
            "grantFormula": grant_formula,
            "grantConfig": grant_config,
            "poolId": pool_id,
            "perWalletCapMicro": micro(per_wallet_cap_micro),
            "startsAt": time(starts_at),
            "expiresAt": time(expires_at),
            "grantTtlSeconds": grant_ttl_seconds,
        }
        segments = {"campaign_id": campaign_id}
        return self._write(Campaign, "PATCH", "/campaigns/{campaign_id}", segments, body, key, dry_run=dry_run)

    def activate_campaign(self, campaign_id: str, *, key: str | None = None, dry_run: bool = False) -> Campaign:
        """Lets a campaign pay."""
        return self._move(campaign_id, "activate", key, dry_run)

    def pause_campaign(self, campaign_id: str, *, key: str | None = None, dry_run: bool = False) -> Campaign:
        """Stops a campaign from paying, for a while."""
        return self._move(campaign_id, "pause", key, dry_run)

    def complete_campaign(self, campaign_id: str, *, key: str | None = None, dry_run: bool = False) -> Campaign:
        """Ends a campaign."""
        return self._move(campaign_id, "complete", key, dry_run)

    def _move(self, campaign_id: str, verb: str, key: str | None, dry_run: bool) -> Campaign:
        route, segments = f"/campaigns/{{campaign_id}}/{verb}", {"campaign_id": campaign_id}
        return self._write(Campaign, "POST", route, segments, {}, key, dry_run=dry_run)

    def campaign(self, campaign_id: str) -> Campaign:
        """One campaign."""
        return self._read(Campaign, "/campaigns/{campaign_id}", {"campaign_id": campaign_id})

    def campaigns(
        self, *, status: CampaignStatus | None = None, campaign_type: CampaignType | None = None
    ) -> Iterator[Campaign]:
        """Campaigns, newest first."""
        return self._pages(Campaign, "/campaigns", {}, status=status, campaignType=campaign_type)

    def pay_batch(
        self,
        campaign_id: str,
        grants: Sequence[GrantTo],
        *,
        force: bool = False,
        key: str | None = None,
        dry_run: bool = False,
    ) -> BatchResult:
        """Pays 1 to 1,000 grants, each account once; all or nothing where limits are concerned."""
        body = {"grants": [grant_item(grant) for grant in grants], "force": force or None}
        route, segments = "/campaigns/{campaign_id}/grants/batch", {"campaign_id": campaign_id}
        return self._write(BatchResult, "POST", route, segments, body, key, dry_run=dry_run)

    def grants(
        self, campaign_id: str, *, status: GrantStatus | None = None, account_id: str | None = None
    ) -> Iterator[Grant]:
        """The grants of a campaign, in the order in which they were paid."""
        route, segments = "/campaigns/{campaign_id}/grants", {"campaign_id": campaign_id}
        return self._pages(Grant, route, segments, status=status, accountId=account_id)

    def revoke_grant(
        self, campaign_id: str, grant_id: str, reason: str, *, key: str | None = None, dry_run: bool = False
    ) -> RevokedGrant:
        """Takes back what is left of a grant."""
        route, segments = (
            "/campaigns/{campaign_id}/grants/{grant_id}/revoke",
            {"campaign_id": campaign_id, "grant_id": grant_id},
        )
        return self._write(RevokedGrant, "POST", route, segments, {"reason": reason}, key, dry_run=dry_run)

    def revoke_campaign(
        self, campaign_id: str, reason: str, *, key: str | None = None, dry_run: bool = False
    ) -> RevokedCampaign:
        """Takes back what is left of all grants of a campaign."""
        route, segments = "/campaigns/{campaign_id}/revoke", {"campaign_id": campaign_id}
        return self._write(RevokedCampaign, "POST", route, segments, {"reason": reason}, key, dry_run=dry_run)

    def campaign_stats(self, campaign_id: str) -> Stats:
        """What became of the credits that a campaign granted."""
        return self._read(Stats, "/campaigns/{campaign_id}/stats", {"campaign_id": campaign_id})

    # --- the book ---

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

    def last_reconciliation(self) -> Report:
        """The report of the last reconciliation."""
        return self._read(Report, "/reconciliation", {})

    def reconcile(self, *, key: str | None = None, dry_run: bool = False) -> Report:
        """Recomputes the whole book now."""
        return self._write(Report, "POST", "/reconciliation", {}, {}, key, dry_run=dry_run)

    def now(self) -> Now:
        """The book's time; only with a test clock."""
        return self._read(Now, "/clock", {})

    def advance_clock(self, seconds: int) -> Now:
        """Moves the book's time forward, and settles what falls due; only with a test clock."""
        return self._write(Now, "POST", "/clock/advance", {}, {"seconds": seconds}, None)
