"""Grants: their rows, and the responses made of them."""

from typing import NamedTuple

from minibill.api.types import optional_raw, optional_time
from minibill.campaigns.schemas import Grant, GrantResult
from minibill.core import ids
from minibill.core.clock import format_time


class GrantRow(NamedTuple):
    """A row of `grants_page`: a grant with the entity of its account."""

    id: int
    campaign_id: int
    account_id: int
    entity_type: str
    entity_id: str
    lot_id: int
    amount_micro: int
    status: str
    grant_formula: str
    formula_input: str | None
    created_at_us: int
    revoked_at_us: int | None
    revoked_micro: int | None
    revoke_reason: str | None


class AccountGrant(NamedTuple):
    """The grant of one account by one campaign: a row of `grants_of_accounts`."""

    account_id: int
    grant_id: int
    lot_id: int
    amount_micro: int
    status: str


def grant_response(grant: GrantRow) -> Grant:
    """Return the response body of a grant."""
    return Grant(
        grant_id=ids.encode(ids.GRANT, grant.id),
        campaign_id=ids.encode(ids.CAMPAIGN, grant.campaign_id),
        account_id=ids.encode(ids.ACCOUNT, grant.account_id),
        entity_type=grant.entity_type,
        entity_id=grant.entity_id,
        lot_id=ids.encode(ids.LOT, grant.lot_id),
        amount_micro=str(grant.amount_micro),
        status=grant.status,
        grant_formula=grant.grant_formula,
        formula_input=optional_raw(grant.formula_input),
        created_at=format_time(grant.created_at_us),
        revoked_at=optional_time(grant.revoked_at_us),
        revoked_micro=None if grant.revoked_micro is None else str(grant.revoked_micro),
        revoke_reason=grant.revoke_reason,
    )


def granted_result(grant: AccountGrant, *, duplicate: bool) -> GrantResult:
    """Return the result of an item that was paid by this batch, or by an earlier one (`duplicate`)."""
    return GrantResult(
        ids.encode(ids.GRANT, grant.grant_id),
        ids.encode(ids.ACCOUNT, grant.account_id),
        ids.encode(ids.LOT, grant.lot_id),
        str(grant.amount_micro),
        grant.status,
        duplicate,
    )


def unknown_account_result(account_id: str | None, amount_micro: int) -> GrantResult:
    """Return the result of an item that names an account that does not exist."""
    return GrantResult(
        None, account_id, None, str(amount_micro), "failed", False, code="account_not_found", reason="no account has this id"
    )


def skipped_result(account_id: str | None, reason: str | None) -> GrantResult:
    """Return the result of an item whose amount is zero."""
    return GrantResult(None, account_id, None, "0", "skipped", False, reason=reason)
