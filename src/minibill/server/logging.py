"""The log of the service on stderr: one line per event, as JSON or in a readable form for a console.

Modules log with the standard library and pass fields as `extra`: `log.warning("no valid token", extra={"ip": ip})`. No
field ever holds a secret, token, key, query or body. Libraries' lines have the same form.
"""

import logging
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor

# The logger whose level is the setting. Libraries log warnings only: their lower levels may repeat what clients sent.
OURS = "minibill"


def configure_logs(level: str, *, for_people: bool, stream: TextIO) -> None:
    """Send every log line of the process to `stream`. `level` is the minimum level of minibill's own lines."""
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
    """Escape control characters, which clients may send to steer a terminal."""
    return {
        name: ascii(value) if isinstance(value, str) and not value.isprintable() else value for name, value in event.items()
    }


def _json(event: Any, **_: Any) -> str:
    # Time and event come first for people who read it. A value that is not JSON becomes its `repr`.
    first = {name: event[name] for name in ("timestamp", "level", "logger", "event")}
    return msgspec.json.encode({**first, **event}, enc_hook=repr).decode()
