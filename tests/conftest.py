"""Shared fixtures: real database files, the real application in process, and the invariants after every test."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minibill.db.connection import open_reader
from minibill.db.migrations import migrate_file
from minibill.integrity.checks import violations
from tests.api_client import Api, Loop
from tests.reservations.cache_checks import stale_cache_entries

RECORDS = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the fault tests at full length (make torture)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--long"):
        terminalreporter.section("figures")
        for line in config.stash.get(RECORDS, []):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """True if fault tests run at full length."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return a function that records a figure of a test; `make torture` prints them all at the end."""

    def record(line: str) -> None:
        request.config.stash.setdefault(RECORDS, []).append(f"{request.node.name}: {line}")

    return record


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of the newest schema, to be copied."""
    path = tmp_path_factory.mktemp("template") / "book.db"
    migrate_file(path)
    return path


@pytest.fixture
def db(tmp_path: Path, migrated_file: Path) -> Iterator[Path]:
    """A database file of the test's own, whose invariants must hold after the test."""
    path = tmp_path / "book.db"
    shutil.copyfile(migrated_file, path)
    yield path
    conn = open_reader(path)
    try:
        assert violations(conn) == {}
    finally:
        conn.close()


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    """An event loop on a thread of its own, so that tests are plain functions."""
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def start(db: Path, loop: Loop) -> Iterator[Callable[..., Api]]:
    """Open a book behind the real application: `start(MINIBILL_CEILING_MICRO="100")`; again, it reopens the same file."""
    running: list[Api] = []

    def start(**environment: str) -> Api:
        for api in running:
            api.stop()
        running.append(Api(db, loop, environment))
        return running[-1]

    yield start
    wrong = stale_cache_entries(running[-1].book) if running and running[-1].is_whole else []
    for api in running:
        api.stop()
    assert wrong == []


@pytest.fixture
def api(start: Callable[..., Api]) -> Api:
    """The application with a test clock and without rate limits."""
    return start()
