"""`minibill clock`: the command against the real application."""

import functools
import json
from collections.abc import Callable

import click.testing
import pytest

from minibill.cli import service
from minibill.cli.clock import clock
from minibill.client import Client
from minibill.core.clock import US_PER_SECOND, format_time
from tests.api_client import Api
from tests.cli.test_campaign_commands import URL, Line
from tests.ledger.test_clock import HOUR, START_US, Machine, ready

EARLY, LATE = format_time(START_US), format_time(START_US + HOUR * US_PER_SECOND)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def api(machine: Machine, start: Callable[..., Api]) -> Api:
    return start()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, api: Api) -> Callable[..., click.testing.Result]:
    """Runs `minibill clock …` to its end."""
    monkeypatch.setattr(service, "Client", functools.partial(Client, transport=Line(api)))

    def run(*arguments: str, exit_code: int = 0, token: str | None = None) -> click.testing.Result:
        access = ["--url", URL, "--token", token or api.token]
        result = click.testing.CliRunner().invoke(clock, [*arguments, *access])
        assert result.exit_code == exit_code, result.output
        return result

    return run


def test_a_jump_is_accepted(run: Callable[..., click.testing.Result], machine: Machine, api: Api) -> None:
    machine.jump(HOUR)
    assert "clock" in ready(api)
    assert run("accept").stdout == f"the book's time moved from {EARLY} to {LATE}\n"
    assert ready(api) == {"status": "ready"}
    assert run("accept").stdout == f"nothing to accept: the book's time is {LATE}\n"


def test_a_dry_run_says_where_the_time_would_go(
    run: Callable[..., click.testing.Result], machine: Machine, api: Api
) -> None:
    machine.jump(HOUR)
    assert run("accept", "--dry-run").stdout == f"dry run: the book's time would move from {EARLY} to {LATE}\n"
    assert json.loads(run("accept", "--dry-run", "--json").stdout) == {"before": EARLY, "now": LATE, "dryRun": True}
    assert "clock" in ready(api)


def test_programs_are_answered_in_json(run: Callable[..., click.testing.Result], machine: Machine) -> None:
    machine.jump(HOUR)
    assert json.loads(run("accept", "--json").stdout) == {"before": EARLY, "now": LATE}


def test_a_token_that_may_not_is_named_in_one_line(run: Callable[..., click.testing.Result], api: Api) -> None:
    result = run("accept", token=api.sign(scopes=("admin:billing:read",)), exit_code=2)
    assert "insufficient_scope (403)" in result.stderr and "admin:ops:write" in result.stderr
    assert result.stderr.count("\n") == 1
