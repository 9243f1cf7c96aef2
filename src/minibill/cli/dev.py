"""What `serve --dev` does for a laptop: secrets kept beside the database, a token to paste, and a book begun anew."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from stat import S_IMODE

import click
import msgspec

from minibill.auth.scopes import EVERYTHING
from minibill.auth.tokens import sign_token
from minibill.cli.output import UsageError
from minibill.config import ConfigurationError, Settings
from minibill.db.files import OPEN_TO_OTHERS, UnsafeFile, create, open_own

SECRETS = ("BILLING_ADMIN_JWT_SECRET", "BILLING_INTERNAL_JWT_SECRET", "MINIBILL_WEBHOOK_SECRET")

# The receivers of a developer's webhooks are on the same machine.
# A developer, and the tests of one, send more requests a minute than an operator does.
DEFAULTS = {"MINIBILL_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8,::1/128", "MINIBILL_ADMIN_RATE_PER_MINUTE": "0"}


def with_dev_secrets(db: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment, with a developer's defaults and with secrets kept in `<db>.secrets` where it sets none."""
    made = dev_secrets(db, SECRETS) if any(name not in environment for name in SECRETS) else {}
    return {**DEFAULTS, **made, **environment}


def dev_secrets(db: Path, names: tuple[str, ...] = ()) -> dict[str, str]:
    """The secrets kept beside a development database; made for `names` when there are none. Only the owner may read them."""
    file = db.with_name(db.name + ".secrets")
    try:
        with os.fdopen(open_own(file, os.O_RDONLY), "rb") as handle:
            if (mode := S_IMODE(os.fstat(handle.fileno()).st_mode)) & OPEN_TO_OTHERS:
                raise ConfigurationError(
                    f"can't use {file}: its mode {mode:04o} lets other users at the secrets; delete it to have new ones "
                    "made, or, if nobody else has read it, run chmod 600"
                )
            return msgspec.json.decode(handle.read(), type=dict[str, str])
    except FileNotFoundError:
        if not names:
            return {}
    except UnsafeFile as error:
        raise ConfigurationError(f"can't use {error}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"can't read {file}: {error}; delete it to have new secrets made") from None
    made = {name: secrets.token_urlsafe(48) for name in names}
    try:
        with os.fdopen(create(file), "w", encoding="utf-8") as handle:
            json.dump(made, handle)
    except OSError as error:
        raise ConfigurationError(f"can't keep secrets in {file}: {error.strerror}") from None
    return made


def announce(url: str, settings: Settings) -> None:
    """Prints what a developer pastes next: where the service is, a token, a request, and where the API can be read."""
    token = sign_token(settings, "admin", sub="developer", scopes=[EVERYTHING], ttl=settings.admin_token_max_ttl)
    click.echo(f"\nAn admin token, good for {settings.admin_token_max_ttl // 60} minutes (minibill token makes another):\n")
    click.echo(f"export MINIBILL_URL={url}\nexport MINIBILL_TOKEN={token}\n")
    click.echo('curl -H "Authorization: Bearer $MINIBILL_TOKEN" $MINIBILL_URL/admin/billing/campaigns')
    click.echo(f"\nThe API, to read in a browser: {url}/schema/docs")


def reset(db: Path, *, sure: bool) -> None:
    """Deletes a database file with its write-ahead log, so that the next start begins with an empty one.

    Asks first unless it is `sure`. Only a book is deleted, and none that is served. The secrets stay: tokens and services
    that were set up for this file go on working.
    """
    # Imported when it is asked for: the completion of a command line has no use for a database.
    from minibill.db.connection import NotABook, open_writer
    from minibill.db.file_copy import remove
    from minibill.db.file_lock import DatabaseLocked, FileLock
    from minibill.db.files import resolve
    from minibill.db.sqlite import SqliteTooOld, sqlite3

    try:
        path = resolve(db)
        if not path.exists():
            return
        lock = FileLock(path)
    except (DatabaseLocked, OSError) as error:
        raise UsageError(f"--reset: {error}") from None
    try:
        open_writer(path).close()
        if not sure:
            click.confirm(f"Delete {path} and all that is in it ({path.stat().st_size:,} bytes)?", abort=True, err=True)
        remove(path)
    except (NotABook, SqliteTooOld, sqlite3.Error, OSError) as error:
        raise UsageError(f"--reset: nothing was deleted: {error}") from None
    finally:
        lock.release()
