"""Write operations: functions of a connection and the time of the book, with their arguments bound."""

from collections.abc import Callable
from typing import Concatenate, ParamSpec

from minibill.core.write_result import WriteResult
from minibill.db.sqlite import Connection

P = ParamSpec("P")

# The writer may run an operation again after a rollback, so it has no effect but what it writes.
WriteOperation = Callable[[Connection, int], WriteResult]


def bind(
    operation: Callable[Concatenate[Connection, int, P], WriteResult], /, *args: P.args, **kwargs: P.kwargs
) -> WriteOperation:
    """Bind the arguments of an operation; the type checker holds them to its signature.

        bind(mint, account_id="acct_0000000000001", amount_micro=5_000_000, ...)

    The writer adds the connection and the time at which the operation runs.
    """
    return lambda conn, now_us: operation(conn, now_us, *args, **kwargs)
