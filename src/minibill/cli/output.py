"""What the commands of `minibill campaign` have in common: whom and what to ask, amounts and refusals for people, JSON."""

import json
import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from minibill.api.types import ResponseBody
from minibill.core.money import MICRO_PER_UNIT
from minibill.core.problems import NotFound, Problem, camel

USER_AGENT = "minibill-cli"

# More would scroll the first, which is the one to mend, off the screen; --json has them all.
LISTED_MAX = 20

# Wide enough for a table in a log, where there is no terminal to ask.
LOG_COLUMNS = 120

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

Command = TypeVar("Command", bound=Callable[..., Any])


class UsageError(click.ClickException):
    """The command can't be carried out as it was given or configured; printed as one line."""

    exit_code = 2


# --- options ---


def campaign_id_of(text: str) -> str:
    """An id that can't change the path it is put in."""
    if not _ID.fullmatch(text):
        raise click.BadParameter(f"{text!r}: expected a campaign's id, camp_ and so on")
    return text


def grant_id_of(text: str) -> str:
    """The same of a grant."""
    if not _ID.fullmatch(text):
        raise click.BadParameter(f"{text!r}: expected a grant's id, grant_ and so on")
    return text


campaign_argument = click.argument("campaign_id", metavar="CAMPAIGN", type=campaign_id_of)


def access_options(command: Command) -> Command:
    """The options of every command here: which service, who asks, and how to answer."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
        click.option(
            "--token",
            envvar="MINIBILL_TOKEN",
            show_envvar=True,
            required=True,
            help="Admin token; `minibill token` prints one. The environment keeps it out of the process list.",
        ),
        click.option(
            "--url",
            envvar="MINIBILL_URL",
            show_envvar=True,
            default="http://127.0.0.1:8080",
            show_default=True,
            help="Where the service runs.",
        ),
    ):
        command = option(command)
    return command


def own_command() -> list[str]:
    """How this minibill is started once more: a single-file executable is all of it, else Python has the package."""
    return [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "minibill"]


# --- for people ---


def escaped(text: str) -> str:
    """Text from the database, with `\\x1b` or `\\u202e` for characters that could change what a terminal shows."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)


def units(amount_micro: int) -> str:
    """`1234.5`."""
    whole, rest = divmod(amount_micro, MICRO_PER_UNIT)
    return f"{whole}.{rest:06}".rstrip("0") if rest else str(whole)


def money(amount_micro: int) -> str:
    """`1,234.5 units (1234500000 micro)`."""
    sign = "-" if amount_micro < 0 else ""
    units, rest = divmod(abs(amount_micro), MICRO_PER_UNIT)
    fraction = f".{rest:06}".rstrip("0") if rest else ""
    return f"{sign}{units:,}{fraction} units ({amount_micro} micro)"


def listed(texts: list[str]) -> list[str]:
    """The first of them, and how many more there are."""
    more = [f"and {len(texts) - LISTED_MAX} more"] if len(texts) > LISTED_MAX else []
    return texts[:LISTED_MAX] + more


def is_usage_error(refusal: Problem) -> bool:
    """The token or the URL is the trouble, not what was asked for."""
    return refusal.status in (401, 403) or refusal.code == NotFound.code


def facts_of(refusal: Problem) -> dict[str, Any]:
    """The members that explain this refusal, by their names on the wire, beyond those that every problem has."""
    return {camel(name): value for name, value in refusal.extensions.items() if name != "errors"}


def errors_of(refusal: Problem) -> list[tuple[str, str]]:
    """What is wrong with the request: paths and messages."""
    return [(error.path, error.message) for error in refusal.extensions.get("errors", ())]


def refusal_text(refusal: Problem, url: str) -> str:
    """The refusal with all that explains it, a line each; one line, with what to do, where the token or the URL is wrong."""
    summary = escaped(f"{refusal.code} ({refusal.status}): {refusal.detail}")
    if is_usage_error(refusal):
        return f"{summary}; {_advice(refusal, url)}"
    reasons: list[str] = []
    for name, value in facts_of(refusal).items():
        members = value if isinstance(value, list) else [value]
        reasons += listed([f"{name}: {_fact_text(name, member)}" for member in members])
    errors = [f"{path}: {message}" for path, message in errors_of(refusal)]
    reasons += listed([error for error in errors if error not in refusal.detail])
    return "\n  ".join([summary, *map(escaped, reasons)])


def _advice(refusal: Problem, url: str) -> str:
    match refusal.status:
        case 401:
            return "tokens do not live long: `minibill token` prints a new one"
        case 403:
            return "`minibill token` prints one that may do everything, or what --scope names"
        case _:
            # What is asked for is at a path that every minibill has.
            return f"is the URL right? {url} should be where minibill listens, such as http://127.0.0.1:8080"


def _fact_text(name: str, value: object) -> str:
    if isinstance(value, dict) and "path" in value:
        others = [_fact_text(key, member) for key, member in value.items() if key != "path"]
        return f"{value['path']}: {', '.join(others)}"
    if isinstance(value, str):
        return money(int(value)) if name.endswith("Micro") and re.fullmatch("-?[0-9]{1,30}", value) else value
    return msgspec.json.encode(value).decode()


# --- for programs ---


def print_json(value: dict[str, Any] | ResponseBody, *, dry_run: bool = False) -> None:
    """The answer to --json: one line on stdout."""
    click.echo(escaped_json(msgspec.to_builtins(value) | ({"dryRun": True} if dry_run else {})))


def escaped_json(value: Any) -> str:
    """JSON in which characters that could change what a terminal shows are `\\uXXXX`; it says the same."""
    text = msgspec.json.encode(value).decode()
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)
