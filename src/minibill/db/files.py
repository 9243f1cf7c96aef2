"""Files beside a database: created private, and opened so that no other user of the machine can redirect them.

A command with more rights than the owner of a folder must not follow links that this owner placed there. So minibill follows
no symbolic link below the path that the operator gave, and writes only to files of the user who runs the command.
"""

import errno
import os
import pwd
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

# Only the owner reads and writes: the book has accounts and amounts, and a process that can open a file can lock it.
PRIVATE = 0o600
OPEN_TO_OTHERS = 0o077

# O_NONBLOCK: the open of a named pipe must not block the command.
_SAFELY = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

# The limit of Linux.
_LINKS_MAX = 40

_Requirement = Callable[[os.stat_result, Path], None]

COMPANIONS = ("-wal", "-shm", "-journal", "-anchor")


class UnsafeFile(OSError):
    """A file or its folder is unsafe for a book: another user or another machine may interfere."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(errno.EPERM, reason, str(path))

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def resolve(path: Path) -> Path:
    """Return the real path of a file, which may not exist yet.

    Raises `UnsafeFile` for a symbolic link of a user other than root and the one who runs this.
    """
    pending = [*reversed(path.absolute().parts)]
    real, links = Path(pending.pop()), 0
    while pending:
        name = pending.pop()
        step = real.parent if name == ".." else real / name
        if not step.is_symlink():
            real = step
            continue
        links += 1
        if links > _LINKS_MAX:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        if (owner := step.lstat().st_uid) not in (0, os.geteuid()):
            raise UnsafeFile(step, f"is a symbolic link that belongs to {_name_of(owner)}; name the file that it leads to")
        target = step.readlink()
        # An absolute target starts at its own root.
        pending += [part for part in reversed(target.parts) if part != target.anchor]
        real = Path(target.anchor) if target.is_absolute() else real
    return real


def require_own_folder(folder: Path) -> None:
    """Raise `UnsafeFile` when root is about to write into the folder of another user, who can exchange the files in it."""
    if os.geteuid() == 0 and (owner := folder.stat().st_uid) != 0:
        raise UnsafeFile(folder, _belongs_to(owner))


def require_own(path: Path) -> None:
    """Raise `UnsafeFile` unless the file is missing or is a regular file of this user."""
    with suppress(FileNotFoundError):
        _require_own(path.lstat(), path)


def require_regular(path: Path) -> None:
    """Raise `UnsafeFile` unless the file is a regular file; raise `FileNotFoundError` if it is missing."""
    _require_regular(path.lstat(), path)


def open_own(path: Path, flags: int) -> int:
    """Open an existing file of this user, and return its descriptor. Raises `UnsafeFile`."""
    # Two checks: before the open for a better message, and after it in case the file was exchanged in between.
    require_own(path)
    return _open(path, flags, _require_own)


def open_to_read(path: Path) -> int:
    """Open a regular file of any user, and return its descriptor. Raises `UnsafeFile` for a symbolic link or a pipe."""
    return _open(path, os.O_RDONLY, _require_regular)


def create(path: Path) -> int:
    """Create a file that only its owner may read, open it to write, and return its descriptor.

    Raises `FileExistsError` when the name is in use, also by a dangling symbolic link.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFELY, PRIVATE)
    # The umask may have removed more rights. A file system without modes rejects this, and its mount options set them.
    with suppress(PermissionError):
        os.fchmod(descriptor, PRIVATE)
    return descriptor


def open_or_create(path: Path) -> int:
    """Open a file of this user to read and write, and create it if it is missing; return its descriptor."""
    try:
        return create(path)
    except FileExistsError:
        return open_own(path, os.O_RDWR)


def copy_to(file: Path, descriptor: int) -> None:
    """Copy a file to an open descriptor and close it; the copy is on disk when this returns."""
    with os.fdopen(descriptor, "wb") as target, os.fdopen(open_to_read(file), "rb") as source:
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())


def require_file_name(path: str | os.PathLike[str]) -> Path:
    """Return the path of a database file. Raise `ValueError` for a name that SQLite does not take for a file."""
    text = os.fspath(path)
    if not text:
        raise ValueError("the name of the database file is empty; give it one, such as minibill.db")
    if text == ":memory:" or text.startswith("file:"):
        raise ValueError(f"{text!r} is no file name: a book is kept in a file; give a path, such as minibill.db")
    return Path(text)


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def companions_of(path: Path) -> list[Path]:
    """Return the paths of the files that SQLite and minibill place beside a database, existing or not."""
    return [path.with_name(path.name + suffix) for suffix in COMPANIONS]


def open_to_others(paths: list[Path]) -> list[Path]:
    """Return those of the files that users other than their owner may read or write."""
    return [path for path in paths if path.exists() and path.stat().st_mode & OPEN_TO_OTHERS]


def others_may_exchange(folder: Path) -> bool:
    """Return true if all users may rename and delete files in a folder: it is world-writable and not sticky (/tmp is)."""
    mode = folder.stat().st_mode
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def _open(path: Path, flags: int, require: _Requirement) -> int:
    try:
        descriptor = os.open(path, flags | _SAFELY)
    except OSError as error:
        # ENXIO: a pipe without a reader, or a socket.
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO):
            _require_regular(path.lstat(), path)
        raise
    try:
        require(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_own(found: os.stat_result, path: Path) -> None:
    _require_regular(found, path)
    if found.st_uid != os.geteuid():
        raise UnsafeFile(path, _belongs_to(found.st_uid))
    if found.st_nlink > 1:
        raise UnsafeFile(path, "has more than one name (hard links); remove the others")


def _require_regular(found: os.stat_result, path: Path) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise UnsafeFile(path, "is a symbolic link, which is not followed; remove it")
    if not stat.S_ISREG(found.st_mode):
        raise UnsafeFile(path, "is not a regular file; remove it")


def _belongs_to(owner: int) -> str:
    name, own = _name_of(owner), _name_of(os.geteuid())
    return f"belongs to {name}, and this command runs as {own}; run it as {name}: sudo -u {name} minibill …"


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        # The form in which sudo accepts a number; the quotes keep a shell from reading a comment.
        return f"'#{user}'"


def reason_of(error: Exception | str, path: Path) -> str:
    """Return the text of an error for use after the file's name and a colon: `it is not an SQLite database`."""
    text = str(error)
    for name in (str(path), os.path.realpath(path)):
        if text.startswith(f"{name} "):
            return f"it{text.removeprefix(name)}"
    return text
