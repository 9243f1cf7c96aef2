"""The wire of webhooks."""

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
    """Who is sent events from now on; without `types` all of them."""

    url: Url
    types: Types | None = None
    description: Description | None = None


class EditWebhookBody(Body, frozen=True):
    """What is to change."""

    url: Url | None = None
    types: Types | None = None
    description: Description | None = None
    enabled: bool | None = None


class ReplayBody(Body, frozen=True):
    """Everything after an event again, in order; or single events, each as soon as it can be sent."""

    after: EventId | None = None
    event_ids: Annotated[list[EventId], Meta(min_length=1, max_length=REPLAYS_MAX)] | None = None


class WebhooksQuery(PageQuery, frozen=True):
    pass


class DeliveriesQuery(PageQuery, frozen=True):
    pass


class Webhook(ResponseBody):
    """`delivered` is the cursor up to which all was accepted; `failingSince` is null while its receiver accepts."""

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
    """A webhook with the secret that its receiver checks signatures by; it is not answered again."""

    secret: str


class Replayed(ResponseBody):
    webhook_id: str
    after: str | None
    events: int


class Delivery(ResponseBody):
    """One attempt to deliver an event. `status` is that of the answer, null where there was none."""

    id: str
    event_id: str
    attempt: int
    outcome: Annotated[str, one_of(DeliveryOutcome)]
    status: int | None
    error: str | None
    duration_ms: int
    attempted_at: str
