"""Webhooks over HTTP."""

from typing import Any

from minibill.api.decoding import Decoder
from minibill.api.openapi.operation import describe
from minibill.api.request import Call
from minibill.api.response import Reply
from minibill.api.types import NoAnswer, NoBody, Query, encode
from minibill.core.problems import FieldError, InvalidRequest, WebhookNotFound, WebhooksOff
from minibill.events.position import Place, place_of
from minibill.events.type_filter import read_types
from minibill.webhooks.endpoints import (
    SQL,
    Hook,
    create_webhook,
    delete_webhook,
    delivery_answer,
    edit_webhook,
    replay,
    require_webhook,
    rotate_secret,
    webhook_answer,
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


@describe(WebhookSecret, 201, body=CreateWebhookBody, refusals=(WebhooksOff,))
async def create(call: Call) -> Reply:
    """Sends what happens from now on to a URL; answers the secret, once."""
    body = await call.read(_CREATE)
    _read_types(body.types)
    await _require_public(call, body.url)
    return await call.write(
        create_webhook, url=body.url, types=body.types, description=body.description, settings=call.service.settings
    )


@describe(Webhook, query=WebhooksQuery)
async def list_webhooks(call: Call) -> Reply:
    """Webhooks, oldest first."""
    query, position = call.page(WebhooksQuery)
    [after_id] = position or [0]
    rows = await call.service.book.readers.all(SQL.webhooks_page, after_id=after_id, count=query.limit + 1)
    return call.page_answer(query, rows, item=lambda row: webhook_answer(Hook(*row)), position=lambda row: [row[0]])


@describe(Webhook, refusals=(WebhookNotFound,))
async def show(call: Call) -> Reply:
    """One webhook, without its secret."""
    call.parameters(Query)
    return call.answer(webhook_answer(_require(call)))


@describe(Webhook, body=EditWebhookBody, refusals=(WebhookNotFound,))
async def edit(call: Call) -> Reply:
    """Changes what the body names; `{}` too has a webhook that fails tried again at once."""
    body = await call.read(_EDIT)
    if body.url is not None:
        await _require_public(call, body.url)
    _read_types(body.types)
    values: dict[str, Any] = {
        "url": body.url,
        "types": None if body.types is None else encode(body.types).decode(),
        "description": body.description,
        "is_enabled": None if body.enabled is None else int(body.enabled),
    }
    changes = {name: value for name, value in values.items() if value is not None}
    return await call.write(edit_webhook, webhook_id=call.segment("webhook_id"), changes=changes)


@describe(NoAnswer, 204, 200, body=NoBody, refusals=(WebhookNotFound,))
async def delete(call: Call) -> Reply:
    """Ends a webhook."""
    await call.read(_NOTHING)
    return await call.write(delete_webhook, webhook_id=call.segment("webhook_id"))


@describe(WebhookSecret, body=NoBody, refusals=(WebhookNotFound, WebhooksOff))
async def rotate(call: Call) -> Reply:
    """Gives a webhook another secret; the one before signs too for a day."""
    await call.read(_NOTHING)
    return await call.write(rotate_secret, webhook_id=call.segment("webhook_id"), settings=call.service.settings)


@describe(Delivery, query=DeliveriesQuery, refusals=(WebhookNotFound,))
async def list_deliveries(call: Call) -> Reply:
    """The last attempts to deliver to a webhook, newest first."""
    query, position = call.page(DeliveriesQuery)
    [before_id] = position or [_AFTER_ALL]
    hook = _require(call)
    rows = await call.service.book.readers.all(
        SQL.attempts_page, webhook_id=hook.id, before_id=before_id, count=query.limit + 1
    )
    return call.page_answer(query, rows, item=delivery_answer, position=lambda row: [row[0]])


@describe(Replayed, body=ReplayBody, refusals=(WebhookNotFound,))
async def replay_events(call: Call) -> Reply:
    """Sends events again: all after one, or those that are named."""
    body = await call.read(_REPLAY)
    if (body.after is None) == (body.event_ids is None):
        raise InvalidRequest(FieldError("", "expected either after or eventIds"))
    feed = call.service.book.feed
    places: list[Place] = []
    for number, text in enumerate(body.event_ids or ()):
        place = place_of(text)
        if place is None or await feed.at(place) is None:
            raise InvalidRequest(FieldError(f"eventIds[{number}]", "is no event"))
        places.append(place)
    after = None
    if body.after is not None:
        after = place_of(body.after)
        if after is None or not feed.has(after):
            raise InvalidRequest(FieldError("after", "expected the id of an event"))
    return await call.write(replay, webhook_id=call.segment("webhook_id"), after=after, places=places)


def _require(call: Call) -> Hook:
    webhook_id = call.segment("webhook_id")
    return call.service.book.readers.look_up(lambda conn: require_webhook(conn, webhook_id))


def _read_types(types: list[str] | None) -> None:
    for number, name in enumerate(types or ()):
        read_types([name], f"types[{number}]")


async def _require_public(call: Call, url: str) -> None:
    """Raises `InvalidRequest` for a URL that leads inside, unless the request is answered as before."""
    try:
        target = target_of(url)
        if not await call.was_answered_before():
            await resolve(target, allowed=networks(call.service.settings.webhook_allow_networks))
    except BadUrl as error:
        raise InvalidRequest(FieldError("url", str(error))) from None
