"""`minibill demo`: a whole campaign on a fresh database, over HTTP, printed step by step.

The demo starts a service on a free port, in a temporary folder, and runs the commands that an operator would run.
"""

import csv
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout
from decimal import Decimal
from pathlib import Path
from typing import TextIO

import click
import httpx

from minibill.cli.help import Command
from minibill.cli.output import minibill_command, money, print_json
from minibill.cli.verification import print_checks, report_json, summary
from minibill.core.money import MICRO_PER_UNIT
from minibill.db.connection import open_reader
from minibill.db.files import create
from minibill.integrity.report import Report
from minibill.integrity.verify import verify_file

WALLETS = 1_155
BUDGET_MICRO = 2_000 * MICRO_PER_UNIT
STOP_SECONDS_MAX = 15


@click.command(
    cls=Command,
    short_help="Run a whole campaign on a fresh database",
    exit_codes={0: "the database is healthy", 1: "a step failed", 2: "wrong usage"},
    examples="""
        minibill demo
        minibill demo --keep ./demo    # keeps the database, to look at it afterwards
    """,
)
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Folder in which to keep the database.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout, and the steps on stderr.")
def demo(*, keep: Path | None, as_json: bool) -> None:
    """Run a whole campaign on a fresh database and print each step.

    A reverse airdrop pays 1,155 wallets their losses, at most 5 units each, from a CSV file. Paying the same list again
    pays nobody twice. One wallet spends some of its credits, and its grant is revoked. Finally, all balances are recomputed
    from the ledger entries.
    """
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        campaign_id, report = _run(keep)
    if as_json:
        print_json({"campaignId": campaign_id, **report_json(report)})
    sys.exit(0 if report.status == "healthy" else 1)


def _run(keep: Path | None) -> tuple[str, Report]:
    with _folder(keep) as folder:
        losses = folder / "losses.csv"
        _write_losses(losses)
        with _running_service(folder / "demo.db") as (url, token):
            _step(1, "A service on a fresh SQLite file", f"{url}   one process, one file")
            campaign_id = _create_campaign(url, token)
            _step(2, "A campaign", f"{campaign_id}   reverse_airdrop, proportional_loss, 2,000 units, at most 5 per wallet")
            _step(3, f"A list of {WALLETS:,} wallets", "with the columns, decimals and booleans of an export")
            _step(4, "Pay the list", "$ minibill campaign import CAMPAIGN losses.csv --round down …")
            _import(url, token, campaign_id, losses)
            _step(5, "Pay the same list again: nobody is paid twice", "$ minibill campaign import CAMPAIGN losses.csv …")
            _import(url, token, campaign_id, losses)
            _step(6, "Show the campaign", "$ minibill campaign show CAMPAIGN")
            _minibill(url, token, "campaign", "show", campaign_id)
            account_id = _spend(url, token, losses)
            _step(8, "Revoke its grant: unspent credits return to the budget", "$ minibill campaign revoke CAMPAIGN …")
            grant_id = _grant_of(url, token, campaign_id, account_id)
            _minibill(url, token, "campaign", "revoke", campaign_id, "--grant", grant_id, "--reason", "not a victim")
            _step(9, "Show the use of the credits", "$ minibill campaign stats CAMPAIGN")
            _minibill(url, token, "campaign", "stats", campaign_id)
        report = _verify(folder / "demo.db")
        if keep is not None:
            click.echo(f"\nThe database is {folder / 'demo.db'}: minibill serve --dev --db {folder / 'demo.db'}")
    return campaign_id, report


# --- the folder and the service ---


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="minibill-demo-") as folder:
            yield Path(folder)
        return
    keep.mkdir(parents=True, exist_ok=True)
    for name in ("demo.db", "losses.csv"):
        if os.path.lexists(keep / name):
            raise click.UsageError(f"{keep / name} exists already; the demo needs fresh files: name another folder")
    yield keep


@contextmanager
def _running_service(db: Path) -> Iterator[tuple[str, str]]:
    """Start a service in a process of its own. Yield its URL and an admin token."""
    command = [*minibill_command(), "serve", "--dev", "--db", str(db), "--port", "0"]
    # The service's log would interleave with the demo's output.
    environment = {"MINIBILL_LOG": "warning", **os.environ}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        output = ""
        while not (match := re.search(r"MINIBILL_URL=(\S+)\n.*MINIBILL_TOKEN=(\S+)\n", output)):
            line = process.stdout.readline()
            if not line:
                raise click.ClickException("the demo's service did not start")
            output += line
        try:
            yield match[1], match[2]
        finally:
            process.terminate()
            process.wait(STOP_SECONDS_MAX)


# --- the steps ---


def _step(number: int, title: str, more: str) -> None:
    click.secho(f"\n{number}. {title}", bold=True)
    click.echo(f"   {more}")


def _write_losses(file: Path) -> None:
    """Write a made-up list like that of a real reverse airdrop: many small losses, a few large ones."""
    chance = random.Random(2023)  # noqa: S311 - the same list every time, not a secret
    with os.fdopen(create(file), "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["", "User", "ETH before hack", "% not recovered by user", "is_multisig", "ETH to recover"])
        for number in range(WALLETS):
            before = chance.lognormvariate(-1.5, 3)
            wallet = f"0x{chance.getrandbits(160):040x}"
            writer.writerow([number, wallet, f"{before:.15f}", "100.0", chance.random() < 0.05, f"{before * 0.866:.16f}"])


def _create_campaign(url: str, token: str) -> str:
    with _admin(url, token) as http:
        body = {
            "name": "Made whole",
            "campaignType": "reverse_airdrop",
            "budgetMicro": str(BUDGET_MICRO),
            "grantFormula": "proportional_loss",
            "grantConfig": {"ratioBps": 10000, "minLossMicro": "10000"},
        }
        campaign_id: str = http.post("/campaigns", json=body).raise_for_status().json()["id"]
        http.post(f"/campaigns/{campaign_id}/activate").raise_for_status()
    return campaign_id


def _import(url: str, token: str, campaign_id: str, losses: Path) -> None:
    """Pay the list, and print counts and exceptions. The command itself would also list the lines of paid rows."""
    output = _minibill_output(
        url, token, "campaign", "import", campaign_id, str(losses), "--entity-type", "person", "--account-column", "User",
        "--input-column", "lossMicro=ETH to recover", "--round", "down", "--json",
    )  # fmt: skip
    result = json.loads(output)
    reasons = Counter(row["reason"] for row in result["rows"] if row["status"] == "skipped")
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    click.echo(f"granted     {result['totalGranted']:,} ({money(int(result['totalAmountMicro']))})")
    click.echo(f"duplicates  {result['totalDuplicates']:,}")
    click.echo(f"skipped     {result['totalSkipped']:,}" + (f" ({skipped})" if skipped else ""))
    click.echo(f"failed      {result['totalFailed']:,}")
    click.echo(f"remaining   {money(int(result['remainingMicro']))}")
    if not result["totalGranted"]:
        click.echo("nothing new was paid")


def _spend(url: str, token: str, losses: Path) -> str:
    """Let the wallet with the largest loss spend some credits. Return its account id."""
    with losses.open(encoding="utf-8", newline="") as handle:
        wallet = max(csv.DictReader(handle), key=lambda row: Decimal(row["ETH to recover"]))["User"]
    with _admin(url, token) as http:
        query = {"entityType": "person", "entityId": wallet}
        [account] = http.get("/accounts", params=query).raise_for_status().json()["items"]
        price, cost = {"amountMicro": "2000000"}, {"actualCostMicro": "1250000"}
        reservation = http.post(f"/accounts/{account['id']}/reservations", json=price).raise_for_status().json()
        http.post(f"/reservations/{reservation['reservationId']}/finalize", json=cost).raise_for_status()
        entries = http.get(f"/accounts/{account['id']}/history").raise_for_status().json()["items"]
    _step(7, "One wallet spends: reserves 2 units before the work, pays 1.25 after it", f"{wallet}  =  {account['id']}")
    for entry in reversed(entries):
        amount, available, reserved = (
            money(int(entry[member])) for member in ("amountMicro", "availableAfterMicro", "reservedAfterMicro")
        )
        click.echo(
            f"   entry {entry['entrySeq']}   {entry['entryType']:<9}{amount:>12}   available {available:>10}   "
            f"reserved {reserved:>10}"
        )
    account_id: str = account["id"]
    return account_id


def _grant_of(url: str, token: str, campaign_id: str, account_id: str) -> str:
    with _admin(url, token) as http:
        query = {"accountId": account_id}
        [grant] = http.get(f"/campaigns/{campaign_id}/grants", params=query).raise_for_status().json()["items"]
    grant_id: str = grant["grantId"]
    return grant_id


def _verify(db: Path) -> Report:
    with closing(open_reader(db)) as conn:
        entries, lots, grants, audited = (
            conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("credit_ledger", "credit_lots", "credit_grants", "admin_audit_log")
        )
    counts = f"{entries:,} entries, {lots:,} lots, {grants:,} grants, {audited} audit rows"
    _step(10, "Recompute all balances from the ledger entries", f"$ minibill verify --db demo.db   {counts}")
    verified = verify_file(db)
    print_checks(verified)
    click.echo(f"   {summary(Path(db.name), verified.report)}")
    return verified.report


# --- requests and commands ---


def _admin(url: str, token: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=f"{url}/admin/billing", headers=headers, trust_env=False)


def _minibill(url: str, token: str, *arguments: str) -> None:
    """Run a command that prints on this command's output. An error ends the demo."""
    _run_minibill(url, token, arguments, stdout=sys.stdout)


def _minibill_output(url: str, token: str, *arguments: str) -> str:
    """Run a command and return its output. An error ends the demo."""
    return _run_minibill(url, token, arguments, stdout=subprocess.PIPE)


def _run_minibill(url: str, token: str, arguments: tuple[str, ...], *, stdout: int | TextIO) -> str:
    environment = {**os.environ, "MINIBILL_URL": url, "MINIBILL_TOKEN": token}
    sys.stdout.flush()
    finished = subprocess.run([*minibill_command(), *arguments], env=environment, stdout=stdout, text=True, check=False)
    if finished.returncode != 0:
        raise click.ClickException(f"minibill {arguments[0]} {arguments[1]} ended with {finished.returncode}")
    return finished.stdout or ""
