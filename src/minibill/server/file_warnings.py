"""Warnings about database files that other users or other containers can reach."""

import logging
import shlex
from pathlib import Path

from minibill.db.file_lock import lock_file
from minibill.db.files import companions_of, open_to_others, others_may_exchange
from minibill.db.mounts import is_mounted_by_itself

log = logging.getLogger("minibill.serve")


def warn_of_exposed_files(db: Path) -> None:
    """Log each exposure of the database files, with the command that ends it."""
    exposed = open_to_others([db, *companions_of(db), lock_file(db)])
    if exposed:
        names = [file.name for file in exposed]
        fix = f"chmod 600 {' '.join(map(shlex.quote, map(str, exposed)))}"
        log.warning("other users may open files of the book; make them private", extra={"files": names, "fix": fix})
    if others_may_exchange(db.parent):
        fix = f"chmod o-w {shlex.quote(str(db.parent))}"
        log.warning("other users may exchange the files in the book's folder", extra={"folder": str(db.parent), "fix": fix})
    if is_mounted_by_itself(db):
        reason = "its write-ahead log, with acknowledged writes, is in the folder around the mount"
        log.warning(
            "the database file is a mount of its own; mount its folder", extra={"database": str(db), "reason": reason}
        )
