"""The configuration of SQLite, in a process of its own, since it applies to the whole process."""

import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import ctypes, sys
from minibill.db.sqlite import configure_sqlite, sqlite3
library = ctypes.CDLL(sys.modules[sqlite3.connect.__module__].__file__)
"""
# SQLITE_STATUS_MEMORY_USED
USE = """
conn = sqlite3.connect(sys.argv[1])
conn.execute("CREATE TABLE t (number INTEGER) STRICT")
conn.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(1000)])
conn.commit()
found = conn.execute("SELECT sum(number) FROM t").fetchone()[0]
now, most = ctypes.c_int(), ctypes.c_int()
library.sqlite3_status(0, ctypes.byref(now), ctypes.byref(most), 0)
print(found, now.value > 0)
"""


def run(program: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="SQLite is configured on Linux only")
@pytest.mark.parametrize(("configuration", "counts"), [("pass", "True"), ("assert configure_sqlite()", "False")])
def test_a_configured_process_has_no_memory_statistics(tmp_path: Path, configuration: str, counts: str) -> None:
    assert run(BEGIN + configuration + USE, str(tmp_path / "t.db")).split() == ["499500", counts]


def test_a_driver_without_exported_symbols_is_not_configured(tmp_path: Path) -> None:
    hidden = "sys.modules[sqlite3.connect.__module__].__file__ = '/nothing/there.so'\nassert configure_sqlite() is False\n"
    assert run(BEGIN + hidden + USE, str(tmp_path / "t.db")).split() == ["499500", "True"]
