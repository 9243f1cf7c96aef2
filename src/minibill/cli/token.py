"""`minibill token`: sign a token with the configured secret."""

import os
from pathlib import Path

import click

from minibill.auth.callers import CallerKind
from minibill.auth.scopes import ALL_SCOPES, EVERYTHING
from minibill.auth.tokens import SERVICE_TOKEN_MAX_TTL, SUBJECT_CHARACTERS_MAX, sign_token
from minibill.cli.dev import dev_secrets
from minibill.cli.help import Command
from minibill.cli.options import file_path, json_option
from minibill.cli.output import print_json
from minibill.config import SECRET_BYTES_MIN, ConfigurationError, SettingMissing, read_settings


@click.command(
    cls=Command,
    short_help="Sign a token and print it",
    examples="""
        minibill token                      # all scopes, one hour
        minibill token --sub ada --scope admin:billing:read --ttl 600
        minibill token --service            # for /api/internal/billing, five minutes
    """,
)
@click.option("--sub", help="Subject of the token.  [default: operator, or service with --service]")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(ALL_SCOPES), help="Permission to add; repeatable.")
@click.option("--ttl", type=click.IntRange(min=1), help="Lifetime in seconds.  [default: the longest accepted]")
@click.option("--service", is_flag=True, help="Sign a service token, which has no scopes.")
@click.option(
    "--db",
    type=click.Path(path_type=Path),
    callback=file_path,
    default=Path("minibill.db"),
    envvar="MINIBILL_DB",
    show_default=True,
    show_envvar=True,
    help="Database whose development secrets to use if the environment has none.",
)
@json_option
def token(*, sub: str | None, scopes: tuple[str, ...], ttl: int | None, service: bool, db: Path, as_json: bool) -> None:
    """Sign a token and print it.

    The secret is BILLING_ADMIN_JWT_SECRET, or BILLING_INTERNAL_JWT_SECRET with --service. Without them, the command uses
    the secrets that `minibill serve --dev` keeps next to the database.
    """
    # The secret of the other kind of token is not used, so it may be missing.
    own, other = "BILLING_ADMIN_JWT_SECRET", "BILLING_INTERNAL_JWT_SECRET"
    if service:
        own, other = other, own
    try:
        kept = {} if own in os.environ else dev_secrets(db)
        settings = read_settings({**kept, **os.environ, other: "not used".ljust(SECRET_BYTES_MIN)})
    except SettingMissing as error:
        raise click.UsageError(f"{error}, or name a database of `serve --dev` with --db") from None
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    longest = SERVICE_TOKEN_MAX_TTL if service else settings.admin_token_max_ttl
    if ttl is not None and ttl > longest:
        raise click.UsageError(f"--ttl: the service accepts at most {longest} seconds")
    if service and scopes:
        raise click.UsageError("--scope: a service token has no scopes")
    subject = sub if sub is not None else ("service" if service else "operator")
    if not subject.strip() or len(subject) > SUBJECT_CHARACTERS_MAX:
        raise click.UsageError(f"--sub: expected 1 to {SUBJECT_CHARACTERS_MAX} characters")
    kind: CallerKind = "service" if service else "admin"
    granted = list(scopes) or [EVERYTHING]
    signed = sign_token(settings, kind, sub=subject, scopes=granted, ttl=ttl or longest)
    if as_json:
        print_json({"token": signed, "sub": subject, "scopes": [] if service else granted, "ttl": ttl or longest})
    else:
        click.echo(signed)
