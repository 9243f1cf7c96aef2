"""Standard output and error: a closed pipe ends the output quietly, a full device is one error line and exit code 2."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click


class OutputError(click.ClickException):
    """The output of a command can't be written. Exit code 2."""

    exit_code = 2

    def __init__(self, error: OSError) -> None:
        super().__init__(f"the output can't be written: {error.strerror}; is there room where it goes?")


class _Stdout(io.RawIOBase):
    """Standard output. After an error it drops all data, so that the command finishes its work."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._has_ended = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        if self._descriptor is None:
            raise OSError(errno.EBADF, "there is no standard output")
        return self._descriptor

    def isatty(self) -> bool:
        return self._descriptor is not None and os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        if not self._has_ended:
            try:
                return os.write(self.fileno(), data)
            except BrokenPipeError:
                self._has_ended = True
            except OSError as error:
                self._has_ended = True
                self._report(error)
        return len(data)

    def _report(self, error: OSError) -> None:
        raise OutputError(error)


class _Stderr(_Stdout):
    """Standard error. No stream is left on which its own errors could be reported."""

    def _report(self, error: OSError) -> None:
        pass


@contextmanager
def safe_streams() -> Iterator[None]:
    """Replace stdout and stderr of this process, unless a test has replaced them."""
    before = sys.stdout, sys.stderr
    if before == (sys.__stdout__, sys.__stderr__):
        sys.stdout = _text(_Stdout(_descriptor(before[0])), before[0])
        sys.stderr = _text(_Stderr(_descriptor(before[1])), before[1], line_buffering=True)
    try:
        yield
    finally:
        if sys.stdout is not before[0]:
            # Flush now. At exit Python would report an error with a traceback.
            with suppress(OutputError):
                sys.stdout.flush()


def flush_output() -> None:
    """Write buffered output. Raise `OutputError` if that fails."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _descriptor(stream: Any) -> int | None:
    # Python has no stream where the descriptor was closed.
    return None if stream is None else stream.fileno()


def _text(raw: _Stdout, like: Any, *, line_buffering: bool = False) -> io.TextIOWrapper:
    encoding = "utf-8" if like is None else like.encoding
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=line_buffering or raw.isatty()
    )
