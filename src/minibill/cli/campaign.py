"""`minibill campaign`: create, change and show campaigns on a running service, over HTTP.

The `import` command is in campaign_import.py. Results go to stdout; notes, errors and the progress bar go to stderr.
"""

import sys
from typing import Any, get_args

import click
import msgspec
from rich.console import Console
from rich.padding import Padding
from rich.progress_bar import ProgressBar

from minibill.campaigns.schemas import Campaign, CampaignType, Formula, RevokedCampaign, RevokedGrant
from minibill.cli.campaign_import import import_list
from minibill.cli.help import SERVICE_EXIT_CODES, Group
from minibill.cli.options import campaign_argument, service_options
from minibill.cli.options import grant_id as grant_id_type
from minibill.cli.output import escaped, money, print_json
from minibill.cli.service import service_client
from minibill.core.money import parse_micro

# --- options ---


def micro_amount(text: str) -> int:
    """Parse an amount in micro-units."""
    try:
        return parse_micro(text)
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected micro-units, a whole number such as 1000000 (1 unit)") from None


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        decoded = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}") from None
    if not isinstance(decoded, dict):
        raise click.BadParameter("expected a JSON object such as '{\"ratioBps\": 5000}'")
    return decoded


# --- commands ---


@click.group(
    cls=Group,
    short_help="Create campaigns, and pay lists of accounts",
    examples="""
        export MINIBILL_TOKEN=$(minibill token)
        id=$(minibill campaign create "Summer" --type promotional --budget 1000000000 --quiet)
        minibill campaign activate "$id"
        minibill campaign import "$id" wallets.csv --account-column wallet --entity-type person --amount-column amount
        minibill campaign show "$id"
        minibill campaign stats "$id"
    """,
)
def campaign() -> None:
    """Manage campaigns on a running service: create and activate one, pay a list, show its results.

    Amounts in options are micro-units (1 unit = 1,000,000 micro). Amounts in lists are units.
    """


@campaign.command(
    short_help="Create a campaign, as a draft",
    exit_codes=SERVICE_EXIT_CODES,
    examples="""
        minibill campaign create "CRV losses" --type reverse_airdrop --budget 5000000000 \\
            --formula proportional_loss --config '{"ratioBps": 10000, "minLossMicro": "10000"}'
        id=$(minibill campaign create "Summer" --type promotional --budget 1000000000 --quiet)
    """,
)
@click.argument("name")
@click.option("--type", "campaign_type", type=click.Choice(get_args(CampaignType)), required=True, help="Type of campaign.")
@click.option("--budget", type=micro_amount, metavar="MICRO", required=True, help="Budget, in micro-units.")
@click.option("--formula", type=click.Choice(get_args(Formula)), help="Formula of a grant's amount. [default: fixed_amount]")
@click.option("--config", type=json_object, metavar="JSON", help="Configuration of the formula, a JSON object.")
@click.option("--pool", help="Pool that receives the credits. [default: general]")
@click.option(
    "--cap", type=micro_amount, metavar="MICRO", help="Largest grant per wallet, in micro-units. [default: 5000000]"
)
@click.option("--starts-at", metavar="TIME", help="First moment at which it pays; RFC 3339, such as 2027-01-31T12:00:00Z.")
@click.option("--expires-at", metavar="TIME", help="Moment from which it no longer pays.")
@click.option(
    "--grant-ttl", type=click.IntRange(min=1), metavar="SECONDS", help="Lifetime of granted credits. [default: unlimited]"
)
@click.option("--description", help="Description for people.")
@click.option("--dry-run", is_flag=True, help="Have the service check the request, and change nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the campaign id.")
@service_options
def create(
    *,
    name: str,
    campaign_type: CampaignType,
    budget: int,
    formula: Formula | None,
    config: dict[str, Any] | None,
    pool: str | None,
    cap: int | None,
    starts_at: str | None,
    expires_at: str | None,
    grant_ttl: int | None,
    description: str | None,
    dry_run: bool,
    quiet: bool,
    url: str,
    token: str,
    as_json: bool,
) -> None:
    """Create a campaign called NAME. It is a draft and pays nothing until it is activated."""
    if quiet and as_json:
        raise click.UsageError("--quiet and --json exclude each other")
    with service_client(url, token) as client:
        created = client.create_campaign(
            name,
            campaign_type,
            budget,
            description=description,
            grant_formula=formula,
            grant_config=config,
            pool_id=pool,
            per_wallet_cap_micro=cap,
            starts_at=starts_at,
            expires_at=expires_at,
            grant_ttl_seconds=grant_ttl,
            dry_run=dry_run,
        )
    title, budget_text = escaped(created.name), money(int(created.budget_micro))
    if as_json:
        print_json(created, dry_run=dry_run)
    elif dry_run:
        # A dry run creates no campaign, so its id is not printed.
        click.echo(f"dry run: {title} would be created with a budget of {budget_text}", err=quiet)
    elif quiet:
        click.echo(created.id)
    else:
        click.echo(f"{created.id} created as a {created.status}: {title}, budget {budget_text}")
        click.echo(f"next: minibill campaign activate {created.id}")


@campaign.command(
    short_help="Start paying, for a draft or paused campaign",
    exit_codes=SERVICE_EXIT_CODES,
    examples="minibill campaign activate camp_0000000000001",
)
@campaign_argument
@service_options
def activate(*, campaign_id: str, url: str, token: str, as_json: bool) -> None:
    """Activate a draft or paused CAMPAIGN, so that it pays."""
    with service_client(url, token) as client:
        changed = client.activate_campaign(campaign_id)
    _print_change(changed, as_json=as_json)


@campaign.command(
    short_help="Stop paying until it is activated again",
    exit_codes=SERVICE_EXIT_CODES,
    examples="minibill campaign pause camp_0000000000001",
)
@campaign_argument
@service_options
def pause(*, campaign_id: str, url: str, token: str, as_json: bool) -> None:
    """Pause an active CAMPAIGN. It pays nothing until it is activated again."""
    with service_client(url, token) as client:
        changed = client.pause_campaign(campaign_id)
    _print_change(changed, as_json=as_json)


@campaign.command(
    short_help="End a campaign for good",
    exit_codes=SERVICE_EXIT_CODES,
    examples="minibill campaign complete camp_0000000000001",
)
@campaign_argument
@service_options
def complete(*, campaign_id: str, url: str, token: str, as_json: bool) -> None:
    """End a CAMPAIGN for good. It never pays again; its grants remain."""
    with service_client(url, token) as client:
        changed = client.complete_campaign(campaign_id)
    _print_change(changed, as_json=as_json)


@campaign.command(
    short_help="Show a campaign and its remaining budget",
    exit_codes=SERVICE_EXIT_CODES,
    examples="""
        minibill campaign show camp_0000000000001
        minibill campaign show camp_0000000000001 --json | jq -r .remainingMicro
    """,
)
@campaign_argument
@service_options
def show(*, campaign_id: str, url: str, token: str, as_json: bool) -> None:
    """Show a CAMPAIGN: its status, its formula, and how much of the budget is spent."""
    with service_client(url, token) as client:
        shown = client.campaign(campaign_id)
    if as_json:
        print_json(shown)
    else:
        _print_campaign(shown)


@campaign.command(
    short_help="Revoke unspent credits of grants",
    exit_codes=SERVICE_EXIT_CODES,
    examples="""
        minibill campaign revoke camp_0000000000001 --grant grant_0000000000001 --reason "not a person"
        minibill campaign revoke camp_0000000000001 --reason "wrong list" --dry-run
    """,
)
@campaign_argument
@click.option("--grant", "grant_id", metavar="GRANT", type=grant_id_type, help="Revoke only this grant. [default: all]")
@click.option("--reason", required=True, help="Reason, stored with the grants and in the audit log.")
@click.option("--dry-run", is_flag=True, help="Print what would be revoked, and change nothing.")
@service_options
def revoke(
    *, campaign_id: str, grant_id: str | None, reason: str, dry_run: bool, url: str, token: str, as_json: bool
) -> None:
    """Revoke the credits granted by CAMPAIGN that are neither consumed nor reserved.

    Reserved credits are revoked when they return. The campaign never pays a revoked account again. The command is safe to
    run again: grants that are revoked already stay as they are.
    """
    revoked: RevokedGrant | RevokedCampaign
    with service_client(url, token) as client:
        if grant_id is not None:
            revoked, target = client.revoke_grant(campaign_id, grant_id, reason, dry_run=dry_run), grant_id
        else:
            revoked = client.revoke_campaign(campaign_id, reason, dry_run=dry_run)
            target = f"{revoked.total_revoked} grants of {campaign_id}"
    if as_json:
        print_json(revoked, dry_run=dry_run)
        return
    click.echo(f"dry run: {target} would be revoked" if dry_run else f"{target} revoked")
    click.echo(f"{'revoked':<11}{money(int(revoked.revoked_micro))}")
    click.echo(f"{'consumed':<11}{money(int(revoked.consumed_micro))}")
    click.echo(f"{'reserved':<11}{money(int(revoked.reserved_micro))}")


@campaign.command(
    short_help="Show the use of granted credits",
    exit_codes=SERVICE_EXIT_CODES,
    examples="""
        minibill campaign stats camp_0000000000001
        minibill campaign stats camp_0000000000001 --json | jq -r .consumedMicro
    """,
)
@campaign_argument
@service_options
def stats(*, campaign_id: str, url: str, token: str, as_json: bool) -> None:
    """Show the use of the credits that CAMPAIGN granted: in total, and for each day."""
    with service_client(url, token) as client:
        shown = client.campaign_stats(campaign_id)
    if as_json:
        print_json(shown)
        return
    by_status = shown.grants_by_status
    click.echo(f"{'grants':<11}{by_status.granted + by_status.revoked}, {by_status.revoked} of them revoked")
    click.echo(f"{'accounts':<11}{shown.accounts}, {shown.accounts_that_spent} of them have spent")
    for part in ("granted", "consumed", "reserved", "available", "expired", "revoked"):
        click.echo(f"{part:<11}{money(int(getattr(shown, f'{part}_micro')))}")
    for day in shown.per_day:
        amounts = f"granted {money(int(day.granted_micro))}, consumed {money(int(day.consumed_micro))}"
        click.echo(f"{day.date:<11}{day.grants} grants, {amounts}")


campaign.add_command(import_list)


# --- for people ---


def _print_change(changed: Campaign, *, as_json: bool) -> None:
    if as_json:
        print_json(changed)
    else:
        remaining = money(int(changed.remaining_micro))
        click.echo(f"{changed.id} is {changed.status}: {escaped(changed.name)}, {remaining} of the budget remaining")


def _print_campaign(shown: Campaign) -> None:
    budget_micro, spent_micro = int(shown.budget_micro), int(shown.spent_micro)
    percent = spent_micro * 100 // budget_micro if budget_micro else 0
    config = msgspec.json.encode(shown.grant_config).decode() if shown.grant_config else ""
    rows = {
        "id": shown.id,
        "status": shown.status,
        "type": shown.campaign_type,
        "about": shown.description,
        "formula": f"{shown.grant_formula} {config}".rstrip(),
        "cap": f"{money(int(shown.per_wallet_cap_micro))} per wallet",
        "pool": shown.pool_id,
        "starts": shown.starts_at,
        "expires": shown.expires_at,
        "credits": f"expire after {shown.grant_ttl_seconds} seconds" if shown.grant_ttl_seconds else "never expire",
        "grants": str(shown.grant_count),
        "budget": money(budget_micro),
        "spent": f"{money(spent_micro)}, {percent} %",
        "remaining": money(int(shown.remaining_micro)),
    }
    click.echo(escaped(shown.name))
    for label, value in rows.items():
        if value:
            click.echo(f"{label:<11}{escaped(value)}")
    bar = ProgressBar(total=100, completed=percent, width=50)
    Console(file=sys.stdout).print(Padding(bar, (0, 0, 0, 11)))
