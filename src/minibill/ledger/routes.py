"""Routes of accounts, lots, entries, reservations and debts. See docs/reference/http-api.md."""

from collections.abc import Awaitable
from functools import partial

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.types import Entity, Query
from minibill.core import ids
from minibill.core.problems import (
    AccountNotFound,
    AmountTooLarge,
    BillingModeNotAllowed,
    DebtNotFound,
    FieldError,
    InsufficientBalance,
    InvalidRequest,
    ReservationConflict,
    ReservationNotFound,
    ReservationNotPending,
    SourceAlreadyCredited,
    TooManyLots,
    TooManyPools,
    TooManyReservations,
)
from minibill.db.write_operation import bind
from minibill.ledger import reads
from minibill.ledger.accounts import account_response, open_account
from minibill.ledger.debt_forgiveness import forgive_debt
from minibill.ledger.debts import debt_response
from minibill.ledger.explanations import lots_to_explain
from minibill.ledger.finalize import finalize, release
from minibill.ledger.history import history_page
from minibill.ledger.limits import require_allowed_mode
from minibill.ledger.mint import mint
from minibill.ledger.reservations import reservation_explained, reservation_response, reserve
from minibill.ledger.rows import AccountRow, DebtRow, LotRow
from minibill.ledger.schemas import (
    Account,
    AccountsQuery,
    AdminFinalizeBody,
    AdminReleaseBody,
    Balance,
    BalanceQuery,
    Considered,
    Debt,
    DebtsQuery,
    DiscountExplained,
    Entry,
    FinalizeBody,
    Finalized,
    ForgiveBody,
    ForgivenDebt,
    HistoryQuery,
    Lot,
    LotExplained,
    LotsQuery,
    MintBody,
    Minted,
    ReleaseBody,
    Released,
    ReservationExplained,
    ReservationQuery,
    ReserveBody,
    ReservedExplained,
    ReserveExplanation,
    ReserveQuery,
)
from minibill.ledger.time_lookup import EntryPosition, position_at

_ENTITY, _MINT, _RESERVE = Decoder(Entity), Decoder(MintBody), Decoder(ReserveBody)
_FINALIZE, _ADMIN_FINALIZE = Decoder(FinalizeBody), Decoder(AdminFinalizeBody)
_RELEASE, _ADMIN_RELEASE = Decoder(ReleaseBody), Decoder(AdminReleaseBody)
_FORGIVE = Decoder(ForgiveBody)

# An id below every row's, where a list starts.
_BEFORE_ALL = 0

RESERVE_PROBLEMS = (AccountNotFound, InsufficientBalance, AmountTooLarge, TooManyPools, TooManyReservations, TooManyLots)
SERVICE_RESERVE_PROBLEMS = (*RESERVE_PROBLEMS, BillingModeNotAllowed)
# `?explain=true` adds the explanation to the problem.
_NOT_ENOUGH_EXPLAINED = InsufficientBalance(
    available_micro=70,
    requested_micro=80,
    list_micro=100,
    pool_id="general",
    explanation=ReserveExplanation(
        DiscountExplained("100", 2_000, "20", None, "20", "80", "guild", "gold"),
        ["availableMicro"],
        [LotExplained("lot_0000000000001", "general", 50, None, "70", "0", "not_enough")],
        0,
        [Considered("guild", "gold", 2_000, True, "it gives the most: 20")],
    ),
)

FINALIZE_PROBLEMS = (ReservationNotFound, ReservationNotPending, ReservationConflict, AmountTooLarge, TooManyPools)
RELEASE_PROBLEMS = (ReservationNotFound, ReservationNotPending)


@operation(Account, 201, 200, body=Entity)
async def open_one(request: Request) -> Response:
    """Open the account of an entity, or return the existing one."""
    body = await request.read(_ENTITY)
    return await request.write(bind(open_account, body=body))


@operation(Account, query=AccountsQuery)
async def list_accounts(request: Request) -> Response:
    """Accounts, oldest first."""
    query, position = request.page(AccountsQuery)
    [after_id] = position or [_BEFORE_ALL]
    reader, count = request.reader, query.limit + 1
    if query.entity_id is not None:
        found = await reader.all(
            reads.ACCOUNTS.accounts_page_by_entity_id,
            entity_id=str(query.entity_id), entity_type=query.entity_type, after_id=after_id, count=count,
        )  # fmt: skip
    elif query.entity_type is not None:
        found = await reader.all(
            reads.ACCOUNTS.accounts_page_by_type, entity_type=query.entity_type, after_id=after_id, count=count
        )
    else:
        found = await reader.all(reads.ACCOUNTS.accounts_page, after_id=after_id, count=count)
    rows = [AccountRow(*row) for row in found]
    return request.respond_page(query, rows, item=account_response, position=lambda row: [row.id])


@operation(Account, problems=(AccountNotFound,))
async def show_account(request: Request) -> Response:
    """One account."""
    request.parameters(Query)
    row = reads.require_account(request.reader, request.segment("account_id"))
    return request.answer(account_response(row))


@operation(Balance, query=BalanceQuery, problems=(AccountNotFound,))
async def show_balance(request: Request) -> Response:
    """The balance of an account, now or at a past time."""
    query = request.parameters(BalanceQuery)
    book = request.state.book
    now_us = book.clock.now_us()
    if query.at is not None and query.at > now_us:
        raise InvalidRequest(FieldError("at", "expected a time that is not in the future"))
    at_us = None if query.at is None else int(query.at)
    response = await reads.balance(
        request.reader, account_id=request.segment("account_id"), pool_id=query.pool_id, at_us=at_us, now_us=now_us
    )
    return request.answer(response)


@operation(Lot, query=LotsQuery, problems=(AccountNotFound,))
async def list_lots(request: Request) -> Response:
    """The lots of an account, oldest first."""
    query, position = request.page(LotsQuery)
    [after_id] = position or [_BEFORE_ALL]
    book = request.state.book
    reader = request.reader
    account = reads.require_account(reader, request.segment("account_id"))
    found = await reader.all(
        reads.SQL.lots_page,
        account_id=account.id, state=query.state, after_id=after_id, now_us=book.clock.now_us(), count=query.limit + 1,
    )  # fmt: skip
    rows = [LotRow(*row) for row in found]
    return request.respond_page(query, rows, item=reads.lot_response, position=lambda row: [row.id])


@operation(Entry, query=HistoryQuery, problems=(AccountNotFound,))
async def list_history(request: Request) -> Response:
    """The entries of an account, newest first."""
    query, position = request.page(HistoryQuery)
    before = None
    if position is not None:
        before = EntryPosition(*position)
    elif query.to is not None:
        before = position_at(int(query.to))
    reader = request.reader
    account_id = request.segment("account_id")
    operation = partial(
        history_page,
        account_id=ids.key_of(ids.ACCOUNT, account_id), pool_id=query.pool_id, entry_type=query.entry_type,
        from_us=None if query.from_ is None else int(query.from_), before=before, count=query.limit + 1,
    )  # fmt: skip
    rows = await reader.run(operation)
    if rows is None:
        raise AccountNotFound(account_id)
    return request.respond_page(query, rows, item=reads.entry_response, position=lambda row: [row.created_at_us, row.id])


@operation(Minted, 201, 200, body=MintBody, problems=(AccountNotFound, SourceAlreadyCredited, AmountTooLarge, TooManyPools))
async def mint_credits(request: Request) -> Response:
    """Mint a lot of credits. One `sourceId` is credited once, however often the request is sent."""
    body, account_id = await request.read(_MINT), request.segment("account_id")
    body.check()
    ceiling_micro = request.state.settings.ceiling_micro
    return await request.write(bind(mint, account_id=account_id, body=body, ceiling_micro=ceiling_micro))


@operation(
    ReservedExplained,
    201,
    body=ReserveBody,
    query=ReserveQuery,
    problems=SERVICE_RESERVE_PROBLEMS,
    examples=(_NOT_ENOUGH_EXPLAINED,),
)
async def reserve_any(request: Request) -> Response:
    """Reserve credits of the account that the body names."""
    body = await request.read(_RESERVE)
    if (body.account_id is None) == (body.entity is None):
        raise InvalidRequest(FieldError("accountId", "expected exactly one of accountId and entity"))
    require_allowed_mode(body.billing_mode, request.state.settings.service_billing_modes)
    return await _reserve(request, body, account_id=None)


@operation(
    ReservedExplained,
    201,
    body=ReserveBody,
    query=ReserveQuery,
    problems=RESERVE_PROBLEMS,
    examples=(_NOT_ENOUGH_EXPLAINED,),
)
async def reserve_for(request: Request) -> Response:
    """Reserve credits of the account that the path names; the body may name it too."""
    body, account_id = await request.read(_RESERVE), request.segment("account_id")
    _require_same("accountId", body.account_id, account_id)
    return await _reserve(request, body, account_id=account_id)


@operation(Finalized, body=FinalizeBody, problems=FINALIZE_PROBLEMS)
async def finalize_named(request: Request) -> Response:
    """Charge the actual cost to the reservation that the body names, and return the rest."""
    body = await request.read(_FINALIZE)
    return await _finalize(request, body.reservation_id, body)


@operation(Finalized, body=AdminFinalizeBody, problems=FINALIZE_PROBLEMS)
async def finalize_one(request: Request) -> Response:
    """Charge the actual cost to the reservation that the path names; the body may name it too."""
    body, reservation_id = await request.read(_ADMIN_FINALIZE), request.segment("reservation_id")
    _require_same("reservationId", body.reservation_id, reservation_id)
    return await _finalize(request, reservation_id, body)


@operation(Released, body=ReleaseBody, problems=RELEASE_PROBLEMS)
async def release_named(request: Request) -> Response:
    """Return all credits of the reservation that the body names."""
    body = await request.read(_RELEASE)
    return await request.write(bind(release, reservation_id=body.reservation_id, closed_by=request.caller_name))


@operation(Released, body=AdminReleaseBody, problems=RELEASE_PROBLEMS)
async def release_one(request: Request) -> Response:
    """Return all credits of the reservation that the path names; the body may name it too."""
    body, reservation_id = await request.read(_ADMIN_RELEASE), request.segment("reservation_id")
    _require_same("reservationId", body.reservation_id, reservation_id)
    return await request.write(bind(release, reservation_id=reservation_id, closed_by=request.caller_name))


@operation(ReservationExplained, query=ReservationQuery, problems=(ReservationNotFound,))
async def show_reservation(request: Request) -> Response:
    """One reservation."""
    query = request.parameters(ReservationQuery)
    book = request.state.book
    # Take the time before the read. Otherwise a reservation that is finalized in between, just in time, would look overdue.
    now_us = book.clock.now_us()
    reader = request.reader
    row, lots = await reads.reservation(reader, request.segment("reservation_id"))
    response = reservation_response(row, lots, now_us=now_us)
    if query.explain:
        explained = await reader.run(partial(lots_to_explain, lot_ids=[lot.lot_id for lot in lots]))
        response = reservation_explained(response, row, lots, explained)
    return request.answer(response)


@operation(Debt, query=DebtsQuery, problems=(AccountNotFound,))
async def list_debts(request: Request) -> Response:
    """The debts of an account, oldest first."""
    query, position = request.page(DebtsQuery)
    [after_id] = position or [_BEFORE_ALL]
    reader = request.reader
    account = reads.require_account(reader, request.segment("account_id"))
    found = await reader.all(
        reads.RESERVATIONS.debts_page, account_id=account.id, open=query.open, after_id=after_id, count=query.limit + 1
    )
    rows = [DebtRow(*row) for row in found]
    return request.respond_page(query, rows, item=debt_response, position=lambda row: [row.id])


@operation(ForgivenDebt, body=ForgiveBody, problems=(AccountNotFound, DebtNotFound, AmountTooLarge))
async def forgive_one(request: Request) -> Response:
    """Forgive the open amount of a debt."""
    body = await request.read(_FORGIVE)
    account_id, debt_id = request.segment("account_id"), request.segment("debt_id")
    ceiling_micro = request.state.settings.ceiling_micro
    return await request.write(
        bind(forgive_debt, account_id=account_id, debt_id=debt_id, body=body, ceiling_micro=ceiling_micro)
    )


def _require_same(member: str, named: str | None, of_path: str) -> None:
    if named is not None and named != of_path:
        raise InvalidRequest(FieldError(member, f"expected {of_path} as in the path, or nothing"))


def _reserve(request: Request, body: ReserveBody, *, account_id: str | None) -> Awaitable[Response]:
    settings = request.state.settings
    query = request.parameters(ReserveQuery)
    body.check()
    return request.write(
        bind(
            reserve,
            account_id=account_id,
            body=body,
            default_billing_mode=settings.billing_mode,
            ceiling_micro=settings.ceiling_micro,
            created_by=request.caller_name,
            explain=bool(query.explain),
        ),
        query=query,
    )


def _finalize(request: Request, reservation_id: str, body: AdminFinalizeBody) -> Awaitable[Response]:
    return request.write(
        bind(
            finalize,
            reservation_id=reservation_id,
            body=body,
            ceiling_micro=request.state.settings.ceiling_micro,
            closed_by=request.caller_name,
        )
    )
