"""`minibill campaign`: makes, changes and shows campaigns on a running service, over HTTP.

The `import` command is in campaign_import.py. Results go to stdout; notes, faults and the progress bar to stderr.
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
from minibill.cli.output import access_options, campaign_argument, escaped, grant_id_of, money, print_json
from minibill.cli.service import asked_service
from minibill.core.money import parse_micro

# --- options ---


def micro_amount(text: str) -> int:
    """An amount in micro-units."""
    try:
        return parse_micro(text)
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected micro-units, a whole number such as 1000000 (1 unit)") from None


def json_object(text: str) -> dict[str, Any]:
    """A JSON object."""
    try:
        decoded = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}") from None
    if not isinstance(decoded, dict):
        raise click.BadParameter("expected a JSON object such as '{\"ratioBps\": 5000}'")
    return decoded


# --- commands ---


@click.group(short_help="Campaigns on a running service: create, activate, import, show, revoke.")
def campaign() -> None:
    """Campaigns on a running service: make one, open it, pay a list, look at it.

    \b
    export MINIBILL_TOKEN=$(minibill token)
    id=$(minibill campaign create "Summer" --type promotional --budget 1000000000 --quiet)
    minibill campaign activate "$id"
    minibill campaign import "$id" wallets.csv --account-column wallet --entity-type person --amount-column amount
    minibill campaign show "$id"
    minibill campaign stats "$id"

    Amounts in options are micro-units (1 unit = 1,000,000 micro); amounts in lists are units.
    """


@campaign.command()
@click.argument("name")
@click.option("--type", "campaign_type", type=click.Choice(get_args(CampaignType)), required=True, help="Kind of campaign.")
@click.option("--budget", type=micro_amount, metavar="MICRO", required=True, help="All that it may pay, in micro-units.")
@click.option("--formula", type=click.Choice(get_args(Formula)), help="What a grant comes to. [default: fixed_amount]")
@click.option("--config", type=json_object, metavar="JSON", help="The formula's config, as JSON.")
@click.option("--pool", help="Pool that the credits go to. [default: general]")
@click.option(
    "--cap", type=micro_amount, metavar="MICRO", help="The most for one wallet, in micro-units. [default: 5000000]"
)
@click.option("--starts-at", metavar="TIME", help="Pays nothing before; RFC 3339, such as 2027-01-31T12:00:00Z.")
@click.option("--expires-at", metavar="TIME", help="Pays nothing from then on.")
@click.option(
    "--grant-ttl",
    type=click.IntRange(min=1),
    metavar="SECONDS",
    help="How long granted credits live. [default: for ever]",
)
@click.option("--description", help="For people.")
@click.option("--dry-run", is_flag=True, help="Have the service judge it, and change nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Print the id and nothing else.")
@access_options
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
    """Make a campaign called NAME. It is a draft and pays nothing until it is activated.

    \b
    minibill campaign create "CRV losses" --type reverse_airdrop --budget 5000000000 \\
        --formula proportional_loss --config '{"ratioBps": 10000, "minLossMicro": "10000"}'
    id=$(minibill campaign create "Summer" --type promotional --budget 1000000000 --quiet)
    """
    if quiet and as_json:
        raise click.UsageError("--quiet and --json exclude each other")
    with asked_service(url, token) as client:
        made = client.create_campaign(
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
    if as_json:
        print_json(made, dry_run=dry_run)
    elif dry_run:
        # The id is not printed: no such campaign remains.
        click.echo(
            f"dry run: {escaped(made.name)} would be created with a budget of {money(int(made.budget_micro))}", err=quiet
        )
    elif quiet:
        click.echo(made.id)
    else:
        click.echo(f"{made.id} created as a {made.status}: {escaped(made.name)}, budget {money(int(made.budget_micro))}")
        click.echo(f"next: minibill campaign activate {made.id}")


@campaign.command()
@campaign_argument
@access_options
def activate(*, campaign_id: str, url: str, token: str, as_json: bool) -> None:
    """Open a draft or paused CAMPAIGN: from now on it pays.

    \b
    minibill campaign activate camp_0000000000001
    """
    with asked_service(url, token) as client:
        changed = client.activate_campaign(campaign_id)
    _tell_change(changed, as_json=as_json)


@campaign.command()
@campaign_argument
@access_options
def pause(*, campaign_id: str, url: str, token: str, as_json: bool) -> None:
    """Stop an active CAMPAIGN from paying until it is activated again.

    \b
    minibill campaign pause camp_0000000000001
    """
    with asked_service(url, token) as client:
        changed = client.pause_campaign(campaign_id)
    _tell_change(changed, as_json=as_json)


@campaign.command()
@campaign_argument
@access_options
def complete(*, campaign_id: str, url: str, token: str, as_json: bool) -> None:
    """End a CAMPAIGN for good. It never pays again; what it granted stays.

    \b
    minibill campaign complete camp_0000000000001
    """
    with asked_service(url, token) as client:
        changed = client.complete_campaign(campaign_id)
    _tell_change(changed, as_json=as_json)


@campaign.command()
@campaign_argument
@access_options
def show(*, campaign_id: str, url: str, token: str, as_json: bool) -> None:
    """Show a CAMPAIGN: its state, its formula, and how much of the budget is spent.

    \b
    minibill campaign show camp_0000000000001
    minibill campaign show camp_0000000000001 --json | jq -r .remainingMicro
    """
    with asked_service(url, token) as client:
        shown = client.campaign(campaign_id)
    if as_json:
        print_json(shown)
    else:
        _print_campaign(shown)


@campaign.command()
@campaign_argument
@click.option("--grant", "grant_id", metavar="GRANT", type=grant_id_of, help="This grant alone. [default: all of them]")
@click.option("--reason", required=True, help="Why; it stays with the grants and in the audit log.")
@click.option("--dry-run", is_flag=True, help="Have the service say what it would take back, and change nothing.")
@access_options
def revoke(
    *, campaign_id: str, grant_id: str | None, reason: str, dry_run: bool, url: str, token: str, as_json: bool
) -> None:
    """Take back what CAMPAIGN granted and nobody has consumed or reserved. What is reserved is taken as it comes back.

    A revoked account is never paid by this campaign again. Safe to run again: what was revoked stays as it was.

    \b
    minibill campaign revoke camp_0000000000001 --grant grant_0000000000001 --reason "not a person"
    minibill campaign revoke camp_0000000000001 --reason "wrong list" --dry-run
    """
    revoked: RevokedGrant | RevokedCampaign
    with asked_service(url, token) as client:
        if grant_id is not None:
            revoked, what = client.revoke_grant(campaign_id, grant_id, reason, dry_run=dry_run), grant_id
        else:
            revoked = client.revoke_campaign(campaign_id, reason, dry_run=dry_run)
            what = f"{revoked.total_revoked} grants of {campaign_id}"
    if as_json:
        print_json(revoked, dry_run=dry_run)
        return
    click.echo(f"dry run: {what} would be revoked" if dry_run else f"{what} revoked")
    click.echo(f"{'taken back':<11}{money(int(revoked.revoked_micro))}")
    click.echo(f"{'consumed':<11}{money(int(revoked.consumed_micro))}")
    click.echo(f"{'reserved':<11}{money(int(revoked.reserved_micro))}")


@campaign.command()
@campaign_argument
@access_options
def stats(*, campaign_id: str, url: str, token: str, as_json: bool) -> None:
    """Say what became of the credits that CAMPAIGN granted.

    \b
    minibill campaign stats camp_0000000000001
    minibill campaign stats camp_0000000000001 --json | jq -r .consumedMicro
    """
    with asked_service(url, token) as client:
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


def _tell_change(changed: Campaign, *, as_json: bool) -> None:
    if as_json:
        print_json(changed)
    else:
        click.echo(
            f"{changed.id} is {changed.status}: {escaped(changed.name)}, {money(int(changed.remaining_micro))} left to pay"
        )


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
        "credits": f"live {shown.grant_ttl_seconds} seconds" if shown.grant_ttl_seconds else "never expire",
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
