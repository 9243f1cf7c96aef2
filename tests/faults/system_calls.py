"""Failing system calls of a running process, injected by strace."""

import contextlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.service_process import Server


@contextlib.contextmanager
def failing_calls(server: Server, injection: str) -> Iterator[None]:
    """Make system calls of a server fail with strace's `inject=`. Skip the test where tracing is not allowed."""
    call = injection.partition(":")[0]
    command = ["strace", "-f", "-p", str(server.process.pid), "-e", f"trace={call}", "-e", f"inject={injection}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        if "attached" not in said:
            pytest.skip(f"strace can't trace here: {said.strip()}")
        # strace attaches to all threads and prints a line for each before any of them continues.
        try:
            yield
        finally:
            tracer.terminate()
            try:
                tracer.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                # strace waits for a server that has ended and has not been reaped yet.
                tracer.kill()
                tracer.communicate()
