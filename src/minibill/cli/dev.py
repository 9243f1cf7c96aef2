"""Development mode, `serve --dev`: secrets next to the database, a token to paste, and `--reset`."""

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

# A developer's webhook receivers run on the same machine, and tests send more requests a minute than an operator does.
DEFAULTS = {"MINIBILL_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8,::1/128", "MINIBILL_ADMIN_RATE_PER_MINUTE": "0"}


def with_dev_secrets(db: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment, completed with development defaults and the secrets of `<db>.secrets`."""
    kept = dev_secrets(db, SECRETS) if any(name not in environment for name in SECRETS) else {}
    return {**DEFAULTS, **kept, **environment}


def dev_secrets(db: Path, names: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the secrets of a development database. If it has none, create them for `names`.

    Only the owner can read the file. Raise `ConfigurationError` if others can, or if the file can't be read or written.
    """
    file = db.with_name(db.name + ".secrets")
    try:
        with os.fdopen(open_own(file, os.O_RDONLY), "rb") as handle:
            if (mode := S_IMODE(os.fstat(handle.fileno()).st_mode)) & OPEN_TO_OTHERS:
                raise ConfigurationError(
                    f"can't use {file}: its mode {mode:04o} lets other users read the secrets; delete the file to get new "
                    "secrets, or run chmod 600 if nobody else has read it"
                )
            return msgspec.json.decode(handle.read(), type=dict[str, str])
    except FileNotFoundError:
        if not names:
            return {}
    except UnsafeFile as error:
        raise ConfigurationError(f"can't use {error}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"can't read {file}: {error}; delete it to get new secrets") from None
    made = {name: secrets.token_urlsafe(48) for name in names}
    try:
        with os.fdopen(create(file), "w", encoding="utf-8") as handle:
            json.dump(made, handle)
    except OSError as error:
        raise ConfigurationError(f"can't write secrets to {file}: {error.strerror}") from None
    return made


def announce(url: str, settings: Settings) -> None:
    """Print a token, the variables to export, a request to paste, and the address of the API's documentation."""
    token = sign_token(settings, "admin", sub="developer", scopes=[EVERYTHING], ttl=settings.admin_token_max_ttl)
    minutes = settings.admin_token_max_ttl // 60
    click.echo(f"\nAn admin token, valid for {minutes} minutes (`minibill token` prints another):\n")
    click.echo(f"export MINIBILL_URL={url}\nexport MINIBILL_TOKEN={token}\n")
    click.echo('curl -H "Authorization: Bearer $MINIBILL_TOKEN" $MINIBILL_URL/admin/billing/campaigns')
    click.echo(f"\nThe API documentation: {url}/schema/docs")


def reset(db: Path, *, is_confirmed: bool) -> None:
    """Delete a database file and its write-ahead log. Ask first unless `is_confirmed`.

    Only a minibill database that no process serves is deleted. Its secrets stay, so that tokens signed for it remain valid.
    """
    # Imported on use: completion does not need the database library.
    from minibill.db.connection import NotABook, open_writer
    from minibill.db.file_copy import remove
    from minibill.db.file_lock import DatabaseLocked, FileLock
    from minibill.db.files import resolve
    from minibill.db.sqlite import DatabaseError, SqliteTooOld

    try:
        path = resolve(db)
        if not path.exists():
            return
        lock = FileLock(path)
    except (DatabaseLocked, OSError) as error:
        raise UsageError(f"--reset: {error}") from None
    try:
        open_writer(path).close()
        if not is_confirmed:
            click.confirm(f"Delete {path} with all its data ({path.stat().st_size:,} bytes)?", abort=True, err=True)
        remove(path)
    except (NotABook, SqliteTooOld, DatabaseError, OSError) as error:
        raise UsageError(f"--reset: nothing was deleted: {error}") from None
    finally:
        lock.release()
