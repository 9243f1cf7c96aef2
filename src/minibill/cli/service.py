"""A running service, as a command asks it."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from minibill.cli.output import USER_AGENT, UsageError, is_usage_error, refusal_text
from minibill.client import Client, ServiceError
from minibill.core.problems import Problem


@contextmanager
def asked_service(url: str, token: str) -> Iterator[Client]:
    """The service for one short request; what goes wrong ends the command with one line."""
    try:
        with Client(url, token, on_wait=_tell_wait, user_agent=USER_AGENT) as client:
            yield client
    except ServiceError as error:
        raise UsageError(str(error)) from None
    except Problem as refusal:
        message = refusal_text(refusal, url)
        raise (UsageError(message) if is_usage_error(refusal) else click.ClickException(message)) from None


def _tell_wait(seconds: float, reason: str) -> None:
    click.echo(f"{reason}: trying again in {seconds:g} s", err=True)
