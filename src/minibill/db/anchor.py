"""The anchor: a small file beside the database that says how far the book has come.

A flipped bit in the write-ahead log makes SQLite drop the rest of it without a word, and with it commits that were answered.
The anchor is written after each COMMIT and never synced. It never says more than what is on disk, wherever the power is cut:
it may be older than the book, half written or missing, and a book may be ahead of it. A book behind it has lost something.

It is two lines, written in turn, so that one is whole when the other is not:
the commits so far, the number of the chain's last link, its hash, and a checksum of these.
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

# Each line has a disk sector of its own: a sector is written whole or not at all.
LINE_BYTES = 512

_LINE = re.compile(rb"(([0-9]{20}) ([0-9]{20}) ([0-9a-f]{64})) ([0-9a-f]{8}) *\n")


class BehindItsAnchor(Exception):
    """The book lacks commits that were answered, or is another than the one that the anchor is of."""


class HighWaterMark(NamedTuple):
    """How far a book has come: its commits, and its last link with its hash; 0 and zeros before the first."""

    commits: int
    links: int
    link_hash: bytes


def anchor_file(path: Path) -> Path:
    """The anchor of a database file, also through a link."""
    real = Path(os.path.realpath(path))
    return real.with_name(f"{real.name}-anchor")


def read_anchor(path: Path) -> HighWaterMark | None:
    """What the anchor of a database file says; None where there is none, or none that can be read."""
    try:
        with os.fdopen(open_to_read(anchor_file(path)), "rb") as file:
            content = file.read(2 * LINE_BYTES)
    except FileNotFoundError:
        return None
    marks = [mark for start in (0, LINE_BYTES) if (mark := _parse(content[start : start + LINE_BYTES])) is not None]
    return max(marks, default=None)


def mark_of(conn: Connection) -> HighWaterMark:
    """How far a book has come; raises `sqlite3.DatabaseError` when it can't tell."""
    row = SQL.mark.one(conn)
    if row is None:
        raise sqlite3.DatabaseError("the row that counts the commits is damaged")
    return HighWaterMark(row[0], row[1] or 0, row[2] or bytes(32))


def missing(conn: Connection, anchored: HighWaterMark) -> str | None:
    """What a book lacks of what its anchor says, in words; None when nothing is missing."""
    commits = mark_of(conn).commits
    if commits < anchored.commits:
        return f"it has {commits:,} commits, and its anchor says {anchored.commits:,}"
    found = SQL.link_hash.one(conn, number=anchored.links)
    if anchored.links and (found is None or found[0] != anchored.link_hash):
        return f"its link {anchored.links:,} is not the one that its anchor says"
    return None


class CommitAnchor:
    """The anchor of a book that is open: counts its commits and writes them down."""

    def __init__(self, path: Path, conn: sqlite3.Connection, *, accept_loss: bool = False) -> None:
        """Compares the book with its anchor, or begins one. Raises `BehindItsAnchor`, unless the loss is accepted.

        A book without an anchor may be an old copy. Like one whose loss is accepted it begins an epoch.
        """
        anchored, mark = read_anchor(path), mark_of(conn)
        lost = None if anchored is None else missing(conn, anchored)
        if lost is not None and not accept_loss:
            raise BehindItsAnchor(
                f"{path} has lost what was answered: {lost}; restore a backup, or serve what is left with --accept-loss"
            )
        if lost is not None:
            log.warning("what is missing of the book is accepted as lost", extra={"lost": lost})
            _begin_epoch(conn, "loss_accepted")
        elif anchored is None and mark.commits:
            log.warning("there is no anchor to compare the book with; a new one is begun", extra={"commits": mark.commits})
            _begin_epoch(conn, "anchor_missing")
        if anchored is None or lost is not None:
            # After the epoch: a start that is cut short between the two begins another one.
            begin_anchor(path, mark_of(conn))
        self._descriptor = open_own(anchor_file(path), os.O_WRONLY)
        self._failed = False

    def count(self, conn: Connection) -> HighWaterMark:
        """Counts the transaction that is about to be committed; answers how far the book has come with it."""
        SQL.count_commit.run(conn)
        return mark_of(conn)

    def write(self, mark: HighWaterMark) -> None:
        """Says that a commit is on disk; called once it is. Where that fails the anchor stays behind, which is no harm."""
        try:
            os.pwrite(self._descriptor, _line(mark), mark.commits % 2 * LINE_BYTES)
        except OSError as error:
            if not self._failed:
                log.warning("the anchor can't be written; it stays behind the book: %s", error)
            self._failed = True
        else:
            self._failed = False

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._descriptor)


def _begin_epoch(conn: sqlite3.Connection, reason: str) -> None:
    epoch = begin_epoch(conn, reason)
    log.warning("began a new epoch: ids issued from now on differ from any issued before", extra={"epoch": epoch.number})


def begin_anchor(path: Path, mark: HighWaterMark) -> None:
    """Puts a new anchor in the place of any that is there."""
    file = anchor_file(path)
    # What the old one says must not come back when the power fails. A symbolic link goes, and what it leads to stays.
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
    said = b"%020d %020d %s" % (mark.commits, mark.links, mark.link_hash.hex().encode())
    return (b"%s %08x" % (said, zlib.crc32(said))).ljust(LINE_BYTES - 1) + b"\n"


def _parse(line: bytes) -> HighWaterMark | None:
    found = _LINE.fullmatch(line)
    if found is None or int(found[5], 16) != zlib.crc32(found[1]):
        return None
    return HighWaterMark(int(found[2]), int(found[3]), bytes.fromhex(found[4].decode()))
