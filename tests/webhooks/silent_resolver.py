"""Run `minibill serve` with a resolver that resolves `silent.test` once and then never responds for it.

python -m tests.webhooks.silent_resolver --db book.db …
"""

import socket
import sys
import time
from typing import Any

from minibill.cli.main import main

find = socket.getaddrinfo
found: list[str] = []


def find_once(host: Any, *more: Any, **named: Any) -> Any:
    if host != "silent.test":
        return find(host, *more, **named)
    if found:
        time.sleep(600)
    found.append(host)
    return find("127.0.0.1", *more, **named)


if __name__ == "__main__":
    socket.getaddrinfo = find_once
    main(["serve", *sys.argv[1:]])
