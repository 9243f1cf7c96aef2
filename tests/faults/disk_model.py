"""A model of a disk that records every step, and shows the files as a power loss at any step may leave them."""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from minibill.db import files, wal
from tests.faults import vfs

# Units that a disk writes completely or not at all, and that a file system passes to it.
SECTOR_BYTES, PAGE_BYTES = 512, 4096


class Step(NamedTuple):
    """One operation on a file. `where` is that of `vfs.Watcher`; `forget` is a failed sync."""

    kind: str
    name: str
    where: int
    data: bytes


class Recorder:
    """Record the operations of SQLite on the files of a folder. Each fails with the code that `fault` returns; 0 is none.

    Files that exist before the recording count as synced.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[Step] = []
        for file in folder.iterdir():
            self.did("create", file, 0, b"")
            self.did("write", file, 0, file.read_bytes())
            self.did("sync", file, vfs.WITH_DIRECTORY, b"")
        self.fault: Callable[[str, str], int] = lambda kind, name: vfs.OK

    def about_to(self, kind: str, path: Path) -> int:
        code = self.fault(kind, path.name) if path.parent == self.folder else vfs.OK
        if code and kind == "sync":
            self.did("forget", path, 0, b"")
        return code

    def did(self, kind: str, path: Path, where: int, data: bytes) -> None:
        if path.parent == self.folder:
            self.steps.append(Step(kind, path.name, where, data))

    def leave_for(self, folder: Path, *, after: int) -> None:
        """Write the files after that many steps to `folder`, as if the process had been killed then, synced or not.

        Later operations in `folder` continue from these steps. Operations in the old folder are no longer recorded.
        """
        del self.steps[after:]
        write_files(Disk(self.steps).as_processes_see_it(), folder)
        self.folder = folder


@contextlib.contextmanager
def recorded(folder: Path) -> Iterator[Recorder]:
    """Record the operations on all files that are opened inside the `with` block."""
    recorder, write_anew, create = Recorder(folder), wal._rewrite, files.create

    def recorded_create(path: Path) -> int:
        # SQLite finds an empty database file. Its name may be lost until the folder is synced.
        descriptor = create(path)
        recorder.did("create", path, 0, b"")
        return descriptor

    def recorded_rewrite(log: Path) -> None:
        # The only write to these files that bypasses SQLite.
        write_anew(log)
        recorder.did("write", log, 0, log.read_bytes())
        recorder.did("sync", log, vfs.NO_DIRECTORY, b"")

    vfs.watch(recorder)
    wal._rewrite, files.create = recorded_rewrite, recorded_create
    try:
        yield recorder
    finally:
        wal._rewrite, files.create = write_anew, create
        vfs.watch(None)


def write_files(files: dict[str, bytes], folder: Path) -> None:
    """Create a folder with these files."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


class _Content:
    """The contents of a file: the synced bytes, the operations since, and the bytes that processes see."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.unsynced: list[Step] = []
        self.seen = bytearray()

    def do(self, step: Step) -> None:
        self.unsynced.append(step)
        _do(self.seen, step)

    def sync(self) -> None:
        for step in self.unsynced:
            _do(self.synced, step)
        self.unsynced = []

    def forget(self) -> None:
        """Drop the pending writes: after a failed sync a system may consider them written, and not try again."""
        self.unsynced = []


class Disk:
    """The files after some steps, as processes see them and as a power loss may leave them.

    Until a file is synced, each of its writes may reach the disk or not, complete or in sectors, in any order. The same
    holds for its names until the directory is synced.
    """

    def __init__(self, steps: Iterable[Step] = ()) -> None:
        self._seen: dict[str, _Content] = {}
        # The contents of each name, oldest first: the first is on disk, the others may be. None means no file.
        self._meant: dict[str, list[_Content | None]] = {}
        for step in steps:
            self.do(step)

    def do(self, step: Step) -> None:
        match step.kind:
            case "create":
                self._seen[step.name] = _Content()
                self._meant.setdefault(step.name, [None]).append(self._seen[step.name])
            case "delete":
                del self._seen[step.name]
                self._meant[step.name].append(None)
            case "sync":
                self._seen[step.name].sync()
            case "forget":
                self._seen[step.name].forget()
            case _:
                self._seen[step.name].do(step)
        if step.kind in ("sync", "delete") and step.where == vfs.WITH_DIRECTORY:
            self._meant = {name: meant[-1:] for name, meant in self._meant.items()}

    def as_processes_see_it(self) -> dict[str, bytes]:
        """Return the files after a kill of the process."""
        return {name: bytes(content.seen) for name, content in self._seen.items()}

    def lose_power(self, chance: random.Random) -> dict[str, bytes]:
        """Return files that a power loss may leave."""
        files = {}
        for name, meant in self._meant.items():
            content = chance.choice(meant)
            if content is not None:
                files[name] = _survives(content, chance)
        return files


def _survives(content: _Content, chance: random.Random) -> bytes:
    unsynced, left = content.unsynced, bytearray(content.synced)
    match chance.choice(("none", "all", "the first", "some", "pieces", "pieces")):
        case "none":
            kept = []
        case "all":
            kept = unsynced
        case "the first":
            kept = unsynced[: chance.randint(0, len(unsynced))]
        case "some":
            kept = [step for step in unsynced if chance.random() < 0.5]
        case _:
            unit = chance.choice((SECTOR_BYTES, PAGE_BYTES))
            share = chance.choice((0.1, 0.5, 0.9))
            kept = [piece for step in unsynced for piece in _pieces(step, unit) if chance.random() < share]
    for step in kept:
        _do(left, step)
    # The size may have reached the disk before the data, which is then zeros or garbage.
    size = len(content.seen)
    if size > len(left) and chance.random() < 0.5:
        left += bytes(size - len(left)) if chance.random() < 0.5 else chance.randbytes(size - len(left))
    return bytes(left)


def _pieces(step: Step, unit: int) -> Iterator[Step]:
    """Yield the pieces of a write that may reach the disk separately."""
    if step.kind != "write":
        yield step
        return
    begin, end = step.where, step.where + len(step.data)
    while begin < end:
        after = min(begin - begin % unit + unit, end)
        yield step._replace(where=begin, data=step.data[begin - step.where : after - step.where])
        begin = after


def _do(content: bytearray, step: Step) -> None:
    size = step.where
    if len(content) < size:
        content += bytes(size - len(content))
    if step.kind == "truncate":
        del content[size:]
    else:
        content[size : size + len(step.data)] = step.data
