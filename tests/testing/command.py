"""A command line whose `serve --dev --test-clock` starts the service of `minibill.testing`.

With `MINIBILL_COMMAND="python -m tests.testing.command"`, suites for `minibill` run on it. Other commands are minibill's
own.
"""

import os
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from minibill.cli.main import main
from minibill.testing import BookForTests


def _option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def _is_for_tests() -> bool:
    return sys.argv[1:2] == ["serve"] and {"--dev", "--test-clock", "--db", "--port"} <= set(sys.argv)


def serve() -> None:
    """Serve until a signal stops the process."""
    told = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: told.set())
    given = {name: value for name, value in os.environ.items() if name.startswith(("MINIBILL_", "BILLING_"))}
    settings = {"MINIBILL_ADMIN_RATE_PER_MINUTE": "30", **given}
    book = BookForTests(Path(_option("--db")), settings=settings, start=datetime.now(UTC))
    book.listen(int(_option("--port")))
    told.wait()
    book.close()


if __name__ == "__main__":
    if _is_for_tests():
        serve()
    else:
        main()
