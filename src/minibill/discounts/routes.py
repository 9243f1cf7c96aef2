"""Routes of tiers, memberships and quotes."""

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.types import NoBody, NoResponseBody, Query
from minibill.core.problems import AccountNotFound, FieldError, InvalidRequest, NotFound, TierNotFound
from minibill.db.write_operation import bind
from minibill.discounts.memberships import SQL, MembershipRow, delete_membership, membership_response, put_membership
from minibill.discounts.schemas import Membership, MembershipBody, MembershipsQuery, Quote, QuoteQuery, Tiers, TiersBody
from minibill.discounts.tiers import TierRow, replace_tiers, tiers_response
from minibill.ledger import pricing, reads

_TIERS, _MEMBERSHIP, _NOTHING = Decoder(TiersBody), Decoder(MembershipBody), Decoder(NoBody)

COMMUNITY_ID_CHARACTERS_MAX = 200

# NUL, at which SQLite's text functions end, and the replacement character of bytes that are not UTF-8.
_NOT_IN_A_COMMUNITY_ID = "\x00\ufffd"


@operation(Tiers, body=TiersBody)
async def put_tiers(request: Request) -> Response:
    """Replace the tiers of a community."""
    body = await request.read(_TIERS)
    return await request.write(bind(replace_tiers, community_id=_community_id(request), body=body))


@operation(Tiers)
async def show_tiers(request: Request) -> Response:
    """List the tiers of a community; an unknown community has none."""
    request.parameters(Query)
    community_id = _community_id(request)
    rows = await request.reader.all(SQL.tiers_of_community, community_id=community_id)
    return request.answer(tiers_response(community_id, list(map(TierRow._make, rows))))


@operation(Membership, body=MembershipBody, problems=(AccountNotFound, TierNotFound))
async def put(request: Request) -> Response:
    """Create or change the membership of an account in a community."""
    body = await request.read(_MEMBERSHIP)
    return await request.write(
        bind(
            put_membership,
            account_id=request.segment("account_id"),
            community_id=_community_id(request),
            body=body,
        )
    )


@operation(NoResponseBody, 204, 200, body=NoBody, problems=(AccountNotFound, NotFound))
async def delete(request: Request) -> Response:
    """Delete a membership."""
    await request.read(_NOTHING)
    return await request.write(
        bind(delete_membership, account_id=request.segment("account_id"), community_id=_community_id(request))
    )


@operation(Membership, query=MembershipsQuery, problems=(AccountNotFound,))
async def list_memberships(request: Request) -> Response:
    """List the memberships of an account in the order of creation, including expired ones."""
    query, position = request.page(MembershipsQuery)
    [after_id] = position or [0]
    reader = request.reader
    account = reads.require_account(reader, request.segment("account_id"))
    rows = await reader.all(SQL.memberships_page, account_id=account[0], after_id=after_id, count=query.limit + 1)
    memberships = list(map(MembershipRow._make, rows))
    return request.respond_page(query, memberships, item=membership_response, position=lambda row: [row.id])


@operation(Quote, query=QuoteQuery, problems=(AccountNotFound,))
async def show_quote(request: Request) -> Response:
    """Quote a list price for an account as of now, with the reason for its discount."""
    list_micro = int(request.parameters(QuoteQuery).amount_micro)
    now_us = request.state.book.clock.now_us()
    reader = request.reader
    account = reads.require_account(reader, request.segment("account_id"))
    rows = await reader.all(SQL.memberships_with_terms, account_id=account[0])
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
