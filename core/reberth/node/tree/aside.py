"""What stood at a path before a file was carried there: kept beside it, put back on rollback, removed after the move.

All of it goes through descriptors of the folders, none of them behind a symbolic link: a folder may belong to a user
who swaps it for a link while root works in it. The functions are undo handlers: a record may be done twice.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from typing import Any

from reberth.node.tree.directories import Dirs, split
from reberth.node.tree.wire import raw

Folders = set[bytes]


def rel(path: str) -> bytes:
    """Return the bytes of an absolute path without its first slash."""
    return raw(path).lstrip(b"/")


def set_aside(rows: Iterable[dict[str, Any]]) -> None:
    """Give each carried file its name; what has that name gets the name `kept` first.

    A row has `path`, `kept` (empty: nothing stood there) and `staged`, the carried file's name beside it.
    """
    with Dirs("/") as dirs:
        touched: Folders = set()
        for row in rows:
            parent, name = split(rel(row["path"]))
            fd = dirs.fd(parent)
            if row["kept"]:
                os.rename(name, raw(row["kept"]), src_dir_fd=fd, dst_dir_fd=fd)
            os.rename(raw(row["staged"]), name, src_dir_fd=fd, dst_dir_fd=fd)
            touched.add(parent)
        for parent in touched:
            os.fsync(dirs.fd(parent))


def put_back(record: dict[str, Any]) -> None:
    """Undo `set_aside`: the file that was kept gets its name again; a carried file that replaced nothing goes."""
    failed: list[OSError] = []
    with Dirs("/") as dirs:
        for row in record["files"]:
            parent, name = split(rel(row["path"]))
            try:
                fd = dirs.fd(parent)
                if not row["kept"]:
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if (found.st_dev, found.st_ino) == (row["dev"], row["ino"]):
                        os.unlink(name, dir_fd=fd)
                else:
                    os.rename(raw(row["kept"]), name, src_dir_fd=fd, dst_dir_fd=fd)
                os.fsync(fd)
            except FileNotFoundError:
                continue  # never set aside, or put back already
            except OSError as error:
                failed.append(error)
    if failed:
        raise failed[0]


def drop(record: dict[str, Any]) -> None:
    """Remove files of ours by their names (`names`), each if it is still there."""
    with Dirs("/") as dirs:
        for path in record["names"]:
            parent, name = split(rel(path))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=dirs.fd(parent))


def remove_folder(record: dict[str, Any]) -> None:
    """Remove a folder that was made for a carried file; one in which others have put something stays.

    Sockets in it are the dead copy's: CRIU has bound them.
    """
    path = rel(record["path"])
    parent, name = split(path)
    with Dirs("/") as dirs, contextlib.suppress(FileNotFoundError):
        folder = dirs.fd(path)
        for entry in os.listdir(folder):
            if stat.S_ISSOCK(os.stat(entry, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(entry, dir_fd=folder)
        os.rmdir(name, dir_fd=dirs.fd(parent))
