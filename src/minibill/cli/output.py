"""Output of the commands: amounts and errors for people, JSON for programs, and text that is safe on a terminal."""

import json
import re
import sys
from typing import Any

import click
import msgspec

from minibill.api.types import ResponseBody
from minibill.core.money import MICRO_PER_UNIT
from minibill.core.problems import NotFound, Problem, camel

USER_AGENT = "minibill-cli"

# A longer list scrolls its first line off the screen, and that is the one to correct first. --json has all of them.
LISTED_MAX = 20

# Width of a table where no terminal names one, such as in a log.
LOG_COLUMNS = 120


class UsageError(click.ClickException):
    """The command can't run as it was given or configured. Printed as one line; exit code 2."""

    exit_code = 2


def minibill_command() -> list[str]:
    """Return the command that starts this minibill again: the single-file executable, or Python with the package."""
    return [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "minibill"]


# --- for people ---


def escaped(text: str) -> str:
    """Escape characters that could change a terminal, such as `\\x1b` or `\\u202e`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)


def units(amount_micro: int) -> str:
    """Format micro-units as a plain decimal number of units: `1234.5`."""
    whole, rest = divmod(amount_micro, MICRO_PER_UNIT)
    return f"{whole}.{rest:06}".rstrip("0") if rest else str(whole)


def money(amount_micro: int) -> str:
    """Format micro-units for people: `1,234.5 units`. Six decimals hold every amount exactly."""
    sign = "-" if amount_micro < 0 else ""
    whole, rest = divmod(abs(amount_micro), MICRO_PER_UNIT)
    fraction = f".{rest:06}".rstrip("0") if rest else ""
    return f"{sign}{whole:,}{fraction} {'unit' if (whole, rest) == (1, 0) else 'units'}"


def first_of(texts: list[str]) -> list[str]:
    """Return the first `LISTED_MAX` texts, and a line that counts the others."""
    more = [f"and {len(texts) - LISTED_MAX} more"] if len(texts) > LISTED_MAX else []
    return texts[:LISTED_MAX] + more


# --- errors of the service ---


def is_usage_error(problem: Problem) -> bool:
    """Return true if the token or the URL is wrong, rather than the request."""
    return problem.status in (401, 403) or problem.code == NotFound.code


def extensions_of(problem: Problem) -> dict[str, Any]:
    """Return the members that explain a problem, by their JSON names, without `errors`."""
    return {camel(name): value for name, value in problem.extensions.items() if name != "errors"}


def errors_of(problem: Problem) -> list[tuple[str, str]]:
    """Return path and message of each error in the request."""
    return [(error.path, error.message) for error in problem.extensions.get("errors", ())]


def problem_text(problem: Problem, url: str) -> str:
    """Format a problem: a summary, then one line for each member that explains it.

    A problem with the token or the URL is one line that states what to do.
    """
    summary = escaped(f"{problem.code} ({problem.status}): {problem.detail}")
    if is_usage_error(problem):
        return f"{summary}; {_advice(problem, url)}"
    reasons: list[str] = []
    for name, value in extensions_of(problem).items():
        members = value if isinstance(value, list) else [value]
        reasons += first_of([f"{name}: {_member_text(name, member)}" for member in members])
    errors = [f"{path}: {message}" for path, message in errors_of(problem)]
    reasons += first_of([error for error in errors if error not in problem.detail])
    return "\n  ".join([summary, *map(escaped, reasons)])


def _advice(problem: Problem, url: str) -> str:
    match problem.status:
        case 401:
            return "the token may have expired; run `minibill token` for a new one"
        case 403:
            return "run `minibill token` for a token with all scopes, or name the scope with --scope"
        case _:
            # Every minibill has the paths that the commands use.
            return f"check the URL: {url} should be the address of minibill, such as http://127.0.0.1:8080"


def _member_text(name: str, value: object) -> str:
    if isinstance(value, dict) and "path" in value:
        others = [_member_text(key, member) for key, member in value.items() if key != "path"]
        return f"{value['path']}: {', '.join(others)}"
    if isinstance(value, str):
        return money(int(value)) if name.endswith("Micro") and re.fullmatch("-?[0-9]{1,30}", value) else value
    return msgspec.json.encode(value).decode()


# --- for programs ---


def print_json(value: dict[str, Any] | ResponseBody, *, dry_run: bool = False) -> None:
    """Print one line of JSON on stdout."""
    click.echo(escaped_json(msgspec.to_builtins(value) | ({"dryRun": True} if dry_run else {})))


def escaped_json(value: Any) -> str:
    """Encode JSON, with characters that could change a terminal as `\\uXXXX`."""
    text = msgspec.json.encode(value).decode()
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)
