"""Mounts: the file system of a path, to reject network file systems.

SQLite's write-ahead log needs shared memory and locks that work for all processes of a book. Neither works between machines,
and no setting changes that, so a network file system can corrupt a book.
"""

import re
from pathlib import Path
from typing import NamedTuple

from minibill.db.files import UnsafeFile

MOUNTS = Path("/proc/self/mountinfo")

# File systems to which other machines write, by their names in the kernel. For FUSE the program's name follows "fuse.".
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
    """Return the mount of a real path from the text of `/proc/self/mountinfo`; None when no line matches."""
    found = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")[0]
        if len(fields) < 5 or not kind:
            continue
        # The kernel writes blanks and backslashes in names as octal numbers.
        folder = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
        # Of several mounts on one folder the last one is visible.
        if path.is_relative_to(folder) and (found is None or folder.is_relative_to(found.folder)):
            found = Mount(folder, kind)
    return found


def refuse_network(path: Path) -> None:
    """Raise `UnsafeFile` for a real path on a network file system. Without `/proc` every path is accepted."""
    mount = _mount_of(path)
    if mount is not None and mount.kind in NETWORK:
        raise UnsafeFile(
            path,
            f"is on a network file system ({mount.kind} at {mount.folder}), where locks and shared memory do not hold "
            "between machines; keep the book on a local disk",
        )


def is_mounted_by_itself(path: Path) -> bool:
    """Return true if a real path is itself a mount, as a single file that is mounted into a container is."""
    mount = _mount_of(path)
    return mount is not None and mount.folder == path


def _mount_of(path: Path) -> Mount | None:
    try:
        return mount_of(path, MOUNTS.read_text("utf-8", "surrogateescape"))
    except OSError:
        return None
