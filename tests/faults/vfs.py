"""A patched VFS: it observes every file operation of SQLite, and can make it fail.

SQLite accesses files through a table of functions, its VFS. This module patches the default VFS of the library that the
service uses: each function calls a watcher first, then the original. Nothing is patched until a test calls `watch`.
"""

import ctypes
import importlib
import os
from collections.abc import Callable
from ctypes import POINTER, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, Protocol

import pytest

from minibill.db.sqlite import sqlite3

# The members of sqlite3_vfs and sqlite3_io_methods, from SQLite's documentation of its C interface.
_VFS = (
    "pNext zName pAppData xOpen xDelete xAccess xFullPathname xDlOpen xDlError xDlSym xDlClose xRandomness xSleep "
    "xCurrentTime xGetLastError"
)
_METHODS = (
    "xClose xRead xWrite xTruncate xSync xFileSize xLock xUnlock xCheckReservedLock xFileControl xSectorSize "
    "xDeviceCharacteristics xShmMap xShmLock xShmBarrier xShmUnmap xFetch xUnfetch"
)


class _Vfs(ctypes.Structure):
    _fields_ = [("iVersion", c_int), ("szOsFile", c_int), ("mxPathname", c_int), *((n, c_void_p) for n in _VFS.split())]


class _Methods(ctypes.Structure):
    _fields_ = [("iVersion", c_int), *((name, c_void_p) for name in _METHODS.split())]


class _File(ctypes.Structure):
    _fields_ = [("methods", POINTER(_Methods))]


# Names are passed on as addresses, because SQLite keeps the address of an open file's name.
_OPEN = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, POINTER(_File), c_int, c_void_p)
_DELETE = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_CLOSE = ctypes.CFUNCTYPE(c_int, c_void_p)
_TRANSFER = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = ctypes.CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = ctypes.CFUNCTYPE(c_int, c_void_p, c_int)

OK = 0
IOERR_READ, IOERR_WRITE, IOERR_FSYNC, IOERR_TRUNCATE, IOERR_DELETE = 266, 778, 1034, 1546, 2570
CANTOPEN = 14

# Flags of xOpen.
_CREATE, _MAIN_JOURNAL, _WAL = 0x4, 0x800, 0x80000

# The error code of each kind of operation.
ERRORS = {
    "read": IOERR_READ, "write": IOERR_WRITE, "sync": IOERR_FSYNC, "truncate": IOERR_TRUNCATE, "delete": IOERR_DELETE,
    "create": CANTOPEN,
}  # fmt: skip

# Flags of a sync or a deletion that also syncs the directory.
NO_DIRECTORY, WITH_DIRECTORY = 0, 1


class Watcher(Protocol):
    """Observer of file operations. `where` is an offset or size; for a sync or deletion, 1 if it syncs the directory."""

    def about_to(self, kind: str, path: Path) -> int:
        """Return `OK` before an operation, or the SQLite code with which it fails without taking effect."""

    def did(self, kind: str, path: Path, where: int, data: bytes) -> None:
        """Note an operation after it took effect."""


class _Quiet:
    def about_to(self, kind: str, path: Path) -> int:
        return OK

    def did(self, kind: str, path: Path, where: int, data: bytes) -> None:
        pass


class _Patch:
    """The patched VFS of this process. It stays installed, because files may be open through it."""

    def __init__(self, vfs: _Vfs) -> None:
        self.watcher: Watcher = _Quiet()
        self._paths: dict[int, Path] = {}
        # Logs whose directory was not synced since they were opened. SQLite syncs it with their first sync.
        self._with_directory: set[int] = set()
        self._tables: dict[int, _Methods] = {}
        self._patched: set[int] = set()
        self._open: Callable[..., int] = _OPEN(vfs.xOpen)
        self._delete: Callable[..., int] = _DELETE(vfs.xDelete)
        # Referenced here, because SQLite holds no Python reference.
        self._callbacks: list[Any] = [_OPEN(self._on_open), _DELETE(self._on_delete)]
        vfs.xOpen, vfs.xDelete = (_address(callback) for callback in self._callbacks)

    def _on_open(self, vfs: int, name: int | None, file: Any, flags: int, out: int | None) -> int:
        if name is None:
            return self._open(vfs, name, file, flags, out)
        path = _path(name)
        is_new = not path.exists() and bool(flags & _CREATE)
        if is_new and (code := self.watcher.about_to("create", path)):
            file.contents.methods = None
            return code
        code = self._open(vfs, name, file, flags, out)
        if code == OK:
            address = ctypes.addressof(file.contents)
            self._paths[address] = path
            if flags & (_WAL | _MAIN_JOURNAL):
                self._with_directory.add(address)
            file.contents.methods = ctypes.pointer(self._methods_for(file.contents.methods))
            if is_new:
                self.watcher.did("create", path, 0, b"")
        return code

    def _on_delete(self, vfs: int, name: int, with_directory: int) -> int:
        path = _path(name)
        was_there = path.exists()
        if code := self.watcher.about_to("delete", path):
            return code
        code = self._delete(vfs, name, with_directory)
        if code == OK and was_there:
            self.watcher.did("delete", path, WITH_DIRECTORY if with_directory else NO_DIRECTORY, b"")
        return code

    def _methods_for(self, original: Any) -> _Methods:
        address = ctypes.addressof(original.contents)
        if address in self._patched:
            table: _Methods = original.contents
            return table
        if address not in self._tables:
            methods = _Methods.from_buffer_copy(original.contents)
            self._replace(methods)
            self._tables[address] = methods
            self._patched.add(ctypes.addressof(methods))
        return self._tables[address]

    def _replace(self, methods: _Methods) -> None:
        close: Callable[[int], int] = _CLOSE(methods.xClose)
        read: Callable[[int, int, int, int], int] = _TRANSFER(methods.xRead)
        write: Callable[[int, int, int, int], int] = _TRANSFER(methods.xWrite)
        truncate: Callable[[int, int], int] = _TRUNCATE(methods.xTruncate)
        sync: Callable[[int, int], int] = _SYNC(methods.xSync)

        def on_close(file: int) -> int:
            self._paths.pop(file, None)
            self._with_directory.discard(file)
            return close(file)

        def on_read(file: int, buffer: int, size: int, offset: int) -> int:
            return self.watcher.about_to("read", self._paths[file]) or read(file, buffer, size, offset)

        def on_write(file: int, buffer: int, size: int, offset: int) -> int:
            data = ctypes.string_at(buffer, size)
            return self._do("write", file, offset, data, lambda: write(file, buffer, size, offset))

        def on_truncate(file: int, size: int) -> int:
            return self._do("truncate", file, size, b"", lambda: truncate(file, size))

        def on_sync(file: int, flags: int) -> int:
            where = WITH_DIRECTORY if file in self._with_directory else NO_DIRECTORY
            code = self._do("sync", file, where, b"", lambda: sync(file, flags))
            if code == OK:
                self._with_directory.discard(file)
            return code

        callbacks = {
            "xClose": _CLOSE(on_close), "xRead": _TRANSFER(on_read), "xWrite": _TRANSFER(on_write),
            "xTruncate": _TRUNCATE(on_truncate), "xSync": _SYNC(on_sync),
        }  # fmt: skip
        self._callbacks += callbacks.values()
        for name, callback in callbacks.items():
            setattr(methods, name, _address(callback))

    def _do(self, kind: str, file: int, where: int, data: bytes, really: Callable[[], int]) -> int:
        path = self._paths[file]
        code = self.watcher.about_to(kind, path) or really()
        if code == OK:
            self.watcher.did(kind, path, where, data)
        return code


def _path(name: int) -> Path:
    return Path(os.fsdecode(ctypes.string_at(name)))


def _address(callback: Any) -> int | None:
    return ctypes.cast(callback, c_void_p).value


_patch: _Patch | None = None


def watch(watcher: Watcher | None) -> None:
    """Report the operations on all files that SQLite opens from now on. Skip the test if that is impossible."""
    global _patch  # noqa: PLW0603 - there is one VFS in a process, too
    if _patch is None:
        _patch = _Patch(_default_vfs())
    _patch.watcher = watcher or _Quiet()


def _default_vfs() -> _Vfs:
    # The SQLite of the standard library, or of the package that replaces it.
    package = sqlite3.__name__.partition(".")[0]
    extension = importlib.import_module("_sqlite3" if package == "sqlite3" else f"{package}._sqlite3")
    try:
        library = ctypes.CDLL(extension.__file__)
        library.sqlite3_initialize()
        find = library.sqlite3_vfs_find
    except (AttributeError, OSError):
        pytest.skip("this Python's SQLite does not show its VFS")
    find.restype = POINTER(_Vfs)
    found: _Vfs = find(None).contents
    return found
