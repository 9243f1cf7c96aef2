"""The anchor: a small file beside the database with the number of commits and the newest link of the hash chain.

A flipped bit in the write-ahead log makes SQLite drop the rest of the log silently, and with it acknowledged commits. The
anchor detects that: a book that is behind its anchor has lost commits.

minibill writes the anchor after each COMMIT and never syncs it. So it is never ahead of the disk, even after a power loss.
It may be older than the book, half written, or missing. Its two lines are written in turn, so one of them is always whole. A
line has the commits so far, the number and the hash of the newest link, and a checksum of these.
"""

import logging
import os
import re
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from minibill.db.epochs import begin_epoch
from minibill.db.files import create, open_own, open_to_read, sync
from minibill.db.queries import queries
from minibill.db.sqlite import Connection, sqlite3

log = logging.getLogger("minibill.anchor")

SQL = queries("chain")

# Each line has a disk sector of its own. A disk writes a sector as a whole or not at all.
LINE_BYTES = 512

_LINE = re.compile(rb"(([0-9]{20}) ([0-9]{20}) ([0-9a-f]{64})) ([0-9a-f]{8}) *\n")


class BehindItsAnchor(Exception):
    """The book lacks acknowledged commits, or the anchor belongs to another book."""


class HighWaterMark(NamedTuple):
    """The commits of a book, and the number and hash of its newest link; 0 and zeros before the first."""

    commits: int
    links: int
    link_hash: bytes


def anchor_file(path: Path) -> Path:
    """Return the path of a database file's anchor, behind links."""
    real = Path(os.path.realpath(path))
    return real.with_name(f"{real.name}-anchor")


def read_anchor(path: Path) -> HighWaterMark | None:
    """Return the mark in the anchor of a database file; None without a readable anchor."""
    try:
        with os.fdopen(open_to_read(anchor_file(path)), "rb") as file:
            content = file.read(2 * LINE_BYTES)
    except FileNotFoundError:
        return None
    marks = [mark for start in (0, LINE_BYTES) if (mark := _parse(content[start : start + LINE_BYTES])) is not None]
    return max(marks, default=None)


def mark_of(conn: Connection) -> HighWaterMark:
    """Return the mark of a book. Raises `DatabaseError` when the row that counts commits is damaged."""
    row = SQL.mark.one(conn)
    if row is None:
        raise sqlite3.DatabaseError("the row that counts the commits is damaged")
    return HighWaterMark(row[0], row[1] or 0, row[2] or bytes(32))


def missing(conn: Connection, anchored: HighWaterMark) -> str | None:
    """Return a description of what a book lacks according to its anchor; None when nothing is missing."""
    commits = mark_of(conn).commits
    if commits < anchored.commits:
        return f"it has {commits:,} commits, and its anchor says {anchored.commits:,}"
    found = SQL.link_hash.one(conn, number=anchored.links)
    if anchored.links and (found is None or found[0] != anchored.link_hash):
        return f"its link {anchored.links:,} is not the one that its anchor says"
    return None


class CommitAnchor:
    """The anchor of an open book: counts its commits and records them."""

    def __init__(self, path: Path, conn: sqlite3.Connection, *, accept_loss: bool = False) -> None:
        """Compare the book with its anchor, or begin an anchor. Raises `BehindItsAnchor`, unless the loss is accepted.

        A book without an anchor may be an old copy, so it begins a new epoch, as a book with an accepted loss does.
        """
        anchored, mark = read_anchor(path), mark_of(conn)
        lost = None if anchored is None else missing(conn, anchored)
        if lost is not None and not accept_loss:
            raise BehindItsAnchor(
                f"{path} has lost acknowledged commits: {lost}; restore a backup, or serve what is left with --accept-loss"
            )
        if lost is not None:
            log.warning("lost commits accepted", extra={"lost": lost})
            _begin_epoch(conn, "loss_accepted")
        elif anchored is None and mark.commits:
            log.warning("anchor missing: beginning a new one", extra={"commits": mark.commits})
            _begin_epoch(conn, "anchor_missing")
        if anchored is None or lost is not None:
            # After the epoch: a start that is interrupted between the two begins another epoch.
            begin_anchor(path, mark_of(conn))
        self._descriptor = open_own(anchor_file(path), os.O_WRONLY)
        self._failed = False

    def count(self, conn: Connection) -> HighWaterMark:
        """Count the transaction that is about to be committed, and return the mark of the book with it."""
        SQL.count_commit.run(conn)
        return mark_of(conn)

    def write(self, mark: HighWaterMark) -> None:
        """Record a commit that is on disk. A failure is logged only: an anchor may be behind its book."""
        try:
            os.pwrite(self._descriptor, _line(mark), mark.commits % 2 * LINE_BYTES)
        except OSError as error:
            if not self._failed:
                log.warning("anchor write failed", extra={"error": str(error)})
            self._failed = True
        else:
            self._failed = False

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _begin_epoch(conn: sqlite3.Connection, reason: str) -> None:
    epoch = begin_epoch(conn, reason)
    log.warning("began a new epoch", extra={"epoch": epoch.number})


def begin_anchor(path: Path, mark: HighWaterMark) -> None:
    """Replace the anchor of a database file by a new one."""
    file = anchor_file(path)
    # The old anchor must not reappear after a power loss. A symbolic link is removed, not its target.
    with suppress(FileNotFoundError):
        file.unlink()
        sync(file.parent)
    lines = [b" " * (LINE_BYTES - 1) + b"\n"] * 2
    lines[mark.commits % 2] = _line(mark)
    descriptor = create(file)
    try:
        os.write(descriptor, b"".join(lines))
    finally:
        os.close(descriptor)


def _line(mark: HighWaterMark) -> bytes:
    mark_text = b"%020d %020d %s" % (mark.commits, mark.links, mark.link_hash.hex().encode())
    return (b"%s %08x" % (mark_text, zlib.crc32(mark_text))).ljust(LINE_BYTES - 1) + b"\n"


def _parse(line: bytes) -> HighWaterMark | None:
    found = _LINE.fullmatch(line)
    if found is None or int(found[5], 16) != zlib.crc32(found[1]):
        return None
    return HighWaterMark(int(found[2]), int(found[3]), bytes.fromhex(found[4].decode()))
