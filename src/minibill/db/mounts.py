"""Mounts: the kind of file system under a path, and whether other machines share it.

SQLite's write-ahead log needs memory that all processes of a book share, and locks that hold for all of them. Neither
reaches from one machine to another, and no setting can make them: a book on a network file system can be torn apart.
"""

import re
from pathlib import Path
from typing import NamedTuple

from minibill.db.files import UnsafeFile

MOUNTS = Path("/proc/self/mountinfo")

# File systems that other machines write too, by the kernel's names; with FUSE the program's name follows "fuse.".
NETWORK = frozenset(
    {
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fhgfs", "gfs", "gfs2", "glusterfs", "gpfs",
        "lustre", "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb", "smb2", "smb3", "smbfs",
        "wekafs", "fuse.afp", "fuse.blobfuse", "fuse.blobfuse2", "fuse.ceph", "fuse.ceph-fuse", "fuse.cephfs",
        "fuse.curlftpfs", "fuse.davfs", "fuse.davfs2", "fuse.gcsfuse", "fuse.gfapi", "fuse.glusterfs", "fuse.goofys",
        "fuse.gvfsd-fuse", "fuse.hdfs", "fuse.juicefs", "fuse.lizardfs", "fuse.mfs", "fuse.moosefs", "fuse.mount-s3",
        "fuse.rclone", "fuse.s3fs", "fuse.seaweedfs", "fuse.smbnetfs", "fuse.sshfs", "fuse.weed",
    }
)  # fmt: skip


class Mount(NamedTuple):
    """A mounted file system."""

    folder: Path
    kind: str


def mount_of(path: Path, mountinfo: str) -> Mount | None:
    """Return the mount that a real path lies in, by the text of `/proc/self/mountinfo`; None when no line is about it."""
    found = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")[0]
        if len(fields) < 5 or not kind:
            continue
        # Blanks and backslashes in names are written as octal numbers.
        folder = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
        # Of several mounts in one place the last one is what is seen.
        if path.is_relative_to(folder) and (found is None or folder.is_relative_to(found.folder)):
            found = Mount(folder, kind)
    return found


def refuse_network(path: Path) -> None:
    """Raise `UnsafeFile` for a real path on a network file system; without `/proc` nobody knows, and it is let through."""
    mount = _mount_of(path)
    if mount is not None and mount.kind in NETWORK:
        raise UnsafeFile(
            path,
            f"is on a network file system ({mount.kind} at {mount.folder}), where locks and shared memory do not hold "
            "between machines; keep the book on a local disk",
        )


def is_mounted_by_itself(path: Path) -> bool:
    """Tell whether a real path is itself a mount, as a file is that a container was given alone."""
    mount = _mount_of(path)
    return mount is not None and mount.folder == path


def _mount_of(path: Path) -> Mount | None:
    try:
        return mount_of(path, MOUNTS.read_text("utf-8", "surrogateescape"))
    except OSError:
        return None
