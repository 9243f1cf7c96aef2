"""`minibill clock` with the real application."""

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
from tests.cli.faulty_transport import URL, FaultyTransport, Run
from tests.ledger.test_clock import HOUR, START_US, Machine, ready

EARLY, LATE = format_time(START_US), format_time(START_US + HOUR * US_PER_SECOND)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def api(machine: Machine, start: Callable[..., Api]) -> Api:
    return start()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, api: Api) -> Run:
    """Return a function that runs `minibill clock …`."""
    monkeypatch.setattr(service, "Client", functools.partial(Client, transport=FaultyTransport(api)))

    def run(*arguments: str, exit_code: int = 0, token: str | None = None) -> click.testing.Result:
        access = ["--url", URL, "--token", token or api.token]
        result = click.testing.CliRunner().invoke(clock, [*arguments, *access])
        assert result.exit_code == exit_code, result.output
        return result

    return run


def test_a_jump_is_accepted(run: Run, machine: Machine, api: Api) -> None:
    machine.jump(HOUR)
    assert "clock" in ready(api)
    assert run("accept").stdout == f"the ledger's time moved from {EARLY} to {LATE}\n"
    assert ready(api) == {"status": "ready"}
    assert run("accept").stdout == f"nothing to accept: the ledger's time is {LATE}\n"


def test_a_dry_run_prints_the_time_that_would_be_accepted(run: Run, machine: Machine, api: Api) -> None:
    machine.jump(HOUR)
    assert run("accept", "--dry-run").stdout == f"dry run: the ledger's time would move from {EARLY} to {LATE}\n"
    assert json.loads(run("accept", "--dry-run", "--json").stdout) == {"before": EARLY, "now": LATE, "dryRun": True}
    assert "clock" in ready(api)


def test_accept_prints_json(run: Run, machine: Machine) -> None:
    machine.jump(HOUR)
    assert json.loads(run("accept", "--json").stdout) == {"before": EARLY, "now": LATE}


def test_a_token_without_the_scope_is_one_error_line(run: Run, api: Api) -> None:
    result = run("accept", token=api.sign(scopes=("admin:billing:read",)), exit_code=2)
    assert "insufficient_scope (403)" in result.stderr and "admin:ops:write" in result.stderr
    assert result.stderr.count("\n") == 1
