"""Files and folders, beside what SQLite does with them."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Waits until a file, or which names a folder has, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
