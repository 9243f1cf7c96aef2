"""Settings: read from the environment once, and validated before the service starts."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from minibill.core.clock import JUMP_MAX_SECONDS_DEFAULT
from minibill.core.money import MAX_MICRO
from minibill.core.networks import parse_network, parse_origins

SECRET_BYTES_MIN = 32

# A revoked token stays on the deny list for its maximum lifetime and this long. A token that has expired is valid again if
# the wall clock is set back to before its expiry; for a week it is then still denied.
REVOCATION_SECONDS_MIN = 7 * 86_400

MODES = ("live", "soft", "shadow")


class ConfigurationError(Exception):
    """A setting is missing or invalid; the message names it and says what to do."""


class SettingMissing(ConfigurationError):
    """A required setting is not set; the message names it and says how to set it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a service. Its `repr` shows no secrets."""

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
    # Set by `serve --dev`; no variable sets it.
    cors_loopback: bool = False

    def __repr__(self) -> str:
        return "Settings(…)"


class Setting(NamedTuple):
    """An environment variable: its field of `Settings`, its texts for the operator, and its parser."""

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
            raise ValueError(
                f"must be IP addresses or networks, separated by commas; {address.strip()!r} is neither"
            ) from None
    return value


def _modes(value: str) -> tuple[str, ...]:
    named = tuple(mode.strip() for mode in value.split(","))
    for mode in named:
        if mode not in MODES:
            raise ValueError(f"must be of {', '.join(MODES)}, separated by commas; {mode!r} is no billing mode")
    return named


def _on_or_off(value: str) -> bool:
    return _one_of("on", "off")(value) == "on"


SETTINGS = (
    Setting("BILLING_ADMIN_JWT_SECRET", "admin_secret", None, "text, 32 bytes or more",
            "secret that signs admin tokens; required unless --dev", _secret),
    Setting("BILLING_ADMIN_JWT_SECRET_PREV", "admin_secret_previous", "", "text, 32 bytes or more",
            "previous admin secret, accepted during a rotation", _secret),
    Setting("BILLING_INTERNAL_JWT_SECRET", "internal_secret", None, "text, 32 bytes or more",
            "secret that signs service tokens; required unless --dev", _secret),
    Setting("BILLING_INTERNAL_JWT_SECRET_PREV", "internal_secret_previous", "", "text, 32 bytes or more",
            "previous service secret, accepted during a rotation", _secret),
    Setting("MINIBILL_ADMIN_JWT_ISSUER", "admin_issuer", "arrakis-admin", "text",
            "required issuer (iss) of admin tokens", _text),
    Setting("MINIBILL_ADMIN_JWT_AUDIENCE", "admin_audience", "arrakis-billing-admin", "text",
            "required audience (aud) of admin tokens", _text),
    Setting("MINIBILL_INTERNAL_JWT_ISSUER", "internal_issuer", "loa-finn", "text",
            "required issuer (iss) of service tokens", _text),
    Setting("MINIBILL_INTERNAL_JWT_AUDIENCE", "internal_audience", "arrakis-internal", "text",
            "required audience (aud) of service tokens", _text),
    Setting("MINIBILL_ADMIN_TOKEN_MAX_TTL", "admin_token_max_ttl", "3600", "seconds",
            "maximum lifetime of an admin token; limits the use of a stolen one", _whole(1, 31_536_000)),
    Setting("MINIBILL_ADMIN_RATE_PER_MINUTE", "admin_rate_per_minute", "30", "requests a minute",
            "limit per admin; 0 disables it, and the limit on requests with invalid tokens", _whole(0, 1_000_000)),
    Setting("MINIBILL_SERVICE_RATE_PER_MINUTE", "service_rate_per_minute", "0", "requests a minute",
            "limit per service; 0 disables it", _whole(0, 100_000_000)),
    Setting("MINIBILL_BILLING_MODE", "billing_mode", "live", "live, soft or shadow",
            "billing mode of requests that name none", _one_of(*MODES)),
    Setting("MINIBILL_SERVICE_BILLING_MODES", "service_billing_modes", "", "modes, separated by commas",
            "billing modes that services may request; unset allows only MINIBILL_BILLING_MODE", _modes),
    Setting("MINIBILL_CEILING_MICRO", "ceiling_micro", "1000000000000", "micro-units",
            "maximum that one request may move; catches a misplaced decimal point", _whole(1, MAX_MICRO)),
    Setting("MINIBILL_MAX_BODY_BYTES", "max_body_bytes", "1048576", "bytes",
            "maximum size of a request body; bounds memory; a batch of 1,000 grants has about 100 KiB",
            _whole(1, 1_073_741_824)),
    Setting("MINIBILL_RECONCILE_SECONDS", "reconcile_seconds", "3600", "seconds",
            "interval between reconciliations, counted from the creation of the database; 0 runs them on request only",
            _whole(0, 31_536_000)),
    Setting("MINIBILL_CHECKPOINT_PAGES", "checkpoint_pages", "4000", "pages of 4 KiB",
            "size of the write-ahead log that triggers a checkpoint; 0 never checkpoints, for use with Litestream",
            _whole(0, 1_000_000)),
    Setting("MINIBILL_CLOCK_JUMP_SECONDS", "clock_jump_seconds", str(JUMP_MAX_SECONDS_DEFAULT), "seconds",
            "maximum jump of the wall clock that the ledger's time follows; a credit that expired by mistake stays expired",
            _whole(1, 31_536_000)),
    Setting("MINIBILL_TRUSTED_PROXIES", "trusted_proxies", "", "addresses, separated by commas",
            "proxies whose X-Forwarded-For is trusted; unset trusts none", _addresses),
    Setting("MINIBILL_KEEP_ALIVE_SECONDS", "keep_alive_seconds", "75", "seconds",
            "time that an idle connection stays open; set it higher than the idle timeout of a proxy in front",
            _whole(1, 86_400)),
    Setting("MINIBILL_CORS_ORIGINS", "cors_origins", "", "origins, separated by commas",
            "origins that browsers may call from, such as https://console.example; --dev adds loopback origins",
            parse_origins),
    Setting("MINIBILL_WEBHOOK_SECRET", "webhook_secret", "", "text, 32 bytes or more",
            "master key for webhook signing secrets; unset disables webhooks", _secret),
    Setting("MINIBILL_WEBHOOK_SECRET_PREV", "webhook_secret_previous", "", "text, 32 bytes or more",
            "previous master key, whose secrets also sign during a rotation", _secret),
    Setting("MINIBILL_WEBHOOK_ALLOW_NETWORKS", "webhook_allow_networks", "", "networks, separated by commas",
            "private networks that webhooks may call, also without TLS; unset allows none", _addresses),
    Setting("MINIBILL_LOG", "log_level", "info", "info, warning or error",
            "minimum log level", _one_of("info", "warning", "error")),
    Setting("MINIBILL_ACCESS_LOG", "access_log", "off", "on or off",
            "on logs every request; off logs writes of admins, and slow, failed and unauthorized requests",
            _on_or_off),
)  # fmt: skip


def default_of(field: str) -> str:
    """Return the default of a setting as text, by its field of `Settings`."""
    [default] = [setting.default for setting in SETTINGS if setting.field == field]
    assert default is not None
    return default


# Variables that the command line reads.
OTHER_VARIABLES = {"MINIBILL_DB", "MINIBILL_HOST", "MINIBILL_PORT", "MINIBILL_URL", "MINIBILL_TOKEN"}


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings of an environment. Raises `ConfigurationError` for the first that is missing or invalid."""
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
    """Return the variables that look like settings but are none, most likely misspelled."""
    known = {setting.variable for setting in SETTINGS} | OTHER_VARIABLES
    return sorted(name for name in environment if name.startswith(("MINIBILL_", "BILLING_")) and name not in known)
