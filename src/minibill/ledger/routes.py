"""Accounts and the ledger over HTTP."""

from collections.abc import Awaitable
from functools import partial

from minibill.api.decoding import Decoder, json_object
from minibill.api.openapi.operation import describe
from minibill.api.request import Call
from minibill.api.response import Reply
from minibill.api.types import Entity, Query
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
from minibill.ledger import reads
from minibill.ledger.accounts import account_answer, open_account
from minibill.ledger.debt_forgiveness import forgive_debt
from minibill.ledger.debts import debt_answer
from minibill.ledger.finalize import finalize, release
from minibill.ledger.history import history_page
from minibill.ledger.mint import DEFAULT_PRIORITY, mint
from minibill.ledger.posting import DEFAULT_POOL
from minibill.ledger.reservations import DEFAULT_TTL_SECONDS, reservation_answer, reservation_explained, reserve
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
from minibill.ledger.time_lookup import Place, moment

_ENTITY, _MINT, _RESERVE = Decoder(Entity), Decoder(MintBody), Decoder(ReserveBody)
_FINALIZE, _ADMIN_FINALIZE = Decoder(FinalizeBody), Decoder(AdminFinalizeBody)
_RELEASE, _ADMIN_RELEASE = Decoder(ReleaseBody), Decoder(AdminReleaseBody)
_FORGIVE = Decoder(ForgiveBody)

# An id below every row's.
_BEFORE_ALL = 0

RESERVE_REFUSALS = (AccountNotFound, InsufficientBalance, AmountTooLarge, TooManyPools, TooManyReservations, TooManyLots)
SERVICE_RESERVE_REFUSALS = (*RESERVE_REFUSALS, BillingModeNotAllowed)
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

FINALIZE_REFUSALS = (ReservationNotFound, ReservationNotPending, ReservationConflict, AmountTooLarge, TooManyPools)
RELEASE_REFUSALS = (ReservationNotFound, ReservationNotPending)


@describe(Account, 201, 200, body=Entity)
async def open_one(call: Call) -> Reply:
    """Opens the account of an entity, or finds it."""
    body = await call.read(_ENTITY)
    return await call.write(open_account, entity_type=body.entity_type, entity_id=str(body.entity_id))


@describe(Account, query=AccountsQuery)
async def list_accounts(call: Call) -> Reply:
    """Accounts, oldest first."""
    query, position = call.page(AccountsQuery)
    [after_id] = position or [_BEFORE_ALL]
    reading, count = call.reading, query.limit + 1
    if query.entity_id is not None:
        rows = await reading.all(
            reads.ACCOUNTS.accounts_page_by_entity_id,
            entity_id=str(query.entity_id), entity_type=query.entity_type, after_id=after_id, count=count,
        )  # fmt: skip
    elif query.entity_type is not None:
        rows = await reading.all(
            reads.ACCOUNTS.accounts_page_by_type, entity_type=query.entity_type, after_id=after_id, count=count
        )
    else:
        rows = await reading.all(reads.ACCOUNTS.accounts_page, after_id=after_id, count=count)
    return call.page_answer(query, rows, item=account_answer, position=lambda row: [row[0]])


@describe(Account, refusals=(AccountNotFound,))
async def show_account(call: Call) -> Reply:
    """One account."""
    call.parameters(Query)
    row = reads.require_account(call.reading, call.segment("account_id"))
    return call.answer(account_answer(row))


@describe(Balance, query=BalanceQuery, refusals=(AccountNotFound,))
async def show_balance(call: Call) -> Reply:
    """What an account has, now or at a past moment."""
    query = call.parameters(BalanceQuery)
    book = call.service.book
    now_us = book.clock.now_us()
    if query.at is not None and query.at > now_us:
        raise InvalidRequest(FieldError("at", "expected a moment that is not in the future"))
    at_us = None if query.at is None else int(query.at)
    answer = await reads.balance(
        call.reading, account_id=call.segment("account_id"), pool_id=query.pool_id, at_us=at_us, now_us=now_us
    )
    return call.answer(answer)


@describe(Lot, query=LotsQuery, refusals=(AccountNotFound,))
async def list_lots(call: Call) -> Reply:
    """The lots of an account, oldest first."""
    query, position = call.page(LotsQuery)
    [after_id] = position or [_BEFORE_ALL]
    book = call.service.book
    reading = call.reading
    account = reads.require_account(reading, call.segment("account_id"))
    rows = await reading.all(
        reads.SQL.lots_page,
        account_id=account[0], state=query.state, after_id=after_id, now_us=book.clock.now_us(), count=query.limit + 1,
    )  # fmt: skip
    return call.page_answer(query, rows, item=reads.lot_answer, position=lambda row: [row[0]])


@describe(Entry, query=HistoryQuery, refusals=(AccountNotFound,))
async def list_history(call: Call) -> Reply:
    """The entries of an account, newest first."""
    query, position = call.page(HistoryQuery)
    before = None
    if position is not None:
        before = Place(*position)
    elif query.to is not None:
        before = moment(int(query.to))
    reading = call.reading
    account = reads.require_account(reading, call.segment("account_id"))
    operation = partial(
        history_page,
        account_id=account[0], pool_id=query.pool_id, entry_type=query.entry_type,
        from_us=None if query.from_ is None else int(query.from_), before=before, count=query.limit + 1,
    )  # fmt: skip
    rows = await reading.run(operation)
    return call.page_answer(query, rows, item=reads.entry_answer, position=lambda row: [row[-1], row[0]])


@describe(Minted, 201, 200, body=MintBody, refusals=(AccountNotFound, SourceAlreadyCredited, AmountTooLarge, TooManyPools))
async def mint_credits(call: Call) -> Reply:
    """Makes a lot of credits."""
    body = await call.read(_MINT)
    if body.amount_micro == 0:
        raise InvalidRequest(FieldError("amountMicro", "expected more than 0"))
    return await call.write(
        mint,
        account_id=call.segment("account_id"),
        amount_micro=int(body.amount_micro),
        source_type=body.source_type or "grant",
        source_id=body.source_id,
        pool_id=body.pool_id or DEFAULT_POOL,
        priority=DEFAULT_PRIORITY if body.priority is None else body.priority,
        expires_at_us=None if body.expires_at is None else int(body.expires_at),
        description=body.description,
        metadata=json_object(body.metadata, "metadata"),
        ceiling_micro=call.service.settings.ceiling_micro,
    )


@describe(
    ReservedExplained,
    201,
    body=ReserveBody,
    query=ReserveQuery,
    refusals=SERVICE_RESERVE_REFUSALS,
    examples=(_NOT_ENOUGH_EXPLAINED,),
)
async def reserve_any(call: Call) -> Reply:
    """Holds credits of the account that the body names."""
    body = await call.read(_RESERVE)
    if (body.account_id is None) == (body.entity is None):
        raise InvalidRequest(FieldError("accountId", "expected exactly one of accountId and entity"))
    allowed = call.service.settings.service_billing_modes
    if body.billing_mode is not None and body.billing_mode not in allowed:
        raise BillingModeNotAllowed(body.billing_mode, allowed)
    return await _reserve(call, body, account_id=body.account_id)


@describe(
    ReservedExplained,
    201,
    body=ReserveBody,
    query=ReserveQuery,
    refusals=RESERVE_REFUSALS,
    examples=(_NOT_ENOUGH_EXPLAINED,),
)
async def reserve_for(call: Call) -> Reply:
    """Holds credits of the account that the path names; the body may name it as well."""
    body, account_id = await call.read(_RESERVE), call.segment("account_id")
    _require_same("accountId", body.account_id, account_id)
    return await _reserve(call, body, account_id=account_id)


@describe(Finalized, body=FinalizeBody, refusals=FINALIZE_REFUSALS)
async def finalize_named(call: Call) -> Reply:
    """Charges the reservation that the body names."""
    body = await call.read(_FINALIZE)
    return await _finalize(call, body.reservation_id, body)


@describe(Finalized, body=AdminFinalizeBody, refusals=FINALIZE_REFUSALS)
async def finalize_one(call: Call) -> Reply:
    """Charges the reservation that the path names; the body may name it as well."""
    body, reservation_id = await call.read(_ADMIN_FINALIZE), call.segment("reservation_id")
    _require_same("reservationId", body.reservation_id, reservation_id)
    return await _finalize(call, reservation_id, body)


@describe(Released, body=ReleaseBody, refusals=RELEASE_REFUSALS)
async def release_named(call: Call) -> Reply:
    """Gives back the reservation that the body names."""
    body = await call.read(_RELEASE)
    return await call.write(release, reservation_id=body.reservation_id, closed_by=call.caller_name)


@describe(Released, body=AdminReleaseBody, refusals=RELEASE_REFUSALS)
async def release_one(call: Call) -> Reply:
    """Gives back the reservation that the path names; the body may name it as well."""
    body, reservation_id = await call.read(_ADMIN_RELEASE), call.segment("reservation_id")
    _require_same("reservationId", body.reservation_id, reservation_id)
    return await call.write(release, reservation_id=reservation_id, closed_by=call.caller_name)


@describe(ReservationExplained, query=ReservationQuery, refusals=(ReservationNotFound,))
async def show_reservation(call: Call) -> Reply:
    """One reservation."""
    query = call.parameters(ReservationQuery)
    book = call.service.book
    # Before the reading: what is finalized meanwhile, in its last moment, must not be answered as overdue.
    now_us = book.clock.now_us()
    reading = call.reading
    row, lots = await reads.reservation(reading, call.segment("reservation_id"))
    answer = reservation_answer(row, lots, now_us=now_us)
    if query.explain:
        answer = reservation_explained(answer, row, lots, await reads.lots_to_explain(reading, lots))
    return call.answer(answer)


@describe(Debt, query=DebtsQuery, refusals=(AccountNotFound,))
async def list_debts(call: Call) -> Reply:
    """The debts of an account, oldest first."""
    query, position = call.page(DebtsQuery)
    [after_id] = position or [_BEFORE_ALL]
    reading = call.reading
    account = reads.require_account(reading, call.segment("account_id"))
    rows = await reading.all(
        reads.RESERVATIONS.debts_page, account_id=account[0], open=query.open, after_id=after_id, count=query.limit + 1
    )
    return call.page_answer(query, rows, item=debt_answer, position=lambda row: [row[0]])


@describe(ForgivenDebt, body=ForgiveBody, refusals=(AccountNotFound, DebtNotFound, AmountTooLarge))
async def forgive_one(call: Call) -> Reply:
    """Writes off what is left of a debt."""
    body = await call.read(_FORGIVE)
    return await call.write(
        forgive_debt,
        account_id=call.segment("account_id"),
        debt_id=call.segment("debt_id"),
        reason=body.reason,
        ceiling_micro=call.service.settings.ceiling_micro,
    )


def _require_same(member: str, named: str | None, of_path: str) -> None:
    if named is not None and named != of_path:
        raise InvalidRequest(FieldError(member, f"expected {of_path}, which the path names, or nothing"))


def _reserve(call: Call, body: ReserveBody, *, account_id: str | None) -> Awaitable[Reply]:
    settings = call.service.settings
    query = call.parameters(ReserveQuery)
    return call.write(
        reserve,
        query=query,
        explain=bool(query.explain),
        account_id=account_id,
        entity=None if body.entity is None else (body.entity.entity_type, str(body.entity.entity_id)),
        pool_id=body.pool_id or DEFAULT_POOL,
        list_micro=int(body.amount_micro),
        ttl_seconds=DEFAULT_TTL_SECONDS if body.ttl_seconds is None else body.ttl_seconds,
        billing_mode=body.billing_mode or settings.billing_mode,
        description=body.description,
        metadata=json_object(body.metadata, "metadata"),
        ceiling_micro=settings.ceiling_micro,
        created_by=call.caller_name,
    )


def _finalize(call: Call, reservation_id: str, body: AdminFinalizeBody) -> Awaitable[Reply]:
    return call.write(
        finalize,
        reservation_id=reservation_id,
        actual_cost_micro=int(body.actual_cost_micro),
        ceiling_micro=call.service.settings.ceiling_micro,
        closed_by=call.caller_name,
    )
