"""`minibill demo`: a whole campaign on a fresh database, over HTTP, with what happened printed step by step.

It starts a service of its own on a free port, in a folder that is deleted afterwards, and uses the same commands that an
operator would.
"""

import csv
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout
from decimal import Decimal
from pathlib import Path

import click
import httpx

from minibill.cli.output import own_command, print_json
from minibill.cli.verification import print_checks, summary, verdict_json
from minibill.core.money import MICRO_PER_UNIT
from minibill.db.connection import open_reader
from minibill.db.files import create
from minibill.integrity.report import Report
from minibill.integrity.verify import verify_file

WALLETS = 1_155
BUDGET_MICRO = 2_000 * MICRO_PER_UNIT
STOP_SECONDS_MAX = 15


@click.command(epilog="\b\nExamples:\n  minibill demo\n  minibill demo --keep ./demo    to look around in afterwards")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Leave the database and the list here.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON on stdout, for programs; the story goes to stderr.")
def demo(*, keep: Path | None, as_json: bool) -> None:
    """Run a whole campaign on a fresh database and print what happened.

    A reverse airdrop pays a list of 1,155 wallets what they lost, up to 5 units each, over HTTP, from a CSV file as messy as
    real ones. Then the same list is paid again, to see that nothing is paid twice; one wallet spends some of its credits and
    the rest of them is revoked; and the book is recomputed from its entries.
    """
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        campaign_id, report = _run(keep)
    if as_json:
        print_json({"campaignId": campaign_id, **verdict_json(report)})
    sys.exit(0 if report.status == "healthy" else 1)


def _run(keep: Path | None) -> tuple[str, Report]:
    with _folder(keep) as folder:
        losses = folder / "losses.csv"
        _write_losses(losses)
        with _running_service(folder / "demo.db") as (url, token):
            _tell(1, "A service runs on a fresh SQLite file", f"{url}   one process, one file")
            campaign_id = _create_campaign(url, token)
            _tell(2, "A campaign", f"{campaign_id}   reverse_airdrop, proportional_loss, 2,000 units, at most 5 a wallet")
            _tell(3, f"A list of {WALLETS:,} wallets", "columns, decimals and booleans as an export has them")
            arguments = [
                "campaign", "import", campaign_id, str(losses), "--entity-type", "person", "--account-column", "User",
                "--input-column", "lossMicro=ETH to recover", "--round", "down",
            ]  # fmt: skip
            _tell(4, "Paid", "$ minibill campaign import CAMPAIGN losses.csv --round down …")
            _minibill(url, token, *arguments)
            _tell(5, "Paid again: the same list, nothing is paid twice", "$ minibill campaign import …")
            _minibill(url, token, *arguments)
            _tell(6, "The campaign", "$ minibill campaign show CAMPAIGN")
            _minibill(url, token, "campaign", "show", campaign_id)
            account_id = _spend_of_one_wallet(url, token, losses)
            _tell(
                8,
                "Its grant is revoked: what it has not spent goes back to the budget",
                "$ minibill campaign revoke CAMPAIGN …",
            )
            arguments = ["--grant", _grant_of(url, token, campaign_id, account_id), "--reason", "not a victim"]
            _minibill(url, token, "campaign", "revoke", campaign_id, *arguments)
            _tell(9, "What became of the credits", "$ minibill campaign stats CAMPAIGN")
            _minibill(url, token, "campaign", "stats", campaign_id)
        report = _check(folder / "demo.db")
        if keep is not None:
            click.echo(f"\nThe book is in {folder / 'demo.db'}: minibill serve --dev --db {folder / 'demo.db'}")
    return campaign_id, report


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="minibill-demo-") as folder:
            yield Path(folder)
        return
    keep.mkdir(parents=True, exist_ok=True)
    for name in ("demo.db", "losses.csv"):
        if os.path.lexists(keep / name):
            raise click.UsageError(f"{keep / name} is there already; the demo wants fresh files: name another folder")
    yield keep


@contextmanager
def _running_service(db: Path) -> Iterator[tuple[str, str]]:
    """A service in a process of its own; answers its URL and an admin token."""
    command = [*own_command(), "serve", "--dev", "--db", str(db), "--port", "0"]
    # Its own log would come between the lines of the demo.
    environment = {"MINIBILL_LOG": "warning", **os.environ}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        said = ""
        while not (found := re.search(r"MINIBILL_URL=(\S+)\n.*MINIBILL_TOKEN=(\S+)\n", said)):
            line = process.stdout.readline()
            if not line:
                raise click.ClickException("the demo's service did not start")
            said += line
        try:
            yield found[1], found[2]
        finally:
            process.terminate()
            process.wait(STOP_SECONDS_MAX)


def _write_losses(file: Path) -> None:
    """A made-up list like those that a reverse airdrop starts from: many small losses, a few large ones."""
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


def _admin(url: str, token: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=f"{url}/admin/billing", headers=headers, trust_env=False)


def _minibill(url: str, token: str, *arguments: str) -> None:
    environment = {**os.environ, "MINIBILL_URL": url, "MINIBILL_TOKEN": token}
    sys.stdout.flush()
    finished = subprocess.run([*own_command(), *arguments], env=environment, stdout=sys.stdout, check=False)
    if finished.returncode != 0:
        raise click.ClickException(f"minibill {arguments[0]} {arguments[1]} ended with {finished.returncode}")


def _spend_of_one_wallet(url: str, token: str, losses: Path) -> str:
    """Answers the account that spent."""
    with losses.open(encoding="utf-8", newline="") as handle:
        wallet = max(csv.DictReader(handle), key=lambda row: Decimal(row["ETH to recover"]))["User"]
    with _admin(url, token) as http:
        query = {"entityType": "person", "entityId": wallet}
        [account] = http.get("/accounts", params=query).raise_for_status().json()["items"]
        reserved = (
            http.post(f"/accounts/{account['id']}/reservations", json={"amountMicro": "2000000"}).raise_for_status().json()
        )
        cost = {"actualCostMicro": "1250000"}
        http.post(f"/reservations/{reserved['reservationId']}/finalize", json=cost).raise_for_status()
        entries = http.get(f"/accounts/{account['id']}/history").raise_for_status().json()["items"]
    _tell(7, "One wallet spends: 2 units held before the work, 1.25 charged after it", f"{wallet}  =  {account['id']}")
    for entry in reversed(entries):
        click.echo(
            f"   entry {entry['entrySeq']}   {entry['entryType']:<9} {entry['amountMicro']:>9}   "
            f"available {entry['availableAfterMicro']:>8}   reserved {entry['reservedAfterMicro']:>8}"
        )
    account_id: str = account["id"]
    return account_id


def _grant_of(url: str, token: str, campaign_id: str, account_id: str) -> str:
    with _admin(url, token) as http:
        query = {"accountId": account_id}
        [grant] = http.get(f"/campaigns/{campaign_id}/grants", params=query).raise_for_status().json()["items"]
    grant_id: str = grant["grantId"]
    return grant_id


def _check(db: Path) -> Report:
    with closing(open_reader(db)) as conn:
        entries, lots, grants, audited = (
            conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("credit_ledger", "credit_lots", "credit_grants", "admin_audit_log")
        )
    counts = f"{entries:,} entries, {lots:,} lots, {grants:,} grants, {audited} audit rows"
    _tell(10, "The book, recomputed from its entries", f"$ minibill verify --db demo.db   {counts}")
    found = verify_file(db)
    print_checks(found)
    click.echo(f"   {summary(Path(db.name), found.report)}")
    return found.report


def _tell(number: int, what: str, more: str) -> None:
    click.secho(f"\n{number}. {what}", bold=True)
    click.echo(f"   {more}")
