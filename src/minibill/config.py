"""Settings: each with its default, unit and reason, read from the environment once and checked before anything starts."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from minibill.core.clock import JUMP_MAX_SECONDS_DEFAULT
from minibill.core.money import MAX_MICRO
from minibill.core.networks import parse_network, parse_origins

SECRET_BYTES_MIN = 32
MODES = ("live", "soft", "shadow")


class ConfigurationError(Exception):
    """A setting is missing or wrong; the message says which and what to do."""


class SettingMissing(ConfigurationError):
    """A setting without a default is not set; the message says which, and how to set it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the service goes by. Secrets are never shown."""

    admin_secret: str
    admin_secret_previous: str | None
    internal_secret: str
    internal_secret_previous: str | None
    admin_issuer: str
    admin_audience: str
    internal_issuer: str
    internal_audience: str
    admin_token_max_ttl: int
    admin_rate_per_minute: int
    service_rate_per_minute: int
    billing_mode: str
    service_billing_modes: tuple[str, ...]
    ceiling_micro: int
    max_body_bytes: int
    reconcile_seconds: int
    checkpoint_pages: int
    clock_jump_seconds: int
    trusted_proxies: str
    keep_alive_seconds: int
    cors_origins: frozenset[bytes] | None
    webhook_secret: str | None
    webhook_secret_previous: str | None
    webhook_allow_networks: str | None
    log_level: str
    access_log: bool
    # Set by `serve --dev`, and by no variable.
    cors_loopback: bool = False

    def __repr__(self) -> str:
        return "Settings(…)"


class Setting(NamedTuple):
    """One environment variable: what it means for people, and how its text becomes a value."""

    variable: str
    field: str
    default: str | None
    unit: str
    reason: str
    read: Callable[[str], Any]


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


def _secret(value: str) -> str:
    if len(value.encode()) < SECRET_BYTES_MIN:
        raise ValueError(f"must have at least {SECRET_BYTES_MIN} bytes; make one with: openssl rand -base64 48")
    return value


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) <= 19 and lowest <= int(value) <= highest):
            raise ValueError(f"must be a whole number from {lowest} to {highest}")
        return int(value)

    return read


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value

    return read


def _addresses(value: str) -> str:
    for address in value.split(","):
        try:
            parse_network(address.strip())
        except ValueError:
            raise ValueError(f"must be IP addresses or networks, separated by commas; {address.strip()!r} is none") from None
    return value


def _modes(value: str) -> tuple[str, ...]:
    named = tuple(mode.strip() for mode in value.split(","))
    for mode in named:
        if mode not in MODES:
            raise ValueError(f"must be of {', '.join(MODES)}, separated by commas; {mode!r} is none")
    return named


def _on_or_off(value: str) -> bool:
    return _one_of("on", "off")(value) == "on"


SETTINGS = (
    Setting("BILLING_ADMIN_JWT_SECRET", "admin_secret", None, "text, 32 bytes or more",
            "signs admin tokens; required unless --dev", _secret),
    Setting("BILLING_ADMIN_JWT_SECRET_PREV", "admin_secret_previous", "", "text, 32 bytes or more",
            "the admin secret before, accepted while a rotation is under way", _secret),
    Setting("BILLING_INTERNAL_JWT_SECRET", "internal_secret", None, "text, 32 bytes or more",
            "signs service tokens; required unless --dev", _secret),
    Setting("BILLING_INTERNAL_JWT_SECRET_PREV", "internal_secret_previous", "", "text, 32 bytes or more",
            "the service secret before, accepted while a rotation is under way", _secret),
    Setting("MINIBILL_ADMIN_JWT_ISSUER", "admin_issuer", "arrakis-admin", "text",
            "the iss that admin tokens must have", _text),
    Setting("MINIBILL_ADMIN_JWT_AUDIENCE", "admin_audience", "arrakis-billing-admin", "text",
            "the aud that admin tokens must have", _text),
    Setting("MINIBILL_INTERNAL_JWT_ISSUER", "internal_issuer", "loa-finn", "text",
            "the iss that service tokens must have", _text),
    Setting("MINIBILL_INTERNAL_JWT_AUDIENCE", "internal_audience", "arrakis-internal", "text",
            "the aud that service tokens must have", _text),
    Setting("MINIBILL_ADMIN_TOKEN_MAX_TTL", "admin_token_max_ttl", "3600", "seconds",
            "an admin token made to live longer is refused: a stolen one is of use no longer", _whole(1, 31_536_000)),
    Setting("MINIBILL_ADMIN_RATE_PER_MINUTE", "admin_rate_per_minute", "30", "requests a minute",
            "per admin; 0 turns this limit and the one on bad tokens off", _whole(0, 1_000_000)),
    Setting("MINIBILL_SERVICE_RATE_PER_MINUTE", "service_rate_per_minute", "0", "requests a minute",
            "per service; 0 for no limit", _whole(0, 100_000_000)),
    Setting("MINIBILL_BILLING_MODE", "billing_mode", "live", "live, soft or shadow",
            "how a reservation that names no mode is charged", _one_of(*MODES)),
    Setting("MINIBILL_SERVICE_BILLING_MODES", "service_billing_modes", "", "modes, separated by commas",
            "those that a service may name itself; by default only MINIBILL_BILLING_MODE", _modes),
    Setting("MINIBILL_CEILING_MICRO", "ceiling_micro", "1000000000000", "micro-units",
            "the most that one request may move: a slip of the decimal point stops here", _whole(1, MAX_MICRO)),
    Setting("MINIBILL_MAX_BODY_BYTES", "max_body_bytes", "1048576", "bytes",
            "a larger request body is refused: memory is bounded; a batch of 1,000 grants takes about 100 KiB",
            _whole(1, 1_073_741_824)),
    Setting("MINIBILL_RECONCILE_SECONDS", "reconcile_seconds", "3600", "seconds",
            "how often the whole book is recomputed and compared, first that long after the book was made; 0 for only when "
            "asked to", _whole(0, 31_536_000)),
    Setting("MINIBILL_CHECKPOINT_PAGES", "checkpoint_pages", "1000", "pages of 4 KiB",
            "how long the write-ahead log grows before it is folded into the file; 0 for never: another program, such as "
            "Litestream, does it", _whole(0, 1_000_000)),
    Setting("MINIBILL_CLOCK_JUMP_SECONDS", "clock_jump_seconds", str(JUMP_MAX_SECONDS_DEFAULT), "seconds",
            "the book's time does not follow a wall clock that jumps ahead by more: what expires by mistake stays expired",
            _whole(1, 31_536_000)),
    Setting("MINIBILL_TRUSTED_PROXIES", "trusted_proxies", "", "addresses, separated by commas",
            "whose X-Forwarded-For is believed; by default nobody's", _addresses),
    Setting("MINIBILL_KEEP_ALIVE_SECONDS", "keep_alive_seconds", "75", "seconds",
            "how long an idle connection stays open; more than a proxy in front keeps one, or it meets closed ones",
            _whole(1, 86_400)),
    Setting("MINIBILL_CORS_ORIGINS", "cors_origins", "", "origins, separated by commas",
            "web pages that may call from a browser, such as https://console.example; --dev adds those of this machine",
            parse_origins),
    Setting("MINIBILL_WEBHOOK_SECRET", "webhook_secret", "", "text, 32 bytes or more",
            "what the secrets of webhooks are made of; without it there are none", _secret),
    Setting("MINIBILL_WEBHOOK_SECRET_PREV", "webhook_secret_previous", "", "text, 32 bytes or more",
            "the one before, whose secrets sign too while a rotation is under way", _secret),
    Setting("MINIBILL_WEBHOOK_ALLOW_NETWORKS", "webhook_allow_networks", "", "networks, separated by commas",
            "inside addresses that webhooks may lead to, also without TLS; by default none", _addresses),
    Setting("MINIBILL_LOG", "log_level", "info", "info, warning or error",
            "the least that a line of the log must be about", _one_of("info", "warning", "error")),
    Setting("MINIBILL_ACCESS_LOG", "access_log", "off", "on or off",
            "a line for every request; off: only for writes of admins, and for slow, failed and unauthorized ones",
            _on_or_off),
)  # fmt: skip

# Read elsewhere, so not misspelt: the command line's own, and settings of commands.
OTHER_VARIABLES = {"MINIBILL_DB", "MINIBILL_HOST", "MINIBILL_PORT", "MINIBILL_URL", "MINIBILL_TOKEN"}


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings of an environment. Raises `ConfigurationError` for the first that is missing or wrong."""
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        given = environment.get(setting.variable)
        if given is None and setting.default is None:
            raise SettingMissing(
                f"{setting.variable} is not set: give it a secret of {SECRET_BYTES_MIN} bytes or more "
                "(openssl rand -base64 48)"
            )
        text = setting.default if given is None else given
        if text == "" and setting.default == "":
            values[setting.field] = {"trusted_proxies": "", "service_billing_modes": ()}.get(setting.field)
            continue
        try:
            values[setting.field] = setting.read(text or "")
        except ValueError as error:
            raise ConfigurationError(f"{setting.variable} {error}") from None
    values["service_billing_modes"] = values["service_billing_modes"] or (values["billing_mode"],)
    return Settings(**values)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none: most likely misspelt."""
    known = {setting.variable for setting in SETTINGS} | OTHER_VARIABLES
    return sorted(name for name in environment if name.startswith(("MINIBILL_", "BILLING_")) and name not in known)
