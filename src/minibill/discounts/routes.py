"""Tiers, memberships and quotes over HTTP."""

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import describe
from minibill.api.request import Call
from minibill.api.response import Reply
from minibill.api.types import NoAnswer, NoBody, Query
from minibill.core.problems import AccountNotFound, FieldError, InvalidRequest, NotFound, TierNotFound
from minibill.discounts.memberships import SQL, delete_membership, membership_answer, put_membership
from minibill.discounts.schemas import Membership, MembershipBody, MembershipsQuery, Quote, QuoteQuery, Tiers, TiersBody
from minibill.discounts.tiers import replace_tiers, tiers_answer
from minibill.ledger import pricing, reads

_TIERS, _MEMBERSHIP, _NOTHING = Decoder(TiersBody), Decoder(MembershipBody), Decoder(NoBody)

COMMUNITY_ID_CHARACTERS_MAX = 200

# NUL, at which SQLite's functions stop, and what stands for bytes of a path that are no UTF-8.
_NOT_IN_A_COMMUNITY_ID = "\x00\ufffd"


@describe(Tiers, body=TiersBody)
async def put_tiers(call: Call) -> Reply:
    """Replaces the tiers of a community."""
    body = await call.read(_TIERS)
    return await call.write(replace_tiers, community_id=_community_id(call), tiers=body.tiers)


@describe(Tiers)
async def show_tiers(call: Call) -> Reply:
    """The tiers of a community; none of one that nobody put any for."""
    call.parameters(Query)
    community_id = _community_id(call)
    rows = await call.reading.all(SQL.tiers_of_community, community_id=community_id)
    return call.answer(tiers_answer(community_id, rows))


@describe(Membership, body=MembershipBody, refusals=(AccountNotFound, TierNotFound))
async def put(call: Call) -> Reply:
    """Makes an account a member of a community, or changes its membership."""
    body = await call.read(_MEMBERSHIP)
    return await call.write(
        put_membership,
        account_id=call.segment("account_id"),
        community_id=_community_id(call),
        tier=body.tier,
        expires_at_us=None if body.expires_at is None else int(body.expires_at),
    )


@describe(NoAnswer, 204, 200, body=NoBody, refusals=(AccountNotFound, NotFound))
async def delete(call: Call) -> Reply:
    """Ends a membership."""
    await call.read(_NOTHING)
    return await call.write(delete_membership, account_id=call.segment("account_id"), community_id=_community_id(call))


@describe(Membership, query=MembershipsQuery, refusals=(AccountNotFound,))
async def list_memberships(call: Call) -> Reply:
    """The memberships of an account in the order in which they began, also those that have expired."""
    query, position = call.page(MembershipsQuery)
    [after_id] = position or [0]
    reading = call.reading
    account = reads.require_account(reading, call.segment("account_id"))
    rows = await reading.all(SQL.memberships_page, account_id=account[0], after_id=after_id, count=query.limit + 1)
    return call.page_answer(query, rows, item=membership_answer, position=lambda row: [row[0]])


@describe(Quote, query=QuoteQuery, refusals=(AccountNotFound,))
async def show_quote(call: Call) -> Reply:
    """What a price would come to for an account now, and why."""
    list_micro = int(call.parameters(QuoteQuery).amount_micro)
    now_us = call.service.book.clock.now_us()
    reading = call.reading
    account = reads.require_account(reading, call.segment("account_id"))
    rows = await reading.all(SQL.memberships_to_weigh, account_id=account[0])
    memberships = [pricing.Membership(*row) for row in rows]
    best = pricing.weigh(memberships, list_micro, now_us=now_us)
    discount_micro = best.on(list_micro)
    answer = Quote(
        list_micro=str(list_micro),
        discount_bps=best.rate_bps,
        discount_micro=str(discount_micro),
        payable_micro=str(list_micro - discount_micro),
        community_id=best.community_id,
        tier=best.tier,
        considered=pricing.consider(memberships, list_micro, best=best, now_us=now_us),
    )
    return call.answer(answer)


def _community_id(call: Call) -> str:
    text = call.segment("community_id")
    if len(text) > COMMUNITY_ID_CHARACTERS_MAX or any(character in text for character in _NOT_IN_A_COMMUNITY_ID):
        expected = f"expected 1 to {COMMUNITY_ID_CHARACTERS_MAX} characters of UTF-8 without U+0000"
        raise InvalidRequest(FieldError("communityId", expected))
    return text
