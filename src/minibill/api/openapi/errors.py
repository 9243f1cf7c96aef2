"""The problems of the API for `GET /schema`: those that many operations share, and examples of every code."""

from minibill.api.openapi.operation import OPERATIONS, OperationSpec
from minibill.core.problems import (
    AccountNotFound,
    AmountTooLarge,
    BatchTooLarge,
    BillingModeNotAllowed,
    BudgetBelowSpent,
    BudgetExceeded,
    CampaignFieldLocked,
    CampaignNotActive,
    CampaignNotFound,
    ChargeNotFound,
    DebtNotFound,
    DuplicateAccount,
    FieldError,
    GrantNotFound,
    IdempotencyKeyReused,
    InsufficientBalance,
    InsufficientScope,
    InternalError,
    InvalidCursor,
    InvalidIdempotencyKey,
    InvalidRequest,
    InvalidTransition,
    LargeGrantRequiresForce,
    MalformedJson,
    MethodNotAllowed,
    NotFound,
    NotReady,
    Overloaded,
    PayloadTooLarge,
    PerWalletCapExceeded,
    Problem,
    RateLimited,
    ReservationConflict,
    ReservationNotFound,
    ReservationNotPending,
    SourceAlreadyCharged,
    SourceAlreadyCredited,
    StorageFull,
    TierNotFound,
    TooManyLots,
    TooManyPools,
    TooManyReservations,
    Unauthorized,
    UnsupportedMediaType,
    WebhookNotFound,
    WebhooksDisabled,
)

Kinds = tuple[type[Problem], ...]

ALWAYS: Kinds = (InternalError,)
# Of every request that needs a token. `NotReady` ends requests in flight at a stop, `Overloaded` those over a limit.
WITH_TOKEN: Kinds = (Unauthorized, RateLimited, Overloaded, NotReady)
WITH_SCOPE: Kinds = (InsufficientScope,)
WITH_QUERY: Kinds = (InvalidRequest,)
OF_PAGE: Kinds = (InvalidCursor,)
OF_WRITE: Kinds = (InvalidRequest, MalformedJson, PayloadTooLarge, UnsupportedMediaType, StorageFull)
WITH_KEY: Kinds = (InvalidIdempotencyKey, IdempotencyKeyReused)
# Of paths and methods without a route.
OF_UNKNOWN_ROUTES: Kinds = (NotFound, MethodNotAllowed)


def problems_of(description: OperationSpec, *, has_token: bool, has_scope: bool, is_write: bool) -> list[type[Problem]]:
    """Return the problems that an operation can respond with, by status and in the order of the checks."""
    kinds = [
        *(WITH_QUERY if has_token else ()),
        *(OF_WRITE if is_write else ()),
        *(OF_PAGE if description.is_page else ()),
        *(WITH_TOKEN if has_token else ()),
        *(WITH_SCOPE if has_scope else ()),
        *(WITH_KEY if is_write else ()),
        *description.problems,
        *ALWAYS,
    ]
    return sorted(dict.fromkeys(kinds), key=lambda kind: kind.status)


_A_GRANT = {"path": "grants[3].amountMicro", "amountMicro": "60000000"}

# Examples of every code, one for each set of extension members. A response has no others; a test compares.
EXAMPLES: tuple[Problem, ...] = (
    InvalidRequest(FieldError("amountMicro", "expected a string of digits")),
    MalformedJson("unexpected character at byte 12"),
    BatchTooLarge("a batch has at most 1000 grants; send several", limit=1000, grants=1001),
    BatchTooLarge("a batch has at most 1000 charges; send several", limit=1000, charges=1001),
    DuplicateAccount(
        "a batch pays an account once",
        errors=[
            FieldError("grants[0]", "the same account as grants[2]"),
            FieldError("grants[2]", "the same account as grants[0]"),
        ],
    ),
    InvalidCursor("the cursor was made with other filters"),
    InvalidIdempotencyKey("expected one key of 1 to 255 visible ASCII characters"),
    Unauthorized(),
    InsufficientBalance(available_micro=70, requested_micro=100, list_micro=100, pool_id="general"),
    InsufficientScope("admin:mint:write"),
    BillingModeNotAllowed("soft", ("live",)),
    NotFound("nothing is at this path"),
    NotFound("the account has no membership of this community", account_id="acct_0000000000001", community_id="guild"),
    AccountNotFound("acct_000000000000z"),
    CampaignNotFound("camp_000000000000z"),
    GrantNotFound("grant_000000000000z"),
    ReservationNotFound("res_000000000000z"),
    ChargeNotFound("charge_000000000000z"),
    DebtNotFound("debt_000000000000z"),
    TierNotFound(community_id="guild", tier="gold"),
    WebhookNotFound("hook_000000000000z"),
    WebhooksDisabled("webhooks are signed by MINIBILL_WEBHOOK_SECRET, which is not set"),
    MethodNotAllowed("this path takes other methods", headers={"Allow": "GET, POST"}),
    InvalidTransition("completed", "active"),
    CampaignNotActive("the campaign is paused", campaign_status="paused"),
    CampaignNotActive(
        "the campaign starts at 2027-01-01T00:00:00.000000Z",
        campaign_status="active",
        starts_at="2027-01-01T00:00:00.000000Z",
    ),
    ReservationNotPending("the reservation is released", reservation_id="res_0000000000001", reservation_status="released"),
    ReservationConflict(
        "the reservation was finalized with 40 micro-units", finalized_with_micro="40", actual_cost_micro="50"
    ),
    SourceAlreadyCredited(
        "this source credited another account or amount before",
        source_type="deposit",
        source_id="order-7",
        lot_id="lot_0000000000001",
    ),
    SourceAlreadyCharged(
        "this source charged another cost or pool before",
        source_id="call-17",
        charge_id="charge_0000000000001",
        list_micro="250000",
        pool_id="general",
    ),
    PayloadTooLarge("a body has at most 1048576 bytes", limit_bytes=1_048_576),
    UnsupportedMediaType("send the body as Content-Type: application/json in UTF-8"),
    BudgetExceeded(
        "the new grants come to 500001 micro-units and the campaign has 500000 left",
        budget_micro="4000000",
        spent_micro="3500000",
        remaining_micro="500000",
        requested_micro="500001",
    ),
    PerWalletCapExceeded(
        "1 of the grants are over the cap of 5000000 micro-units per wallet",
        per_wallet_cap_micro="5000000",
        grants=[_A_GRANT],
    ),
    LargeGrantRequiresForce(
        "1 of the grants are over 50000000 micro-units; send force: true if they are meant",
        threshold_micro="50000000",
        grants=[_A_GRANT],
    ),
    AmountTooLarge(
        "one request moves at most 1000000000000 micro-units",
        limit_micro="1000000000000",
        requested_micro="1000000000001",
    ),
    AmountTooLarge(
        "the grants of a batch come to at most 9223372036854775807 micro-units together", limit_micro="9223372036854775807"
    ),
    AmountTooLarge(
        "an account holds at most 9223372036854775807 micro-units", account_id="acct_0000000000001", requested_micro="5"
    ),
    AmountTooLarge(
        "an account owes at most 9223372036854775807 micro-units", debt_micro="9223372036854775807", requested_micro="5"
    ),
    TooManyPools("the account has 64 pools, which is the most, without gpu; mint into one that it has", limit=64),
    TooManyPools(
        "1 of the accounts have 64 pools, which is the most, without gpu; leave them out",
        limit=64,
        grants=[_A_GRANT],
    ),
    TooManyReservations(
        "the account has 10000 pending reservations, which is the most; finalize or release some", limit=10_000
    ),
    TooManyLots(
        "the first 1000 lots hold 2000 of 5000 micro-units; spend at most 2000 at once",
        limit=1_000,
        available_micro="2000",
        requested_micro="5000",
    ),
    IdempotencyKeyReused("this key came with another path, query or body before; take a new key for a new request"),
    CampaignFieldLocked("poolId can't be changed while the campaign is active", fields=["poolId"], campaign_status="active"),
    BudgetBelowSpent("the campaign has spent 3500000 micro-units already", budget_micro="4", spent_micro="3500000"),
    RateLimited("at most 30 requests a minute; try again in 12 s", headers={"Retry-After": "12"}),
    InternalError(),
    Overloaded(),
    StorageFull(),
    NotReady("the service is stopping"),
)


def every_example() -> tuple[Problem, ...]:
    """Return all examples, with those of single operations. An example that several operations share comes once."""
    own = {id(example): example for description in OPERATIONS.values() for example in description.examples}
    return (*EXAMPLES, *own.values())
