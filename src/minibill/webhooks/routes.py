"""Webhooks over HTTP."""

from typing import Any

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import operation
from minibill.api.request import Request
from minibill.api.response import Response
from minibill.api.types import NoBody, NoResponseBody, Query, encode
from minibill.core.problems import FieldError, InvalidRequest, WebhookNotFound, WebhooksDisabled
from minibill.db.write_operation import bind
from minibill.events.position import Position, parse_position
from minibill.events.type_filter import parse_types
from minibill.webhooks.endpoints import (
    SQL,
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

# An id above every row's.
_AFTER_ALL = 2**63 - 1


@operation(WebhookSecret, 201, body=CreateWebhookBody, problems=(WebhooksDisabled,))
async def create(request: Request) -> Response:
    """Sends what happens from now on to a URL; answers the secret, once."""
    body = await request.read(_CREATE)
    _read_types(body.types)
    await _require_public(request, body.url)
    return await request.write(
        bind(create_webhook, url=body.url, types=body.types, description=body.description, settings=request.state.settings)
    )


@operation(Webhook, query=WebhooksQuery)
async def list_webhooks(request: Request) -> Response:
    """Webhooks, oldest first."""
    query, position = request.page(WebhooksQuery)
    [after_id] = position or [0]
    rows = await request.state.book.readers.all(SQL.webhooks_page, after_id=after_id, count=query.limit + 1)
    return request.respond_page(
        query, rows, item=lambda row: webhook_response(WebhookEndpoint(*row)), position=lambda row: [row[0]]
    )


@operation(Webhook, problems=(WebhookNotFound,))
async def show(request: Request) -> Response:
    """One webhook, without its secret."""
    request.parameters(Query)
    return request.answer(webhook_response(_require(request)))


@operation(Webhook, body=EditWebhookBody, problems=(WebhookNotFound,))
async def edit(request: Request) -> Response:
    """Changes what the body names; `{}` too has a webhook that fails tried again at once."""
    body = await request.read(_EDIT)
    if body.url is not None:
        await _require_public(request, body.url)
    _read_types(body.types)
    values: dict[str, Any] = {
        "url": body.url,
        "types": None if body.types is None else encode(body.types).decode(),
        "description": body.description,
        "is_enabled": None if body.enabled is None else int(body.enabled),
    }
    changes = {name: value for name, value in values.items() if value is not None}
    return await request.write(bind(edit_webhook, webhook_id=request.segment("webhook_id"), changes=changes))


@operation(NoResponseBody, 204, 200, body=NoBody, problems=(WebhookNotFound,))
async def delete(request: Request) -> Response:
    """Ends a webhook."""
    await request.read(_NOTHING)
    return await request.write(bind(delete_webhook, webhook_id=request.segment("webhook_id")))


@operation(WebhookSecret, body=NoBody, problems=(WebhookNotFound, WebhooksDisabled))
async def rotate(request: Request) -> Response:
    """Gives a webhook another secret; the one before signs too for a day."""
    await request.read(_NOTHING)
    return await request.write(
        bind(rotate_secret, webhook_id=request.segment("webhook_id"), settings=request.state.settings)
    )


@operation(Delivery, query=DeliveriesQuery, problems=(WebhookNotFound,))
async def list_deliveries(request: Request) -> Response:
    """The last attempts to deliver to a webhook, newest first."""
    query, position = request.page(DeliveriesQuery)
    [before_id] = position or [_AFTER_ALL]
    hook = _require(request)
    rows = await request.state.book.readers.all(
        SQL.attempts_page, webhook_id=hook.id, before_id=before_id, count=query.limit + 1
    )
    return request.respond_page(query, rows, item=delivery_response, position=lambda row: [row[0]])


@operation(Replayed, body=ReplayBody, problems=(WebhookNotFound,))
async def replay_events(request: Request) -> Response:
    """Sends events again: all after one, or those that are named."""
    body = await request.read(_REPLAY)
    if (body.after is None) == (body.event_ids is None):
        raise InvalidRequest(FieldError("", "expected either after or eventIds"))
    feed = request.state.book.feed
    places: list[Position] = []
    for number, text in enumerate(body.event_ids or ()):
        place = parse_position(text)
        if place is None or await feed.at(place) is None:
            raise InvalidRequest(FieldError(f"eventIds[{number}]", "is no event"))
        places.append(place)
    after = None
    if body.after is not None:
        after = parse_position(body.after)
        if after is None or not feed.has(after):
            raise InvalidRequest(FieldError("after", "expected the id of an event"))
    return await request.write(bind(replay, webhook_id=request.segment("webhook_id"), after=after, places=places))


def _require(request: Request) -> WebhookEndpoint:
    webhook_id = request.segment("webhook_id")
    return request.state.book.readers.point_read(lambda conn: require_webhook(conn, webhook_id))


def _read_types(types: list[str] | None) -> None:
    for number, name in enumerate(types or ()):
        parse_types([name], f"types[{number}]")


async def _require_public(request: Request, url: str) -> None:
    """Raises `InvalidRequest` for a URL that leads inside, unless the request is answered as before."""
    try:
        target = target_of(url)
        if not await request.was_answered_before():
            await resolve(target, allowed=networks(request.state.settings.webhook_allow_networks))
    except BadUrl as error:
        raise InvalidRequest(FieldError("url", str(error))) from None
