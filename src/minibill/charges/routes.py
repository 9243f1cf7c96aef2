"""Routes of charges. See docs/reference/http-api.md."""

from collections.abc import Awaitable
from functools import partial

import msgspec

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.types import Entity, Limit
from minibill.charges import reads
from minibill.charges.batch import charge_batch
from minibill.charges.charge import charge, charge_response
from minibill.charges.schemas import (
    AdminChargeBody,
    ChargeBatch,
    ChargeBatchBody,
    ChargeBody,
    ChargedExplained,
    ChargeExplained,
    ChargeQuery,
    ChargesQuery,
    ShowChargeQuery,
)
from minibill.core import ids
from minibill.core.problems import (
    AccountNotFound,
    AmountTooLarge,
    BatchTooLarge,
    BillingModeNotAllowed,
    ChargeNotFound,
    InsufficientBalance,
    SourceAlreadyCharged,
    TooManyLots,
    TooManyPools,
)
from minibill.db.sqlite import Connection
from minibill.db.write_operation import bind
from minibill.ledger.limits import require_allowed_mode
from minibill.ledger.reads import require_account

_CHARGE, _ADMIN_CHARGE, _BATCH = Decoder(ChargeBody), Decoder(AdminChargeBody), Decoder(ChargeBatchBody)

_PROBLEMS = (AccountNotFound, SourceAlreadyCharged, AmountTooLarge, TooManyPools, InsufficientBalance, TooManyLots)


@operation(ChargedExplained, 201, 200, body=ChargeBody, query=ChargeQuery, problems=(*_PROBLEMS, BillingModeNotAllowed))
async def charge_any(request: Request) -> Response:
    """Charge a cost to the account that the body names. One `sourceId` charges an account once."""
    body = await request.read(_CHARGE)
    body.check()
    require_allowed_mode(body.billing_mode, request.state.settings.service_billing_modes)
    return await _charge(request, body, account_id=body.account_id, entity=body.entity)


@operation(ChargedExplained, 201, 200, body=AdminChargeBody, query=ChargeQuery, problems=_PROBLEMS)
async def charge_one(request: Request) -> Response:
    """Charge a cost to the account that the path names. One `sourceId` charges an account once."""
    body = await request.read(_ADMIN_CHARGE)
    body.check()
    return await _charge(request, body, account_id=request.segment("account_id"))


@operation(ChargeBatch, body=ChargeBatchBody, problems=(BatchTooLarge, BillingModeNotAllowed))
async def charge_many(request: Request) -> Response:
    """Charge up to 1,000 usage records, each once. A rejected one has no effect on the others."""
    request.require_room_for_bulk()
    body = await request.read(_BATCH)
    body.check()
    settings = request.state.settings
    for item in body.charges:
        require_allowed_mode(item.billing_mode, settings.service_billing_modes)
    return await request.write(
        bind(
            charge_batch,
            body=body,
            default_billing_mode=settings.billing_mode,
            ceiling_micro=settings.ceiling_micro,
            created_by=request.caller_name,
        ),
        bulk=True,
    )


@operation(ChargeExplained, query=ShowChargeQuery, problems=(ChargeNotFound,))
async def show_charge(request: Request) -> Response:
    """One charge."""
    query, charge_id = request.parameters(ShowChargeQuery), request.segment("charge_id")
    key = ids.key_of(ids.CHARGE, charge_id)
    found = await request.reader.run(partial(_shown, key=key, explain=bool(query.explain)))
    if found is None:
        raise ChargeNotFound(charge_id)
    return request.answer(found)


@operation(ChargeExplained, query=ChargesQuery, problems=(AccountNotFound,))
async def list_charges(request: Request) -> Response:
    """The charges of an account, newest first."""
    query, position = request.page(ChargesQuery)
    [before_id] = position or [ids.KEY_MAX]
    account = require_account(request.reader, request.segment("account_id"))
    page = partial(
        reads.charges_page,
        account_id=account.id, source_id=query.source_id, before_id=before_id, limit=query.limit,
    )  # fmt: skip
    charges, goes_on = await request.reader.run(page)
    if goes_on:
        # One row more than the page says that the list goes on. The page may be shorter than the request allows.
        query, charges = msgspec.structs.replace(query, limit=Limit(len(charges))), [*charges, charges[-1]]
    return request.respond_page(
        query, charges, item=lambda found: charge_response(*found), position=lambda found: [found.row.id]
    )


def _shown(conn: Connection, *, key: int, explain: bool) -> ChargeExplained | None:
    found = reads.find_charge(conn, key)
    if found is None:
        return None
    response = charge_response(*found)
    if explain:
        response.explanation = reads.explain_charge(conn, found)
    return response


def _charge(
    request: Request, body: AdminChargeBody, *, account_id: str | None, entity: Entity | None = None
) -> Awaitable[Response]:
    settings, query = request.state.settings, request.parameters(ChargeQuery)
    return request.write(
        bind(
            charge,
            account_id=account_id,
            entity=entity,
            body=body,
            default_billing_mode=settings.billing_mode,
            ceiling_micro=settings.ceiling_micro,
            created_by=request.caller_name,
            explain=bool(query.explain),
        ),
        query=query,
    )
