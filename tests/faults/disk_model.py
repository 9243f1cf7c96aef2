"""A disk that is known step by step, so that it can be looked at as a loss of power would leave it at any of them."""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from minibill.db import files, wal
from tests.faults import vfs

# What a disk writes whole or not at all, and what a file system hands to it.
SECTOR_BYTES, PAGE_BYTES = 512, 4096


class Step(NamedTuple):
    """One thing that was done to a file. `where` is as `vfs.Watcher` has it; `forget` is a sync that failed."""

    kind: str
    name: str
    where: int
    data: bytes


class Recorder:
    """Writes down what SQLite does to the files of one folder, and has it fail as `fault` says: a code, or 0.

    What is in the folder before counts as safely on disk.
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
        """As if the process had been killed after that many steps: what it had written, synced or not, is in `folder`.

        What is done there goes on from these steps; of what is still done in the old folder nothing is heard.
        """
        del self.steps[after:]
        write_files(Disk(self.steps).as_processes_see_it(), folder)
        self.folder = folder


@contextlib.contextmanager
def recorded(folder: Path) -> Iterator[Recorder]:
    """Records what is done in a folder to the files that are opened inside."""
    recorder, write_anew, create = Recorder(folder), wal._rewrite, files.create

    def recorded_create(path: Path) -> int:
        # SQLite finds its database there, empty; until the folder is synced its name may be lost.
        descriptor = create(path)
        recorder.did("create", path, 0, b"")
        return descriptor

    def recorded_rewrite(log: Path) -> None:
        # The one thing that the service writes into these files without SQLite.
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
    """Makes a folder with these files in it."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)


class _Content:
    """One file, whatever its name: what is on disk for certain, what was done since, and what processes see."""

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
        """After a sync that failed a system may take what it could not write for written, and not try again."""
        self.unsynced = []


class Disk:
    """Files after some steps: what processes see, and what may be left of it when the power fails.

    Until a file is synced each of its writes may reach the disk or not, whole or in sectors, in any order; until the
    directory is synced the same holds of its names.
    """

    def __init__(self, steps: Iterable[Step] = ()) -> None:
        self._seen: dict[str, _Content] = {}
        # Each name with what it meant, oldest first: the first is on disk, the others may be. None: no such file.
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
        """What is there when a process is killed and the machine goes on."""
        return {name: bytes(content.seen) for name, content in self._seen.items()}

    def lose_power(self, chance: random.Random) -> dict[str, bytes]:
        """What may be there when the machine comes up again."""
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
    # The size may have reached the disk before what belongs there, which is then nothing, or anything.
    size = len(content.seen)
    if size > len(left) and chance.random() < 0.5:
        left += bytes(size - len(left)) if chance.random() < 0.5 else chance.randbytes(size - len(left))
    return bytes(left)


def _pieces(step: Step, unit: int) -> Iterator[Step]:
    """A write in the pieces in which it may reach the disk."""
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
