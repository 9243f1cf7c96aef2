"""Routes of webhooks."""

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.types import NoBody, NoResponseBody, Query
from minibill.core import ids
from minibill.core.problems import FieldError, InvalidRequest, WebhookNotFound, WebhooksDisabled
from minibill.db.write_operation import bind
from minibill.events.position import Position, parse_position
from minibill.events.type_filter import parse_types
from minibill.webhooks.endpoints import (
    SQL,
    AttemptRow,
    WebhookEndpoint,
    create_webhook,
    delete_webhook,
    delivery_response,
    edit_webhook,
    replay,
    require_webhook,
    rotate_secret,
    webhook_response,
)
from minibill.webhooks.schemas import (
    CreateWebhookBody,
    DeliveriesQuery,
    Delivery,
    EditWebhookBody,
    ReplayBody,
    Replayed,
    Webhook,
    WebhookSecret,
    WebhooksQuery,
)
from minibill.webhooks.url_policy import BadUrl, networks, resolve, target_of

_CREATE, _EDIT, _REPLAY = Decoder(CreateWebhookBody), Decoder(EditWebhookBody), Decoder(ReplayBody)
_NOTHING = Decoder(NoBody)


@operation(WebhookSecret, 201, body=CreateWebhookBody, problems=(WebhooksDisabled,))
async def create(request: Request) -> Response:
    """Create an endpoint, which receives events from now on. Only this response has its secret."""
    body = await request.read(_CREATE)
    _check_types(body.types)
    await _require_public(request, body.url)
    return await request.write(bind(create_webhook, body=body, settings=request.state.settings))


@operation(Webhook, query=WebhooksQuery)
async def list_webhooks(request: Request) -> Response:
    """List endpoints, oldest first."""
    query, position = request.page(WebhooksQuery)
    [after_id] = position or [0]
    rows = await request.state.book.readers.all(SQL.webhooks_page, after_id=after_id, count=query.limit + 1)
    endpoints = list(map(WebhookEndpoint._make, rows))
    return request.respond_page(query, endpoints, item=webhook_response, position=lambda endpoint: [endpoint.id])


@operation(Webhook, problems=(WebhookNotFound,))
async def show(request: Request) -> Response:
    """Return an endpoint, without its secret."""
    request.parameters(Query)
    return request.answer(webhook_response(_require(request)))


@operation(Webhook, body=EditWebhookBody, problems=(WebhookNotFound,))
async def edit(request: Request) -> Response:
    """Change the members that the body names. Any edit, also `{}`, lets a failing endpoint be tried again at once."""
    body = await request.read(_EDIT)
    if body.url is not None:
        await _require_public(request, body.url)
    _check_types(body.types)
    return await request.write(bind(edit_webhook, webhook_id=request.segment("webhook_id"), body=body))


@operation(NoResponseBody, 204, 200, body=NoBody, problems=(WebhookNotFound,))
async def delete(request: Request) -> Response:
    """Delete an endpoint."""
    await request.read(_NOTHING)
    return await request.write(bind(delete_webhook, webhook_id=request.segment("webhook_id")))


@operation(WebhookSecret, body=NoBody, problems=(WebhookNotFound, WebhooksDisabled))
async def rotate(request: Request) -> Response:
    """Give an endpoint a new secret; the previous one also signs for a day."""
    await request.read(_NOTHING)
    return await request.write(
        bind(rotate_secret, webhook_id=request.segment("webhook_id"), settings=request.state.settings)
    )


@operation(Delivery, query=DeliveriesQuery, problems=(WebhookNotFound,))
async def list_deliveries(request: Request) -> Response:
    """List the latest delivery attempts, newest first."""
    query, position = request.page(DeliveriesQuery)
    [before_id] = position or [ids.KEY_MAX]
    endpoint = _require(request)
    rows = await request.state.book.readers.all(
        SQL.attempts_page, webhook_id=endpoint.id, before_id=before_id, count=query.limit + 1
    )
    attempts = list(map(AttemptRow._make, rows))
    return request.respond_page(query, attempts, item=delivery_response, position=lambda row: [row.id])


@operation(Replayed, body=ReplayBody, problems=(WebhookNotFound,))
async def replay_events(request: Request) -> Response:
    """Send events again: all after an event, or the named events."""
    body = await request.read(_REPLAY)
    if (body.after is None) == (body.event_ids is None):
        raise InvalidRequest(FieldError("", "expected either after or eventIds"))
    feed = request.state.book.feed
    positions: list[Position] = []
    for number, text in enumerate(body.event_ids or ()):
        position = parse_position(text)
        if position is None or await feed.event_at(position) is None:
            raise InvalidRequest(FieldError(f"eventIds[{number}]", "is not the id of an event"))
        positions.append(position)
    after = None
    if body.after is not None:
        after = parse_position(body.after)
        if after is None or not feed.has(after):
            raise InvalidRequest(FieldError("after", "expected the id of an event"))
    return await request.write(bind(replay, webhook_id=request.segment("webhook_id"), after=after, positions=positions))


def _require(request: Request) -> WebhookEndpoint:
    webhook_id = request.segment("webhook_id")
    return request.state.book.readers.point_read(lambda conn: require_webhook(conn, webhook_id))


def _check_types(types: list[str] | None) -> None:
    for number, name in enumerate(types or ()):
        parse_types([name], f"types[{number}]")


async def _require_public(request: Request, url: str) -> None:
    """Raise `InvalidRequest` for a URL that the policy forbids, unless the request is a replay."""
    try:
        target = target_of(url)
        if not await request.was_answered_before():
            await resolve(target, allowed=networks(request.state.settings.webhook_allow_networks))
    except BadUrl as error:
        raise InvalidRequest(FieldError("url", str(error))) from None
