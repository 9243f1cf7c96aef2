"""Errors of the API: one class per code, raised where the cause is known and rendered in one place.

Extension members of the response are attributes here: snake_case in Python, camelCase in JSON, amounts as strings. The codes
are listed in docs/reference/errors.md.
"""

from typing import Any, ClassVar

import msgspec


class FieldError(msgspec.Struct):
    """The path of an invalid member or parameter, and the value expected there."""

    path: str
    message: str


# The end of a detail, for errors after which a client might expect a partial effect.
NOTHING_CHANGED = "; nothing was changed"


def camel(name: str) -> str:
    """Return the JSON name of an extension member."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


class Problem(Exception):
    """An error response (RFC 9457). The request changed nothing, unless `detail` says otherwise."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    # Set by the client: the id under which the service logged the request, and whether an earlier attempt at it, whose
    # response was lost, may have been applied.
    request_id: str = ""
    may_have_arrived: bool = False

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None, **extensions: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}
        self.extensions = extensions

    def as_partially_applied(self) -> "Problem":
        """Return a copy for a request that was applied in part. Other writes of its group may share the original."""
        why = self.detail.removesuffix(NOTHING_CHANGED)
        detail = f"{why}; a part of the request was applied: send the same request again to apply the rest"
        problem = type(self).__new__(type(self))
        Problem.__init__(problem, detail, headers=self.headers, **self.extensions)
        return problem


class InternalError(Problem):
    """A bug or a damaged file; the service logs it under the request id."""

    def __init__(self, detail: str = f"an internal error{NOTHING_CHANGED}") -> None:
        super().__init__(detail)


# --- 400: the request itself is wrong ---


class InvalidRequest(Problem):
    """Members or parameters of the request are invalid; `errors` has the path of each."""

    code, status, title = "validation_error", 400, "The request is invalid"

    def __init__(self, *errors: FieldError) -> None:
        super().__init__(
            "; ".join(f"{e.path}: {e.message}" if e.path else e.message for e in errors[:3]), errors=list(errors)
        )


class MalformedJson(Problem):
    """The body is not JSON, or did not arrive completely."""

    code, status, title = "malformed_json", 400, "The body is not JSON"


class BatchTooLarge(Problem):
    """The batch has more items than one batch may have."""

    code, status, title = "batch_too_large", 400, "Too many items in the batch"


class DuplicateAccount(Problem):
    """The batch names an account twice."""

    code, status, title = "duplicate_account", 400, "The batch names an account twice"


class InvalidCursor(Problem):
    """The cursor does not belong to this list and its filters."""

    code, status, title = "invalid_cursor", 400, "The cursor is invalid"


class InvalidIdempotencyKey(Problem):
    """The key is not 1 to 255 visible ASCII characters."""

    code, status, title = "invalid_idempotency_key", 400, "The idempotency key is invalid"


# --- 401, 403: the caller is not authorized ---


class Unauthorized(Problem):
    """The request has no valid token. All defects of a token get the same response."""

    code, status, title = "unauthorized", 401, "A valid token is required"

    def __init__(self) -> None:
        super().__init__(
            "send a valid token as Authorization: Bearer <token>",
            headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
        )


class InsufficientScope(Problem):
    """The token is valid but lacks the required scope."""

    code, status, title = "insufficient_scope", 403, "The token lacks a scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"this operation requires the scope {scope}", required_scope=scope)


class BillingModeNotAllowed(Problem):
    """The service requested a billing mode that MINIBILL_SERVICE_BILLING_MODES does not list."""

    code, status, title = "billing_mode_not_allowed", 403, "The billing mode is not allowed for services"

    def __init__(self, billing_mode: str, allowed: tuple[str, ...]) -> None:
        super().__init__(
            f"services may use {' or '.join(allowed)}, not {billing_mode}; leave billingMode out to use the default",
            billing_mode=billing_mode,
            allowed_billing_modes=list(allowed),
        )


# --- 402 ---


class InsufficientBalance(Problem):
    """The live credits of the pool do not cover the amount. Nothing is reserved or charged."""

    code, status, title = "insufficient_balance", 402, "Not enough credits"

    def __init__(
        self, *, available_micro: int, requested_micro: int, list_micro: int, pool_id: str, **extensions: Any
    ) -> None:
        super().__init__(
            f"{available_micro} micro-units are available from the pool {pool_id}, and {requested_micro} are needed",
            available_micro=str(available_micro),
            requested_micro=str(requested_micro),
            list_micro=str(list_micro),
            pool_id=pool_id,
            **extensions,
        )


# --- 404, 405, 413, 415 ---


class NotFound(Problem):
    """No route has this path."""

    code, status, title = "not_found", 404, "Not found"


class AccountNotFound(Problem):
    """No account has this id."""

    code, status, title = "account_not_found", 404, "Account not found"

    def __init__(self, account_id: str) -> None:
        super().__init__("no account has this id", account_id=account_id)


class CampaignNotFound(Problem):
    """No campaign has this id."""

    code, status, title = "campaign_not_found", 404, "Campaign not found"

    def __init__(self, campaign_id: str) -> None:
        super().__init__("no campaign has this id", campaign_id=campaign_id)


class GrantNotFound(Problem):
    """The campaign has no grant with this id."""

    code, status, title = "grant_not_found", 404, "Grant not found"

    def __init__(self, grant_id: str) -> None:
        super().__init__("the campaign has no grant with this id", grant_id=grant_id)


class ChargeNotFound(Problem):
    """No charge has this id."""

    code, status, title = "charge_not_found", 404, "Charge not found"

    def __init__(self, charge_id: str) -> None:
        super().__init__("no charge has this id", charge_id=charge_id)


class ReservationNotFound(Problem):
    """No reservation has this id."""

    code, status, title = "reservation_not_found", 404, "Reservation not found"

    def __init__(self, reservation_id: str) -> None:
        super().__init__("no reservation has this id", reservation_id=reservation_id)


class DebtNotFound(Problem):
    """The account has no debt with this id."""

    code, status, title = "debt_not_found", 404, "Debt not found"

    def __init__(self, debt_id: str) -> None:
        super().__init__("the account has no debt with this id", debt_id=debt_id)


class TierNotFound(Problem):
    """The community has no tier of this name."""

    code, status, title = "tier_not_found", 404, "Tier not found"

    def __init__(self, **extensions: Any) -> None:
        super().__init__("the community has no tier of this name", **extensions)


class WebhookNotFound(Problem):
    """No webhook has this id."""

    code, status, title = "webhook_not_found", 404, "Webhook not found"

    def __init__(self, webhook_id: str) -> None:
        super().__init__("no webhook has this id", webhook_id=webhook_id)


class MethodNotAllowed(Problem):
    """The route exists, but not with this method."""

    code, status, title = "method_not_allowed", 405, "Method not allowed"


class PayloadTooLarge(Problem):
    """The body is larger than MINIBILL_MAX_BODY_BYTES."""

    code, status, title = "payload_too_large", 413, "The body is too large"


class UnsupportedMediaType(Problem):
    """The content type of the body is not application/json."""

    code, status, title = "unsupported_media_type", 415, "The body must be application/json"


# --- 409: the current state does not allow it ---


class WebhooksDisabled(Problem):
    """The service has no MINIBILL_WEBHOOK_SECRET, so it sends no webhooks."""

    code, status, title = "webhooks_disabled", 409, "Webhooks are disabled"


class InvalidTransition(Problem):
    """The campaign can't change from its status to the requested one."""

    code, status, title = "invalid_transition", 409, "The campaign can't change to this status"

    def __init__(self, before: str, after: str) -> None:
        super().__init__(f"a campaign that is {before} can't become {after}")
        self.extensions = {"from": before, "to": after}


class CampaignNotActive(Problem):
    """The campaign is not active, so it pays no grants."""

    code, status, title = "campaign_not_active", 409, "The campaign is not active"


class ReservationNotPending(Problem):
    """The reservation has ended: it was finalized or released, or it expired."""

    code, status, title = "reservation_not_pending", 409, "The reservation is not pending"


class ReservationConflict(Problem):
    """The reservation was finalized before, with another cost."""

    code, status, title = "reservation_conflict", 409, "The reservation was finalized with another cost"


class SourceAlreadyCredited(Problem):
    """The source was credited before, to another account or with another amount."""

    code, status, title = "source_already_credited", 409, "The source was already credited"


class SourceAlreadyCharged(Problem):
    """The source charged the account before, with another cost or from another pool."""

    code, status, title = "source_already_charged", 409, "The source was already charged"


# --- 422: over a limit ---


class BudgetExceeded(Problem):
    """The new grants of the batch exceed the campaign's remaining budget."""

    code, status, title = "budget_exceeded", 422, "The budget is exceeded"


class PerWalletCapExceeded(Problem):
    """Grants of the batch exceed the campaign's cap per wallet."""

    code, status, title = "per_wallet_cap_exceeded", 422, "A grant exceeds the cap per wallet"


class LargeGrantRequiresForce(Problem):
    """Grants of more than 50,000,000 micro-units require `force`."""

    code, status, title = "large_grant_requires_force", 422, "A large grant requires force"


class AmountTooLarge(Problem):
    """The amount exceeds the ceiling of one request, or a resulting sum exceeds 2^63-1."""

    code, status, title = "amount_too_large", 422, "The amount is too large"


class IdempotencyKeyReused(Problem):
    """The key was used before for another request."""

    code, status, title = "idempotency_key_reused", 422, "The idempotency key was used for another request"


class TooManyPools(Problem):
    """The account has the maximum number of pools."""

    code, status, title = "too_many_pools", 422, "The account has too many pools"


class TooManyReservations(Problem):
    """The account has the maximum number of pending reservations."""

    code, status, title = "too_many_reservations", 422, "The account has too many pending reservations"


class TooManyLots(Problem):
    """The amount needs more lots than one request may draw on. Nothing is reserved."""

    code, status, title = "too_many_lots", 422, "The amount needs too many lots"


class CampaignFieldLocked(Problem):
    """The campaign's status does not allow changing these fields."""

    code, status, title = "campaign_field_locked", 422, "The campaign does not allow this change"


class BudgetBelowSpent(Problem):
    """The new budget is less than the campaign has spent."""

    code, status, title = "budget_below_spent", 422, "The budget is below the amount spent"


# --- 429, 503: try again later ---


class RateLimited(Problem):
    """The caller exceeded its requests per minute."""

    code, status, title = "rate_limited", 429, "Too many requests"


class Overloaded(Problem):
    """Too many writes are queued or clients connected, or another program locks the file."""

    code, status, title = "overloaded", 503, "The service is overloaded"

    def __init__(
        self, detail: str = "too many writes are queued; try again", *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail, headers={"Retry-After": "1", **(headers or {})})


class StorageFull(Problem):
    """The disk is full. Nothing was written, and nothing is lost."""

    code, status, title = "storage_full", 503, "The storage is full"

    def __init__(self) -> None:
        super().__init__(f"the disk has no space left{NOTHING_CHANGED}", headers={"Retry-After": "5"})


class NotReady(Problem):
    """The service can't accept requests: it is starting, stopping or out of order."""

    code, status, title = "not_ready", 503, "The service is not ready"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "5"})
