"""Request and response bodies of webhooks."""

from typing import Annotated, Literal

from msgspec import Meta

from minibill.api.types import Body, Description, PageQuery, ResponseBody, one_of
from minibill.events.schemas import TYPES
from minibill.webhooks.url_policy import URL_CHARACTERS_MAX

DeliveryOutcome = Literal["accepted", "failed", "abandoned"]

REPLAYS_MAX = 100

Url = Annotated[str, Meta(min_length=1, max_length=URL_CHARACTERS_MAX)]
Types = Annotated[list[str], Meta(min_length=1, max_length=len(TYPES))]
EventId = Annotated[str, Meta(min_length=1, max_length=64)]


class CreateWebhookBody(Body, frozen=True):
    """A new endpoint, which receives events from now on; without `types`, events of every type."""

    url: Url
    types: Types | None = None
    description: Description | None = None


class EditWebhookBody(Body, frozen=True):
    """Changes of an endpoint; absent members stay as they are."""

    url: Url | None = None
    types: Types | None = None
    description: Description | None = None
    enabled: bool | None = None


class ReplayBody(Body, frozen=True):
    """Send again every event after `after`, in order, or else single events as soon as possible."""

    after: EventId | None = None
    event_ids: Annotated[list[EventId], Meta(min_length=1, max_length=REPLAYS_MAX)] | None = None


class WebhooksQuery(PageQuery, frozen=True):
    pass


class DeliveriesQuery(PageQuery, frozen=True):
    pass


class Webhook(ResponseBody):
    """An endpoint. `delivered` is the cursor up to which all is accepted; `failingSince` is null while it accepts events."""

    id: str
    url: str
    types: list[str] | None
    description: str | None
    enabled: bool
    delivered: str
    failing_since: Annotated[str, Meta(extra_json_schema={"format": "date-time"})] | None
    created_at: str
    updated_at: str


class WebhookSecret(Webhook):
    """An endpoint with the secret that verifies its signatures. No other response has the secret."""

    secret: str


class Replayed(ResponseBody):
    webhook_id: str
    after: str | None
    events: int


class Delivery(ResponseBody):
    """One attempt to deliver an event. `status` is that of the response, null without a response."""

    id: str
    event_id: str
    attempt: int
    outcome: Annotated[str, one_of(DeliveryOutcome)]
    status: int | None
    error: str | None
    duration_ms: int
    attempted_at: str
