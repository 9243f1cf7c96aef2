"""Revoking a token: its id goes on the deny list until the token would have expired anyway."""

from minibill.auth.tokens import CLOCK_SKEW_SECONDS, SERVICE_TOKEN_MAX_TTL, TOKEN_ID_CHARACTERS_MAX
from minibill.clock import US_PER_SECOND, format_time, real_now_us
from minibill.config import Settings
from minibill.db.queries import queries
from minibill.db.sqlite import sqlite3
from minibill.outcome import Outcome
from minibill.problems import FieldError, InvalidRequest
from minibill.schema.describe import describe
from minibill.structs import RevokedToken
from minibill.web import Call, Reply
from minibill.wire import Decoder, NoBody

SQL = queries("requests")

_NOTHING = Decoder(NoBody)


def revoke_token(conn: sqlite3.Connection, *, token_id: str, now_us: int) -> Outcome:
    """Puts a token id on the deny list; again is no error. Tokens go by real time. Source: contract, section 2."""
    real_us = real_now_us()
    SQL.revoke_token.run(conn, token_id=token_id, real_now_us=real_us)
    answer = RevokedToken(token_id, format_time(real_us))
    return Outcome(200, answer, "token.revoke", "token", token_id, lambda: {"at": format_time(now_us)})


def forget_expired(conn: sqlite3.Connection, settings: Settings) -> int:
    """Takes off the deny list what would have expired by now whatever its life was; answers how many."""
    longest = max(settings.admin_token_max_ttl, SERVICE_TOKEN_MAX_TTL) + 2 * CLOCK_SKEW_SECONDS
    return SQL.prune_tokens.run(conn, before_us=real_now_us() - longest * US_PER_SECOND).rowcount


@describe(RevokedToken, body=NoBody)
async def revoke(call: Call) -> Reply:
    """Revokes a token id."""
    await call.read(_NOTHING)
    token_id = call.segment("token_id")
    if len(token_id) > TOKEN_ID_CHARACTERS_MAX or "\x00" in token_id:
        raise InvalidRequest(FieldError("tokenId", f"expected 1 to {TOKEN_ID_CHARACTERS_MAX} characters without U+0000"))
    response = await call.write(revoke_token, token_id=token_id)
    # Only now is it on disk; a dry run is not. The list in memory follows what the database says.
    call.service.verifier.replace_denied(call.service.book.denied_tokens())
    return response
