"""Tiers, memberships and quotes over HTTP."""

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.types import NoBody, NoResponseBody, Query
from minibill.core.problems import AccountNotFound, FieldError, InvalidRequest, NotFound, TierNotFound
from minibill.db.write_operation import bind
from minibill.discounts.memberships import SQL, delete_membership, membership_response, put_membership
from minibill.discounts.schemas import Membership, MembershipBody, MembershipsQuery, Quote, QuoteQuery, Tiers, TiersBody
from minibill.discounts.tiers import replace_tiers, tiers_response
from minibill.ledger import pricing, reads

_TIERS, _MEMBERSHIP, _NOTHING = Decoder(TiersBody), Decoder(MembershipBody), Decoder(NoBody)

COMMUNITY_ID_CHARACTERS_MAX = 200

# NUL, at which SQLite's functions stop, and what stands for bytes of a path that are no UTF-8.
_NOT_IN_A_COMMUNITY_ID = "\x00\ufffd"


@operation(Tiers, body=TiersBody)
async def put_tiers(request: Request) -> Response:
    """Replaces the tiers of a community."""
    body = await request.read(_TIERS)
    return await request.write(bind(replace_tiers, community_id=_community_id(request), tiers=body.tiers))


@operation(Tiers)
async def show_tiers(request: Request) -> Response:
    """The tiers of a community; none of one that nobody put any for."""
    request.parameters(Query)
    community_id = _community_id(request)
    rows = await request.reader.all(SQL.tiers_of_community, community_id=community_id)
    return request.answer(tiers_response(community_id, rows))


@operation(Membership, body=MembershipBody, problems=(AccountNotFound, TierNotFound))
async def put(request: Request) -> Response:
    """Makes an account a member of a community, or changes its membership."""
    body = await request.read(_MEMBERSHIP)
    return await request.write(
        bind(
            put_membership,
            account_id=request.segment("account_id"),
            community_id=_community_id(request),
            tier=body.tier,
            expires_at_us=None if body.expires_at is None else int(body.expires_at),
        )
    )


@operation(NoResponseBody, 204, 200, body=NoBody, problems=(AccountNotFound, NotFound))
async def delete(request: Request) -> Response:
    """Ends a membership."""
    await request.read(_NOTHING)
    return await request.write(
        bind(delete_membership, account_id=request.segment("account_id"), community_id=_community_id(request))
    )


@operation(Membership, query=MembershipsQuery, problems=(AccountNotFound,))
async def list_memberships(request: Request) -> Response:
    """The memberships of an account in the order in which they began, also those that have expired."""
    query, position = request.page(MembershipsQuery)
    [after_id] = position or [0]
    reader = request.reader
    account = reads.require_account(reader, request.segment("account_id"))
    rows = await reader.all(SQL.memberships_page, account_id=account[0], after_id=after_id, count=query.limit + 1)
    return request.respond_page(query, rows, item=membership_response, position=lambda row: [row[0]])


@operation(Quote, query=QuoteQuery, problems=(AccountNotFound,))
async def show_quote(request: Request) -> Response:
    """What a price would come to for an account now, and why."""
    list_micro = int(request.parameters(QuoteQuery).amount_micro)
    now_us = request.state.book.clock.now_us()
    reader = request.reader
    account = reads.require_account(reader, request.segment("account_id"))
    rows = await reader.all(SQL.memberships_to_weigh, account_id=account[0])
    memberships = [pricing.Membership(*row) for row in rows]
    best = pricing.best_discount(memberships, list_micro, now_us=now_us)
    discount_micro = best.on(list_micro)
    answer = Quote(
        list_micro=str(list_micro),
        discount_bps=best.rate_bps,
        discount_micro=str(discount_micro),
        payable_micro=str(list_micro - discount_micro),
        community_id=best.community_id,
        tier=best.tier,
        considered=pricing.explain_memberships(memberships, list_micro, best=best, now_us=now_us),
    )
    return request.answer(answer)


def _community_id(request: Request) -> str:
    text = request.segment("community_id")
    if len(text) > COMMUNITY_ID_CHARACTERS_MAX or any(character in text for character in _NOT_IN_A_COMMUNITY_ID):
        expected = f"expected 1 to {COMMUNITY_ID_CHARACTERS_MAX} characters of UTF-8 without U+0000"
        raise InvalidRequest(FieldError("communityId", expected))
    return text
