"""The machine of the measurements, and the assignment of its cores."""

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import minibill
from minibill.db import sqlite
from minibill.db.queries import sql_folder

PACKAGES = ("litestar", "msgspec", "uvicorn", "uvloop", "httptools", "aiosqlite")


def describe() -> list[tuple[str, str]]:
    """Return processor, versions and the assignment of cores, as pairs."""
    return [
        ("minibill", f"{minibill.__version__}, source {source()}"),
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("system", f"{platform.system()} {platform.machine()}"),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("SQLite", f"{sqlite.VERSION}, WAL, synchronous=FULL"),
        *((name, version(name)) for name in PACKAGES),
        ("cores", _sharing()),
        ("load before", f"{os.getloadavg()[0]:.1f} processes: what else runs takes its time from the measurements"),
    ]


def source() -> str:
    """Return a hash over the package's Python and SQL, so that numbers of different sources are never mixed."""
    files = sorted(Path(minibill.__file__).parent.rglob("*.py")) + sorted(sql_folder().rglob("*.sql"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


@contextlib.contextmanager
def on_server_core() -> Iterator[None]:
    """Run the block and its child processes on the server's core, if the system allows it."""
    if not _PINNED:
        yield
        return
    os.sched_setaffinity(0, _CORES[:1])
    try:
        yield
    finally:
        use_generator_core()


@contextlib.contextmanager
def on_every_core() -> Iterator[None]:
    """Run child processes of the block on every core, like a command of an operator."""
    if not _PINNED:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def use_generator_core() -> None:
    """Run this thread on the load generator's core, if the system allows it."""
    if _PINNED:
        os.sched_setaffinity(0, _CORES[1:2])


_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
_PINNED = len(_CORES) >= 2


def _sharing() -> str:
    if not _PINNED:
        return "not pinned: there is one, or the system has no call for it"
    return "pinned: servers, and what is measured in process, have one; the load generator has another"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
