"""Generator of the reference pages for settings, commands and metrics, from the code that defines them.

`make reference` writes the pages. `tests/cli/test_help.py` fails when a page differs from its code.
"""

import asyncio
import inspect
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
from prometheus_client import ProcessCollector
from prometheus_client.core import Metric

from minibill.app import make_state
from minibill.book import Book
from minibill.cli import dev
from minibill.cli.help import Command, Group
from minibill.cli.main import main
from minibill.config import OTHER_VARIABLES, SETTINGS, Setting, read_settings
from minibill.metrics.prometheus import SOURCES
from minibill.metrics.totals import UNKNOWN

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "reference"

GENERATED = "<!-- Generated from the code by `make reference`. -->\n"


def table(header: str, rows: Sequence[tuple[str, ...]]) -> str:
    """Format a Markdown table. `header` holds the names of the columns, separated by commas."""
    columns = [column.strip() for column in header.split(",")]
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def sentence(text: str) -> str:
    """Start a text with a capital letter, and end it without a full stop, as cells do."""
    text = text.rstrip(".")
    return text[:1].upper() + text[1:]


# --- settings ---

SETTINGS_INTRO = """\
# Settings

minibill reads its settings from environment variables when it starts. A wrong value stops the start with one line that
names the variable. A variable that begins with `MINIBILL_` or `BILLING_` and is no setting causes a warning.
`minibill serve --help` prints the same list.

```sh
export BILLING_ADMIN_JWT_SECRET="$(openssl rand -base64 48)"
export BILLING_INTERNAL_JWT_SECRET="$(openssl rand -base64 48)"
minibill serve --db /var/lib/credits.db
```
"""

DEVELOPMENT = """\
## Development

`minibill serve --dev` needs no settings. It creates these secrets unless the environment sets them: {}.
It keeps them in `FILE.secrets` next to the database. It also allows browsers to call from every web page that this machine
serves, and it changes these defaults:
"""

SECTIONS = {
    "Secrets": (
        "BILLING_ADMIN_JWT_SECRET", "BILLING_ADMIN_JWT_SECRET_PREV", "BILLING_INTERNAL_JWT_SECRET",
        "BILLING_INTERNAL_JWT_SECRET_PREV",
    ),
    "Tokens": (
        "MINIBILL_ADMIN_JWT_ISSUER", "MINIBILL_ADMIN_JWT_AUDIENCE", "MINIBILL_INTERNAL_JWT_ISSUER",
        "MINIBILL_INTERNAL_JWT_AUDIENCE", "MINIBILL_ADMIN_TOKEN_MAX_TTL",
    ),
    "Billing": ("MINIBILL_BILLING_MODE", "MINIBILL_SERVICE_BILLING_MODES"),
    "Limits": (
        "MINIBILL_CEILING_MICRO", "MINIBILL_MAX_BODY_BYTES", "MINIBILL_ADMIN_RATE_PER_MINUTE",
        "MINIBILL_SERVICE_RATE_PER_MINUTE",
    ),
    "Ledger": ("MINIBILL_RECONCILE_SECONDS", "MINIBILL_CHECKPOINT_PAGES", "MINIBILL_CLOCK_JUMP_SECONDS"),
    "Network": ("MINIBILL_TRUSTED_PROXIES", "MINIBILL_KEEP_ALIVE_SECONDS", "MINIBILL_CORS_ORIGINS"),
    "Webhooks": ("MINIBILL_WEBHOOK_SECRET", "MINIBILL_WEBHOOK_SECRET_PREV", "MINIBILL_WEBHOOK_ALLOW_NETWORKS"),
    "Logs": ("MINIBILL_LOG", "MINIBILL_ACCESS_LOG"),
}  # fmt: skip


def settings_page() -> str:
    """Return docs/reference/settings.md."""
    by_variable = {setting.variable: setting for setting in SETTINGS}
    listed = [variable for section in SECTIONS.values() for variable in section]
    assert sorted(listed) == sorted(by_variable), "every setting stands in one section"
    parts = [
        GENERATED,
        SETTINGS_INTRO,
    ]
    for title, variables in SECTIONS.items():
        rows = [_setting_row(by_variable[variable]) for variable in variables]
        parts += [f"## {title}\n", table("variable, default, unit, meaning", rows)]
    parts += ["## Options of commands\n", "Each of these is the default of a command-line option.\n", _variables_table()]
    secrets = ", ".join(f"`{name}`" for name in dev.SECRETS)
    parts += [
        DEVELOPMENT.format(secrets),
        table("variable, default with --dev", [(f"`{name}`", f"`{value}`") for name, value in dev.DEFAULTS.items()]),
    ]
    return "\n".join(parts)


def _setting_row(setting: Setting) -> tuple[str, ...]:
    default = {None: "required", "": "none"}.get(setting.default) or f"`{setting.default}`"
    return f"`{setting.variable}`", default, setting.unit, sentence(setting.reason)


def _variables_table() -> str:
    options: dict[str, tuple[click.Option, list[str]]] = {}
    for path, command in commands():
        for option in command.params:
            if isinstance(option, click.Option) and isinstance(option.envvar, str):
                options.setdefault(option.envvar, (option, []))[1].append(path.split()[1])
    assert options.keys() == OTHER_VARIABLES
    rows = []
    for variable, (option, users) in options.items():
        names = ", ".join(f"`{name}`" for name in dict.fromkeys(users))
        default = f"`{option.default}`" if isinstance(option.default, str | int | Path) else "none"
        rows.append((f"`{variable}`", f"`{option.opts[0]}`", default, names))
    return table("variable, option, default, commands", rows)


# --- commands ---

CLI_INTRO = """\
# Command line

`minibill` serves the API, maintains database files, and manages campaigns on a running service over HTTP.
`python -m minibill` is the same command.

- Results go to stdout. Notes, errors and progress bars go to stderr.
- `--json` prints JSON for programs.
- Exit codes are 0 for done, 1 for a negative result, and 2 for wrong usage or configuration. With exit code 2, one line on
  stderr states what to do.
- `-h` or `--help` explains a command. `--version` prints version, commit and SQLite.
"""


def commands(group: click.Group = main, prefix: str = "minibill") -> Iterator[tuple[str, click.Command]]:
    """Yield every command and group below a group, with its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None and command.name == name
        yield f"{prefix} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")


def cli_page() -> str:
    """Return docs/reference/cli.md."""
    rows = [
        (f"[`{path}`](#{path.replace(' ', '-')})", command.short_help or "")
        for path, command in commands()
        if not isinstance(command, click.Group)
    ]
    parts = [
        GENERATED,
        CLI_INTRO,
        table("command, purpose", rows),
    ]
    for path, command in commands():
        parts += list(_command_parts(path, command))
    return "\n".join(parts)


def _command_parts(path: str, command: click.Command) -> Iterator[str]:
    assert isinstance(command, Command | Group), path
    context = click.Context(command, info_name=path)
    yield f"{'#' * (len(path.split()))} {path}\n"
    if isinstance(command, Command):
        yield f"```text\n{context.command_path} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    yield _markdown(command.help or "")
    rows = [_option_row(option, context) for option in command.params if isinstance(option, click.Option)]
    if rows:
        yield table("option, default, meaning", rows)
    if command.params and any(setting.variable in (command.epilog or "") for setting in SETTINGS):
        yield "Its settings are on the page [Settings](settings.md).\n"
    if isinstance(command, Command):
        yield table("exit code, meaning", [(str(code), text) for code, text in command.exit_codes.items()])
    yield f"```sh\n{command.examples}\n```\n"


def _markdown(text: str) -> str:
    """Turn a help text into Markdown. A paragraph that keeps its lines becomes a block of code."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n".join(
        f"```text\n{paragraph.removeprefix(chr(8) + chr(10))}\n```\n" if paragraph.startswith("\b") else f"{paragraph}\n"
        for paragraph in paragraphs
    )


def _option_row(option: click.Option, context: click.Context) -> tuple[str, ...]:
    names = ", ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" {option.make_metavar(context)}"
    text = option.help or ""
    default = "required" if option.required else ""
    if match := re.search(r"\s*\[default: (.*)\]$", text):
        text, default = text[: match.start()], match[1]
    elif not option.is_flag and not option.multiple and isinstance(option.default, str | int | Path):
        default = f"`{option.default}`"
    if option.envvar:
        default = f"{default}, or `{option.envvar}`".removeprefix(", or ")
    return f"`{names}{value}`", default, sentence(text)


# --- metrics ---

METRICS_INTRO = """\
# Metrics

`GET /metrics` returns what the process counts as Prometheus text. It needs no token and names no account. If the totals of
the ledger are confidential, keep the port private. [Monitoring](../operating/monitoring.md) has alert rules.

```sh
curl -fsS http://127.0.0.1:8080/metrics
```
"""

LABELS = {
    "method, route": "HTTP method, and path of the route with its variables. Requests without a route have the route `none`",
    "status": "HTTP status of the response",
    "code": "Code of the problem, as in [Errors](errors.md)",
    "lane": "`request`: single writes, at most 2,000 queued. `bulk`: batches, at most 256. `background`: jobs",
    "outcome": "`accepted`, `failed` or `abandoned`",
    "check": "Name of a check of the reconciliation",
    "table": "`accounts`, `lots`, `entries`, `reservations`, `charges`, `campaigns`, `grants` or `audit`",
    "version, sqlite, python": "Versions of what is running",
}


def metrics_page() -> str:
    """Return docs/reference/metrics.md."""
    families = asyncio.run(_families())
    named = {label for family in families for label in _labels(family)}
    explained = {label for labels in LABELS for label in labels.split(", ")}
    assert named == explained, f"labels without an explanation, or explained in vain: {named ^ explained}"
    own, process = ([f for f in families if f.name.startswith(prefix)] for prefix in ("minibill_", "process_"))
    parts = [
        GENERATED,
        METRICS_INTRO,
        table("metric, type, labels, meaning", [_metric_row(family) for family in own]),
        "## Labels\n",
        table("label, meaning", list(LABELS.items())),
        "## Process\n",
        "On Linux, the Prometheus client library adds the resources of the process.\n",
        table("metric, type, meaning", [(name, kind, text) for name, kind, _, text in map(_metric_row, process)]),
    ]
    return "\n".join(parts)


async def _families() -> list[Metric]:
    settings = read_settings(dict.fromkeys(dev.SECRETS, "x" * 32))
    with tempfile.TemporaryDirectory() as folder:
        book = await Book.open(Path(folder, "book.db"))
        try:
            state = make_state(book, settings)
            families = [family for source in SOURCES for family in source(state, UNKNOWN)]
        finally:
            await book.close()
    return [*families, *ProcessCollector(registry=None).collect()]


def _metric_row(family: Metric) -> tuple[str, ...]:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return f"`{name}`", family.type, ", ".join(_labels(family)), sentence(family.documentation)


def _labels(family: Metric) -> tuple[str, ...]:
    # The library has no public name for the labels of a family without samples.
    labels: tuple[str, ...] = family._labelnames  # type: ignore[attr-defined]
    return labels


# --- files ---

PAGES: dict[str, Callable[[], str]] = {"settings.md": settings_page, "cli.md": cli_page, "metrics.md": metrics_page}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), "utf-8")
