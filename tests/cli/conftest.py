"""Fixtures that run commands against the real application, over a transport that can fail."""

import functools
from pathlib import Path
from types import SimpleNamespace

import click.testing
import pytest

from minibill.cli import campaign as commands
from minibill.cli import campaign_import, service
from minibill.client import Client
from minibill.client._sync import http
from tests.api_client import Api
from tests.cli.faulty_transport import URL, FaultyTransport, Run


@pytest.fixture
def transport(api: Api) -> FaultyTransport:
    return FaultyTransport(api)


@pytest.fixture
def waits() -> list[float]:
    """Return the list of waits in seconds. The client does not really wait."""
    return []


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, transport: FaultyTransport, waits: list[float]) -> Run:
    """Return a function that runs `minibill campaign …`: `run("show", campaign, exit_code=1)`."""
    for module in (service, campaign_import):
        monkeypatch.setattr(module, "Client", functools.partial(Client, transport=transport))
    monkeypatch.setattr(http, "time", SimpleNamespace(sleep=waits.append))

    def run(*arguments: object, exit_code: int = 0, stdin: bytes | None = None) -> click.testing.Result:
        access = ["--url", URL, "--token", transport.api.token]
        result = click.testing.CliRunner().invoke(commands.campaign, [*map(str, arguments), *access], input=stdin)
        assert result.exit_code == exit_code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return run


@pytest.fixture
def pay(run: Run, tmp_path: Path) -> Run:
    """Return a function that imports rows of (account, amount): `pay(campaign, rows, "--dry-run")`."""

    def pay(campaign: str, rows: list[tuple[str, str]], *options: object, exit_code: int = 0) -> click.testing.Result:
        path = tmp_path / "list.csv"
        path.write_text("who,amount\n" + "".join(f"{who},{amount}\n" for who, amount in rows))
        columns = ("--account-column", "who", "--amount-column", "amount")
        return run("import", campaign, path, *columns, *options, exit_code=exit_code)

    return pay
