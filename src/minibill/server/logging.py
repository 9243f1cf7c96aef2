"""The log of the service: to stderr, one line an event, JSON for machines and something readable for a person.

Modules log with the standard library, and put the facts of an event in `extra`: `log.warning("no valid token",
extra={"ip": ip})`. No secret, token, key, query or body is ever among them. Libraries' lines come out the same way.
"""

import logging
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor

# Ours go by the setting. A library speaks when something is wrong: what it says below that may hold what callers sent.
OURS = "minibill"


def configure_logs(level: str, *, for_people: bool, stream: TextIO) -> None:
    """Sends every line of the process to `stream`; `level` is the least of our own that is written."""
    ours: list[Processor] = [
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor]
    if for_people:
        ours.append(_visible)
        plain = structlog.dev.plain_traceback
        rendering = [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]
    else:
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=ours, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(OURS).setLevel(level.upper())


def _visible(_: object, __: str, event: EventDict) -> EventDict:
    """What callers sent may hold characters that steer a terminal."""
    return {
        name: ascii(value) if isinstance(value, str) and not value.isprintable() else value for name, value in event.items()
    }


def _json(event: Any, **_: Any) -> str:
    # Time first and what happened next, as people read it; whatever is no JSON is written as Python would.
    first = {name: event[name] for name in ("timestamp", "level", "logger", "event")}
    return msgspec.json.encode({**first, **event}, enc_hook=repr).decode()
