"""Refusals: one class per code of the contract, raised where the reason is known and rendered in one place.

A problem's facts are its members in the answer: snake_case here, camelCase there, amounts as strings.
"""

from typing import Any, ClassVar

import msgspec


class FieldError(msgspec.Struct):
    """Where a request is wrong, and what was expected there."""

    path: str
    message: str


# How a detail ends that says so, where a caller may wonder.
NOTHING_CHANGED = "; nothing was changed"


def camel(name: str) -> str:
    """The name of a fact as a member of the answer."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


class Problem(Exception):
    """A refusal. Nothing that the request asked for has happened, unless it says so."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong on our side"

    # What a client knows besides: the id under which the service logged it, and whether an earlier try of the same request,
    # whose answer was lost on the way, may have been done all the same.
    request_id: str = ""
    may_have_arrived: bool = False

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None, **extensions: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers or {}
        self.extensions = extensions

    def as_partially_applied(self) -> "Problem":
        """The same, of a request of which a part was done before; another object, since neighbours may share this one."""
        why = self.detail.removesuffix(NOTHING_CHANGED)
        detail = f"{why}; a part of what was asked had been done before: send the request again to do the rest"
        problem = type(self).__new__(type(self))
        Problem.__init__(problem, detail, headers=self.headers, **self.extensions)
        return problem


class InternalError(Problem):
    """A bug or a broken file; the log has it under the request id."""

    def __init__(self, detail: str = f"an internal error{NOTHING_CHANGED}") -> None:
        super().__init__(detail)


# --- 400: the request itself is wrong ---


class InvalidRequest(Problem):
    """Something in the request is not as the contract says; `errors` has the path of each."""

    code, status, title = "validation_error", 400, "The request is not valid"

    def __init__(self, *errors: FieldError) -> None:
        super().__init__(
            "; ".join(f"{e.path}: {e.message}" if e.path else e.message for e in errors[:3]), errors=list(errors)
        )


class MalformedJson(Problem):
    """The body is no JSON, or did not arrive whole."""

    code, status, title = "malformed_json", 400, "The body is not JSON"


class BatchTooLarge(Problem):
    """More grants than one batch takes."""

    code, status, title = "batch_too_large", 400, "Too many grants in one batch"


class DuplicateAccount(Problem):
    """One account is named twice in a batch."""

    code, status, title = "duplicate_account", 400, "An account is named twice"


class InvalidCursor(Problem):
    """The cursor was not made by this list."""

    code, status, title = "invalid_cursor", 400, "The cursor is not valid here"


class InvalidIdempotencyKey(Problem):
    """The key is not 1 to 255 visible ASCII characters."""

    code, status, title = "invalid_idempotency_key", 400, "The idempotency key is not valid"


# --- 401, 403: the caller may not ---


class Unauthorized(Problem):
    """No valid token. The same for every defect."""

    code, status, title = "unauthorized", 401, "A valid token is needed"

    def __init__(self) -> None:
        super().__init__(
            "send a valid token as Authorization: Bearer <token>",
            headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
        )


class InsufficientScope(Problem):
    """The token is good but does not allow this."""

    code, status, title = "insufficient_scope", 403, "The token does not allow this"

    def __init__(self, scope: str) -> None:
        super().__init__(f"this needs the scope {scope}", required_scope=scope)


class BillingModeNotAllowed(Problem):
    """A service named a billing mode that services may not name here."""

    code, status, title = "billing_mode_not_allowed", 403, "Services may not name this billing mode"

    def __init__(self, billing_mode: str, allowed: tuple[str, ...]) -> None:
        super().__init__(
            f"a service may name {' or '.join(allowed)} here, not {billing_mode}; leave billingMode out to use the default",
            billing_mode=billing_mode,
            allowed_billing_modes=list(allowed),
        )


# --- 402 ---


class InsufficientBalance(Problem):
    """The pool's live credits do not cover the amount; nothing is held."""

    code, status, title = "insufficient_balance", 402, "Not enough credits"

    def __init__(
        self, *, available_micro: int, requested_micro: int, list_micro: int, pool_id: str, **extensions: Any
    ) -> None:
        super().__init__(
            f"the pool {pool_id} has {available_micro} micro-units available and {requested_micro} were to be held",
            available_micro=str(available_micro),
            requested_micro=str(requested_micro),
            list_micro=str(list_micro),
            pool_id=pool_id,
            **extensions,
        )


# --- 404, 405, 413, 415 ---


class NotFound(Problem):
    """No such path."""

    code, status, title = "not_found", 404, "Nothing is here"


class AccountNotFound(Problem):
    """No such account."""

    code, status, title = "account_not_found", 404, "No such account"

    def __init__(self, account_id: str) -> None:
        super().__init__("no account has this id", account_id=account_id)


class CampaignNotFound(Problem):
    """No such campaign."""

    code, status, title = "campaign_not_found", 404, "No such campaign"

    def __init__(self, campaign_id: str) -> None:
        super().__init__("no campaign has this id", campaign_id=campaign_id)


class GrantNotFound(Problem):
    """No such grant, or it is another campaign's."""

    code, status, title = "grant_not_found", 404, "No such grant"

    def __init__(self, grant_id: str) -> None:
        super().__init__("the campaign has no grant of this id", grant_id=grant_id)


class ReservationNotFound(Problem):
    """No such reservation."""

    code, status, title = "reservation_not_found", 404, "No such reservation"

    def __init__(self, reservation_id: str) -> None:
        super().__init__("no reservation has this id", reservation_id=reservation_id)


class DebtNotFound(Problem):
    """No such debt of this account."""

    code, status, title = "debt_not_found", 404, "No such debt"

    def __init__(self, debt_id: str) -> None:
        super().__init__("no such debt of this account", debt_id=debt_id)


class TierNotFound(Problem):
    """The community has no such tier."""

    code, status, title = "tier_not_found", 404, "No such tier"

    def __init__(self, **extensions: Any) -> None:
        super().__init__("the community has no such tier", **extensions)


class WebhookNotFound(Problem):
    """There is no such webhook."""

    code, status, title = "webhook_not_found", 404, "No such webhook"

    def __init__(self, webhook_id: str) -> None:
        super().__init__("no webhook has this id", webhook_id=webhook_id)


class MethodNotAllowed(Problem):
    """The path is known, the method is not."""

    code, status, title = "method_not_allowed", 405, "This method is not allowed here"


class PayloadTooLarge(Problem):
    """The body is over the limit."""

    code, status, title = "payload_too_large", 413, "The body is too large"


class UnsupportedMediaType(Problem):
    """The body is said to be something else than JSON."""

    code, status, title = "unsupported_media_type", 415, "The body must be application/json"


# --- 409: not in this state ---


class WebhooksDisabled(Problem):
    """The service has no secret to sign webhooks with."""

    code, status, title = "webhooks_disabled", 409, "This service sends no webhooks"


class InvalidTransition(Problem):
    """The campaign's life cycle has no such step."""

    code, status, title = "invalid_transition", 409, "The campaign can't go there from here"

    def __init__(self, before: str, after: str) -> None:
        super().__init__(f"a campaign that is {before} can't become {after}")
        self.extensions = {"from": before, "to": after}


class CampaignNotActive(Problem):
    """The campaign pays nothing now."""

    code, status, title = "campaign_not_active", 409, "The campaign is not active"


class ReservationNotPending(Problem):
    """The reservation has ended: it was finalized or released, or its time is over."""

    code, status, title = "reservation_not_pending", 409, "The reservation is not pending"


class ReservationConflict(Problem):
    """The reservation was finalized with another cost."""

    code, status, title = "reservation_conflict", 409, "The reservation was finalized with another cost"


class SourceAlreadyCredited(Problem):
    """The outside event was credited before, to another account or with another amount."""

    code, status, title = "source_already_credited", 409, "This source has been credited already"


# --- 422: over a limit ---


class BudgetExceeded(Problem):
    """The new grants of a batch come to more than the campaign has left."""

    code, status, title = "budget_exceeded", 422, "The budget does not cover this"


class PerWalletCapExceeded(Problem):
    """Grants are over the campaign's cap per wallet."""

    code, status, title = "per_wallet_cap_exceeded", 422, "A grant is over the cap per wallet"


class LargeGrantRequiresForce(Problem):
    """Grants over 50,000,000 micro-units want `force`."""

    code, status, title = "large_grant_requires_force", 422, "A large grant needs force"


class AmountTooLarge(Problem):
    """Over the ceiling of one request, or past what an account can hold or a sum can be."""

    code, status, title = "amount_too_large", 422, "The amount is too large"


class IdempotencyKeyReused(Problem):
    """The key has been used for another request."""

    code, status, title = "idempotency_key_reused", 422, "The idempotency key was used for another request"


class TooManyPools(Problem):
    """An account would have one pool too many."""

    code, status, title = "too_many_pools", 422, "The account has too many pools"


class TooManyReservations(Problem):
    """An account would have one pending reservation too many."""

    code, status, title = "too_many_reservations", 422, "Too many reservations are pending"


class TooManyLots(Problem):
    """The amount would be drawn from more lots than one request may touch; nothing is held."""

    code, status, title = "too_many_lots", 422, "The amount is spread over too many lots"


class CampaignFieldLocked(Problem):
    """The campaign's state does not let these fields be changed."""

    code, status, title = "campaign_field_locked", 422, "The campaign does not let this be changed now"


class BudgetBelowSpent(Problem):
    """A campaign's budget can't be less than what it has spent."""

    code, status, title = "budget_below_spent", 422, "The budget would be below what is spent"


# --- 429, 503: not now ---


class RateLimited(Problem):
    """Too many requests in this minute."""

    code, status, title = "rate_limited", 429, "Too many requests"


class Overloaded(Problem):
    """Too much is waiting, too many are connected, or another program holds the file."""

    code, status, title = "overloaded", 503, "Too busy just now"

    def __init__(
        self, detail: str = "too many writes are waiting; try again", *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail, headers={"Retry-After": "1", **(headers or {})})


class StorageFull(Problem):
    """The disk is full. Nothing was written and nothing is lost."""

    code, status, title = "storage_full", 503, "The storage is full"

    def __init__(self) -> None:
        super().__init__(f"there is no room to write{NOTHING_CHANGED}", headers={"Retry-After": "5"})


class NotReady(Problem):
    """The service can't take writes: it is starting, stopping or broken."""

    code, status, title = "not_ready", 503, "Not ready"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "5"})
