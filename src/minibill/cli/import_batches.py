"""Batches of an import: cut to the limits of the service, checked in dry runs, and paid in list order."""

import re
from collections.abc import Callable, Iterator, Sequence

import msgspec

from minibill.campaigns import formulas
from minibill.campaigns.batch import BATCH_GRANTS_MAX, LARGE_GRANT_MICRO
from minibill.campaigns.schemas import BatchResult, Campaign, GrantResult
from minibill.cli.import_rows import Item, Result, Rows
from minibill.client import Client
from minibill.client.errors import not_like_minibill
from minibill.core.problems import (
    AmountTooLarge,
    BatchTooLarge,
    BudgetExceeded,
    InsufficientScope,
    InvalidRequest,
    LargeGrantRequiresForce,
    PayloadTooLarge,
    PerWalletCapExceeded,
    Problem,
)

# Below the service's limit of 1 MiB, because a proxy may count more than the body.
BATCH_BYTES_MAX = 900 * 1024
# Upper bound for an item's member names, entity type and amount.
ITEM_BYTES = 150

GRANT_PATH = re.compile(r"\bgrants\[([0-9]{1,6})\](\.?)")


class DoesNotFit(Exception):
    """The remaining budget does not cover the next row."""


class Batches:
    """The requests that pay a list in one campaign.

    `sending` holds the items whose response is missing; dry runs leave it empty. `current` holds the items of the latest
    request, so that a path such as `grants[3]` can be mapped to a line.
    """

    def __init__(
        self,
        client: Client,
        campaign_id: str,
        rows: Rows,
        *,
        entity_type: str | None,
        force: bool,
        size_max: int = BATCH_GRANTS_MAX,
        on_progress: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._client = client
        self._campaign_id = campaign_id
        self._rows = rows
        self._entity_type = entity_type
        self._force = force
        self._size_max = size_max
        self._on_progress = on_progress
        # Ceiling of one request. The error of the first batch above it states the ceiling.
        self._ceiling_micro: int | None = None
        self.sending: list[Item] = []
        self.current: list[Item] = []
        self.requests = 0
        # From `check`: the sum of all new grants, and the campaign's remaining budget before them.
        self.needed_micro = 0
        self.remaining_micro: int | None = None
        self.over_limits = 0

    # --- before anything is paid ---

    def is_within_limits(self, campaign: Campaign) -> bool:
        """Return true if the whole list fits the campaign's budget and caps, even if no row was paid before."""
        self.remaining_micro = int(campaign.remaining_micro)
        self._rows.compute_amounts(amount_by_formula(campaign))
        total = self._rows.total()
        largest_micro = int(campaign.per_wallet_cap_micro)
        if not self._force:
            largest_micro = min(largest_micro, LARGE_GRANT_MICRO)
        fits = total.total_micro <= self.remaining_micro and total.largest_micro <= largest_micro
        return fits and not total.unknown

    def read_campaign(self) -> Campaign | None:
        """Return the campaign, or None if the token has no scope to read it."""
        try:
            return self._client.campaign(self._campaign_id)
        except InsufficientScope:
            return None

    def check(self) -> None:
        """Have the service evaluate all rows in dry runs. Raise problems that are not about a limit."""
        for items in self._cut():
            self._check(items)
            self._on_progress(len(items))

    def _check(self, items: list[Item]) -> None:
        if not items:
            return
        try:
            checked = self._send(items, dry_run=True)
        except BudgetExceeded as problem:
            self.needed_micro += int(problem.extensions["requested_micro"])
            self.remaining_micro = int(problem.extensions["remaining_micro"])
            self._check_over_budget(items)
        except (PerWalletCapExceeded, LargeGrantRequiresForce) as problem:
            over = self._over_limit(problem, items)
            self._rows.record(Result(item.line, "refused", micro, reason=problem.code) for item, micro in over)
            self.over_limits += len(over)
            lines = {item.line for item, _ in over}
            self._check([item for item in items if item.line not in lines])
        except (AmountTooLarge, PayloadTooLarge, BatchTooLarge) as problem:
            if len(items) == 1:
                self._rows.record([Result(items[0].line, "refused", items[0].expected_micro, reason=problem.code)])
                self.over_limits += 1
                return
            for part in self._split(items, problem):
                self._check(part)
        else:
            self.needed_micro += int(checked.total_amount_micro)
            self.remaining_micro = int(checked.remaining_micro) + int(checked.total_amount_micro)
            self._rows.record(_result(item, grant, paid=False) for item, grant in zip(items, checked.grants, strict=True))

    def _check_over_budget(self, items: list[Item]) -> None:
        """Find the rows that were paid before, by grants of zero, which are within every limit."""
        probes = [item._replace(amount_micro=0) for item in items]
        checked = self._send(probes, dry_run=True)
        results = []
        for item, grant in zip(items, checked.grants, strict=True):
            result = _result(item, grant, paid=False)
            if result.status == "skipped" and item.expected_micro != 0:
                result = Result(item.line, "new", item.expected_micro, grant.account_id)
            results.append(result)
        self._rows.record(results)

    def _over_limit(self, problem: Problem, items: list[Item]) -> list[tuple[Item, int]]:
        over = []
        for member in problem.extensions.get("grants", ()):
            index = index_in_path(str(member.get("path", "")), items)
            if index is not None:
                over.append((items[index], int(member["amountMicro"])))
        if not over:
            raise problem
        return over

    # --- paying ---

    def pay(self, *, partial: bool, on_paid: Callable[[BatchResult], None]) -> None:
        """Pay the rows. With `partial`, raise `DoesNotFit` at the first row that exceeds the budget."""
        for items in self._cut():
            self._pay(items, partial=partial, on_paid=on_paid)
            self._on_progress(len(items))

    def _pay(self, items: list[Item], *, partial: bool, on_paid: Callable[[BatchResult], None]) -> None:
        self.sending = items
        try:
            paid = self._send(items, dry_run=False)
        except BudgetExceeded as problem:
            if not partial:
                raise
            self.remaining_micro = int(problem.extensions["remaining_micro"])
            if len(items) == 1:
                self.sending = []
                raise DoesNotFit from None
            parts = [items[: len(items) // 2], items[len(items) // 2 :]]
        except (AmountTooLarge, PayloadTooLarge, BatchTooLarge) as problem:
            parts = self._split(items, problem)
        else:
            self._rows.record(_result(item, grant, paid=True) for item, grant in zip(items, paid.grants, strict=True))
            self.sending = []
            self.remaining_micro = int(paid.remaining_micro)
            on_paid(paid)
            return
        self.sending = []
        for part in parts:
            self._pay(part, partial=partial, on_paid=on_paid)

    # --- requests ---

    def _send(self, items: list[Item], *, dry_run: bool) -> BatchResult:
        self.current = items
        self.requests += 1
        body = body_of(items, entity_type=self._entity_type, force=self._force)
        response = self._client.pay_encoded_batch(self._campaign_id, body, dry_run=dry_run)
        if len(response.grants) != len(items):
            raise not_like_minibill(f"{len(response.grants)} grants for {len(items)} items")
        return response

    def _split(self, items: list[Item], problem: Problem) -> list[list[Item]]:
        """Split a batch that was too large, and limit the size of later batches."""
        if isinstance(problem, AmountTooLarge) and "limit_micro" in problem.extensions:
            self._ceiling_micro = int(problem.extensions["limit_micro"])
        else:
            self._size_max = max(1, min(self._size_max, len(items) // 2))
        if len(items) == 1:
            raise problem
        parts, rest = [], items
        while rest:
            parts.append(first_batch(rest, ceiling_micro=self._ceiling_micro))
            rest = rest[len(parts[-1]) :]
        half = len(items) // 2
        return parts if len(parts) > 1 else [items[:half], items[half:]]

    def _cut(self) -> Iterator[list[Item]]:
        """Yield the rows to send, in list order, in batches within the known limits of one request."""
        last_line = 0
        while items := self._rows.to_send(after_line=last_line, count=self._size_max):
            batch = first_batch(items, ceiling_micro=self._ceiling_micro)
            last_line = batch[-1].line
            yield batch


def first_batch(items: list[Item], *, ceiling_micro: int | None) -> list[Item]:
    """Return the first items, at least one, that fit the size and the ceiling of one request."""
    size_bytes = total_micro = 0
    for end, item in enumerate(items):
        # JSON escapes take at most six bytes for a character.
        size_bytes += 6 * len(item.account) + len(item.formula_input or b"") + ITEM_BYTES
        total_micro += item.expected_micro or 0
        if end and (size_bytes > BATCH_BYTES_MAX or (ceiling_micro is not None and total_micro > ceiling_micro)):
            return items[:end]
    return items


def body_of(items: Sequence[Item], *, entity_type: str | None, force: bool) -> bytes:
    """Encode the body of a batch."""
    grants = b",".join(_grant(item, entity_type) for item in items)
    return b'{"grants":[%b],"force":%b}' % (grants, b"true" if force else b"false")


def _grant(item: Item, entity_type: str | None) -> bytes:
    account = msgspec.json.encode(item.account)
    if entity_type is None:
        members = b'"accountId":' + account
    else:
        members = b'"entity":{"entityType":"%b","entityId":%b}' % (entity_type.encode(), account)
    if item.amount_micro is not None:
        members += b',"amountMicro":"%d"' % item.amount_micro
    if item.formula_input is not None:
        members += b',"formulaInput":' + item.formula_input
    return b"{" + members + b"}"


def amount_by_formula(campaign: Campaign) -> Callable[[bytes | None], int | None]:
    """Return a function from a row's formula input to its amount, or to None if only the service can compute it."""
    config = None if campaign.grant_config is None else msgspec.json.encode(campaign.grant_config).decode()
    try:
        formula = formulas.build(campaign.grant_formula, config, per_wallet_cap_micro=int(campaign.per_wallet_cap_micro))
    except InvalidRequest:
        # A newer service may have formulas that this version does not know.
        return lambda formula_input: None

    def amount_of(formula_input: bytes | None) -> int | None:
        if formula.of_loss is None:
            return formula.fixed_micro
        loss_micro = msgspec.json.decode(formula_input).get("lossMicro") if formula_input else None
        return None if loss_micro is None else formula.of_loss(int(loss_micro)).amount_micro

    return amount_of


def index_in_path(path: str, items: Sequence[Item]) -> int | None:
    """Return the index of the item that a path such as `grants[3].amountMicro` names."""
    match = GRANT_PATH.match(path)
    return int(match[1]) if match and int(match[1]) < len(items) else None


def _result(item: Item, grant: GrantResult, *, paid: bool) -> Result:
    amount_micro = int(grant.amount_micro)
    if grant.duplicate:
        status = "revoked" if grant.status == "revoked" else "duplicate"
        return Result(item.line, status, amount_micro, grant.account_id, grant.grant_id)
    if grant.status == "skipped":
        return Result(item.line, "skipped", 0, grant.account_id, reason=grant.reason or "no_reason_given")
    if grant.status == "granted":
        # A dry run is rolled back, so its ids are not valid.
        return (
            Result(item.line, "granted", amount_micro, grant.account_id, grant.grant_id)
            if paid
            else Result(item.line, "new", amount_micro)
        )
    return Result(item.line, "failed", None, grant.account_id, reason=grant.code or grant.status)
