"""A client for commands that call a running service."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from minibill.cli.output import USER_AGENT, UsageError, is_usage_error, problem_text
from minibill.client import Client, ServiceError
from minibill.core.problems import Problem


@contextmanager
def service_client(url: str, token: str) -> Iterator[Client]:
    """Yield a client for one short request. Its errors end the command with one message."""
    try:
        with Client(url, token, on_wait=_report_wait, user_agent=USER_AGENT) as client:
            yield client
    except ServiceError as error:
        raise UsageError(str(error)) from None
    except Problem as problem:
        message = problem_text(problem, url)
        raise (UsageError(message) if is_usage_error(problem) else click.ClickException(message)) from None


def _report_wait(seconds: float, reason: str) -> None:
    click.echo(f"{reason}: retrying in {seconds:g} s", err=True)
