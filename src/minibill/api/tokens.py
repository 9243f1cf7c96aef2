"""Revocation of tokens: one by its id, or all of a `sub` that were issued before a time."""

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.schemas import RevokedToken, RevokedTokens, RevokeTokensBody
from minibill.api.types import NoBody
from minibill.auth.tokens import CLOCK_SKEW_SECONDS, SERVICE_TOKEN_MAX_TTL, TOKEN_ID_CHARACTERS_MAX
from minibill.config import REVOCATION_SECONDS_MIN, Settings
from minibill.core.clock import US_PER_SECOND, format_time, real_now_us
from minibill.core.problems import FieldError, InvalidRequest
from minibill.core.write_result import WriteResult
from minibill.db.queries import queries
from minibill.db.sqlite import Connection
from minibill.db.write_operation import bind

SQL = queries("requests")

_NO_BODY, _SUBJECT = Decoder(NoBody), Decoder(RevokeTokensBody)

# Tokens that one step of a slice deletes.
PRUNE_TOKENS_MAX = 100


def revoke_token(conn: Connection, now_us: int, *, token_id: str, uptime_us: int) -> WriteResult:
    """Add a token id to the deny list, at this service uptime. It may be there already."""
    SQL.revoke_token.run(conn, token_id=token_id, uptime_us=uptime_us)
    answer = RevokedToken(token_id, format_time(real_now_us()))
    details = lambda: {"at": format_time(now_us), "runningUs": uptime_us}
    return WriteResult(answer, "token.revoke", "token", token_id, details)


def revoke_tokens(conn: Connection, now_us: int, *, sub: str, issued_before_us: int, uptime_us: int) -> WriteResult:
    """Deny all tokens of a `sub`, of admins and services, that were issued before a time. The latest time counts."""
    row = SQL.revoke_subject.one(conn, sub=sub, issued_before_us=issued_before_us, uptime_us=uptime_us)
    assert row is not None
    answer = RevokedTokens(sub, format_time(row[0]), format_time(real_now_us()))
    details = lambda: {"issuedBefore": answer.issued_before, "at": format_time(now_us), "runningUs": uptime_us}
    return WriteResult(answer, "token.revoke", "subject", sub, details)


def prune_revocations(conn: Connection, settings: Settings, *, uptime_us: int) -> int:
    """Delete denied tokens that expired `REVOCATION_SECONDS_MIN` of service uptime ago, up to a limit; return their number.

    The uptime counts as far as the book has recorded it. So a check can tell a pruned row from one that was deleted by hand.
    """
    newest = SQL.newest_uptime.one(conn)
    assert newest is not None
    uptime_us = min(uptime_us, newest[0])
    longest = max(settings.admin_token_max_ttl, SERVICE_TOKEN_MAX_TTL) + 2 * CLOCK_SKEW_SECONDS
    before_us = uptime_us - (longest + REVOCATION_SECONDS_MIN) * US_PER_SECOND
    queries_to_run = (SQL.prune_tokens, SQL.prune_subjects)
    return sum(query.run(conn, before_us=before_us, count=PRUNE_TOKENS_MAX).rowcount for query in queries_to_run)


@operation(RevokedToken, body=NoBody)
async def revoke(request: Request) -> Response:
    """Revoke a token by its id."""
    await request.read(_NO_BODY)
    token_id = request.segment("token_id")
    if len(token_id) > TOKEN_ID_CHARACTERS_MAX or "\x00" in token_id:
        raise InvalidRequest(FieldError("tokenId", f"expected 1 to {TOKEN_ID_CHARACTERS_MAX} characters without U+0000"))
    response = await request.write(bind(revoke_token, token_id=token_id, uptime_us=request.state.book.uptime.now_us()))
    # The list in memory follows the database, which a dry run leaves as it was.
    request.state.verifier.replace_denied(request.state.book.denied_tokens())
    return response


@operation(RevokedTokens, body=RevokeTokensBody)
async def revoke_all(request: Request) -> Response:
    """Revoke all tokens of a `sub` that were issued before a time."""
    body = await request.read(_SUBJECT)
    issued_before_us = int(body.issued_before)
    if not body.sub.strip():
        raise InvalidRequest(FieldError("sub", "expected a name that is not blank"))
    if issued_before_us > real_now_us() + CLOCK_SKEW_SECONDS * US_PER_SECOND:
        # A time in the future would deny new tokens of the subject as well.
        raise InvalidRequest(
            FieldError("issuedBefore", f"expected a time that is at most {CLOCK_SKEW_SECONDS} s in the future")
        )
    uptime_us = request.state.book.uptime.now_us()
    response = await request.write(bind(revoke_tokens, sub=body.sub, issued_before_us=issued_before_us, uptime_us=uptime_us))
    request.state.verifier.replace_denied(request.state.book.denied_tokens())
    return response
