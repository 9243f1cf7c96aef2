"""The application: the table of all routes, and the ASGI application that serves them."""

import asyncio
import contextlib
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

from litestar import Litestar
from litestar import Request as LitestarRequest
from litestar import Response as LitestarResponse
from litestar.types import ASGIApp, Receive

from minibill.api import clock, health, tokens
from minibill.api.access_log import record_request
from minibill.api.context import CONTEXT, AppState, Context
from minibill.api.cursors import Cursors
from minibill.api.endpoint import endpoints
from minibill.api.middleware import RequestMiddleware
from minibill.api.openapi import routes as schema
from minibill.api.response import problem_response
from minibill.api.routing import Handler, Route
from minibill.audit import routes as audit
from minibill.auth.callers import CallerKind
from minibill.auth.scopes import (
    ACCOUNTS_WRITE,
    CAMPAIGNS_WRITE,
    DISCOUNTS_WRITE,
    GRANTS_WRITE,
    MINT_WRITE,
    OPS_WRITE,
    READ,
    REFUNDS_WRITE,
)
from minibill.auth.tokens import TokenVerifier
from minibill.background import run_jobs
from minibill.book import Book
from minibill.campaigns import routes as campaigns
from minibill.charges import routes as charges
from minibill.config import Settings
from minibill.core.counters import Metrics
from minibill.discounts import routes as discounts
from minibill.events import routes as events
from minibill.integrity import routes as reconciliation
from minibill.ledger import routes as ledger
from minibill.metrics import routes as metrics_routes
from minibill.webhooks import routes as webhooks

# Method, path under /admin/billing, handler, scope. A handler reads {name} as `request.segment("name")`.
ADMIN: tuple[tuple[str, str, Handler, str], ...] = (
    ("POST", "/accounts", ledger.open_one, ACCOUNTS_WRITE),
    ("GET", "/accounts", ledger.list_accounts, READ),
    ("GET", "/accounts/{account_id}", ledger.show_account, READ),
    ("GET", "/accounts/{account_id}/balance", ledger.show_balance, READ),
    ("GET", "/accounts/{account_id}/lots", ledger.list_lots, READ),
    ("GET", "/accounts/{account_id}/history", ledger.list_history, READ),
    ("POST", "/accounts/{account_id}/mint", ledger.mint_credits, MINT_WRITE),
    ("POST", "/accounts/{account_id}/reservations", ledger.reserve_for, ACCOUNTS_WRITE),
    ("POST", "/accounts/{account_id}/charges", charges.charge_one, ACCOUNTS_WRITE),
    ("GET", "/accounts/{account_id}/charges", charges.list_charges, READ),
    ("GET", "/charges/{charge_id}", charges.show_charge, READ),
    ("GET", "/accounts/{account_id}/debts", ledger.list_debts, READ),
    ("POST", "/accounts/{account_id}/debts/{debt_id}/forgive", ledger.forgive_one, REFUNDS_WRITE),
    ("GET", "/reservations/{reservation_id}", ledger.show_reservation, READ),
    ("POST", "/reservations/{reservation_id}/finalize", ledger.finalize_one, ACCOUNTS_WRITE),
    ("POST", "/reservations/{reservation_id}/release", ledger.release_one, ACCOUNTS_WRITE),
    ("PUT", "/discounts/{community_id}/tiers", discounts.put_tiers, DISCOUNTS_WRITE),
    ("GET", "/discounts/{community_id}/tiers", discounts.show_tiers, READ),
    ("GET", "/accounts/{account_id}/memberships", discounts.list_memberships, READ),
    ("PUT", "/accounts/{account_id}/memberships/{community_id}", discounts.put, ACCOUNTS_WRITE),
    ("DELETE", "/accounts/{account_id}/memberships/{community_id}", discounts.delete, ACCOUNTS_WRITE),
    ("GET", "/accounts/{account_id}/quote", discounts.show_quote, READ),
    ("PUT", "/accounts/{account_id}/thresholds", events.put_thresholds, ACCOUNTS_WRITE),
    ("GET", "/accounts/{account_id}/thresholds", events.show_thresholds, READ),
    ("POST", "/campaigns", campaigns.create, CAMPAIGNS_WRITE),
    ("GET", "/campaigns", campaigns.list_campaigns, READ),
    ("GET", "/campaigns/{campaign_id}", campaigns.show, READ),
    ("PATCH", "/campaigns/{campaign_id}", campaigns.edit, CAMPAIGNS_WRITE),
    ("POST", "/campaigns/{campaign_id}/activate", campaigns.activate, CAMPAIGNS_WRITE),
    ("POST", "/campaigns/{campaign_id}/pause", campaigns.pause, CAMPAIGNS_WRITE),
    ("POST", "/campaigns/{campaign_id}/complete", campaigns.complete, CAMPAIGNS_WRITE),
    ("POST", "/campaigns/{campaign_id}/grants/batch", campaigns.pay, GRANTS_WRITE),
    ("GET", "/campaigns/{campaign_id}/grants", campaigns.list_grants, READ),
    ("POST", "/campaigns/{campaign_id}/grants/{grant_id}/revoke", campaigns.revoke_one, GRANTS_WRITE),
    ("POST", "/campaigns/{campaign_id}/revoke", campaigns.revoke_all, GRANTS_WRITE),
    ("GET", "/campaigns/{campaign_id}/stats", campaigns.show_stats, READ),
    ("GET", "/events", events.list_events, READ),
    ("POST", "/webhooks", webhooks.create, OPS_WRITE),
    ("GET", "/webhooks", webhooks.list_webhooks, READ),
    ("GET", "/webhooks/{webhook_id}", webhooks.show, READ),
    ("PATCH", "/webhooks/{webhook_id}", webhooks.edit, OPS_WRITE),
    ("DELETE", "/webhooks/{webhook_id}", webhooks.delete, OPS_WRITE),
    ("POST", "/webhooks/{webhook_id}/rotate-secret", webhooks.rotate, OPS_WRITE),
    ("GET", "/webhooks/{webhook_id}/deliveries", webhooks.list_deliveries, READ),
    ("POST", "/webhooks/{webhook_id}/replay", webhooks.replay_events, OPS_WRITE),
    ("GET", "/audit", audit.list_rows, READ),
    ("POST", "/tokens/revoke", tokens.revoke_all, OPS_WRITE),
    ("POST", "/tokens/{token_id}/revoke", tokens.revoke, OPS_WRITE),
    ("GET", "/reconciliation", reconciliation.show_last, READ),
    ("POST", "/reconciliation", reconciliation.run_now, OPS_WRITE),
    ("GET", "/clock", clock.show_clock, READ),
    ("POST", "/clock/advance", clock.advance_clock, OPS_WRITE),
    ("POST", "/clock/accept", clock.accept_clock, OPS_WRITE),
)

# Method, path under /api/internal/billing, handler: the operations of services.
INTERNAL: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/accounts", ledger.open_one),
    ("GET", "/accounts", ledger.list_accounts),
    ("GET", "/accounts/{account_id}/balance", ledger.show_balance),
    ("GET", "/accounts/{account_id}/quote", discounts.show_quote),
    ("GET", "/events", events.list_events),
    ("POST", "/reservations", ledger.reserve_any),
    ("GET", "/reservations/{reservation_id}", ledger.show_reservation),
    ("POST", "/finalize", ledger.finalize_named),
    ("POST", "/release", ledger.release_named),
    ("POST", "/charges", charges.charge_any),
    ("POST", "/charges/batch", charges.charge_many),
    ("GET", "/charges/{charge_id}", charges.show_charge),
)

# These are served past the router: docs/internals/decisions/0030-one-router.md.
HOT = (
    ledger.reserve_any,
    ledger.finalize_named,
    ledger.release_named,
    ledger.show_balance,
    charges.charge_any,
    ledger.list_history,
    ledger.mint_credits,
)

PUBLIC: tuple[tuple[str, Handler], ...] = (
    ("/health/live", health.live),
    ("/health/ready", health.ready),
    ("/metrics", metrics_routes.show_metrics),
    ("/schema", schema.show_schema),
    ("/schema/docs", schema.show_page),
)


def _routes() -> Iterator[Route]:
    for method, path, handler, scope in ADMIN:
        yield _route(method, f"/admin/billing{path}", handler, "admin", scope)
    for method, path, handler in INTERNAL:
        yield _route(method, f"/api/internal/billing{path}", handler, "service", None)
    for path, handler in PUBLIC:
        yield _route("GET", path, handler, None, None)


def _route(method: str, path: str, handler: Handler, kind: CallerKind | None, scope: str | None) -> Route:
    return Route(method, path, handler, kind, scope, f"{method} {path}")


ROUTES = tuple(_routes())


def create_app(book: Book, settings: Settings, *, has_test_clock: bool = False) -> ASGIApp:
    """Return the service on an open book as an ASGI application; background jobs run during its lifespan."""
    return app_of(make_state(book, settings, has_test_clock=has_test_clock))


def app_of(state: AppState) -> ASGIApp:
    """Return the service with this state as an ASGI application."""
    direct = [route for route in state.routes if route.handler in HOT]
    return RequestMiddleware(_router(), state, direct=direct, lifespan=partial(_run_lifespan, state))


def make_state(book: Book, settings: Settings, *, has_test_clock: bool = False) -> AppState:
    """Return the state that requests work with, on an open book."""
    verifier = TokenVerifier(settings)
    verifier.replace_denied(book.denied_tokens())
    metrics = Metrics(route.name for route in ROUTES)
    return AppState(book, settings, verifier, Cursors(settings), has_test_clock, metrics, ROUTES)


@cache
def _router() -> Litestar:
    """Return the router, which knows no book and so serves all of a process: building one takes 25 ms."""
    return Litestar(
        route_handlers=[endpoint.for_litestar() for endpoint in endpoints(ROUTES)],
        exception_handlers={Exception: _unrouted},
        openapi_config=None,
        logging_config=None,
    )


async def _run_lifespan(state: AppState, receive: Receive, send: Any) -> None:
    """Run the background jobs from startup to shutdown."""
    await receive()
    jobs = asyncio.create_task(run_jobs(state))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    jobs.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await jobs
    await send({"type": "lifespan.shutdown.complete"})


def _unrouted(request: LitestarRequest[Any, Any, Any], error: Exception) -> LitestarResponse[bytes]:
    """Return the response to a request that the router rejects, such as one of an unknown path."""
    context: Context = request.scope[CONTEXT]  # type: ignore[literal-required]
    response = problem_response(error, context)
    record_request(request.scope, context, context.state.metrics.unrouted, response.status)
    headers = (response.headers or {}) | {name.decode(): value.decode() for name, value in context.response_headers}
    return LitestarResponse(
        response.body, status_code=response.status, media_type=response.media_type.decode(), headers=headers
    )
