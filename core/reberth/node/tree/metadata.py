"""Owner, mode, times and extended attributes of an entry: read, written into a header, checked, applied."""

from __future__ import annotations

import base64
import binascii
import errno
import os
from typing import Any, NamedTuple, Union

from reberth.node.tree.wire import XATTR_BYTES, TreeError, raw, text

Xattrs = tuple[tuple[bytes, bytes], ...]

DIR, FILE, SYMLINK, FIFO, SOCKET, CHAR, BLOCK = "d", "f", "s", "p", "k", "c", "b"

_EXACT = (b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default")
_NO_XATTRS = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENOSYS)
_ID_LIMIT = 1 << 32
_TIME_LIMIT_NS = 1 << 63


class Meta(NamedTuple):
    """What an entry has beside its content; times in ns."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Xattrs
    atime_ns: int


def travels(name: bytes) -> bool:
    """Tell whether this extended attribute goes along; overlay's own describe layers that the target does not have."""
    if name.startswith(b"trusted."):
        return not name.startswith(b"trusted.overlay.")
    return name.startswith(b"user.") or name in _EXACT


def read_xattrs(target: int | bytes) -> Xattrs:
    """Return the attributes that travel, by name; of a path the last component is not followed."""
    follow = isinstance(target, int)
    try:
        names = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    found = []
    for name in sorted(os.fsencode(name) for name in names):
        if not travels(name):
            continue
        try:
            found.append((name, os.getxattr(target, name, follow_symlinks=follow)))
        except OSError as error:
            if error.errno != errno.ENODATA:  # removed since the list was made
                raise
    return tuple(found)


def to_header(meta: Meta) -> dict[str, Any]:
    """Return the header's keys for `meta`."""
    header: dict[str, Any] = {
        "m": meta.mode,
        "u": meta.uid,
        "g": meta.gid,
        "mt": meta.mtime_ns,
        "at": meta.atime_ns,
    }
    if meta.xattrs:
        header["x"] = {text(name): base64.b64encode(value).decode() for name, value in meta.xattrs}
    return header


def number(header: dict[str, Any], key: str, low: int, high: int) -> int:
    """Return a whole number of a header with low <= number < high, else TreeError."""
    value = header.get(key)
    if type(value) is not int or not low <= value < high:
        raise TreeError(f"bad value of {key!r}", str(header.get("n", "")))
    return value


def from_header(header: dict[str, Any]) -> Meta:
    """Return the checked metadata of a record; TreeError for anything odd."""
    return Meta(
        number(header, "m", 0, 0o10000),
        number(header, "u", 0, _ID_LIMIT - 1),  # the last one means "unchanged" to chown
        number(header, "g", 0, _ID_LIMIT - 1),
        number(header, "mt", -_TIME_LIMIT_NS, _TIME_LIMIT_NS),
        _xattrs_of(header),
        number(header, "at", -_TIME_LIMIT_NS, _TIME_LIMIT_NS),
    )


def _xattrs_of(header: dict[str, Any]) -> Xattrs:
    found, total = [], 0
    given = header.get("x", {})
    if not isinstance(given, dict):
        raise TreeError("bad xattrs", str(header.get("n", "")))
    for key, value in given.items():
        name = raw(key)
        if not travels(name) or b"\0" in name or len(name) > 255 or not isinstance(value, str):
            raise TreeError("bad xattr", str(header.get("n", "")))
        try:
            content = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise TreeError("bad xattr", str(header.get("n", ""))) from error
        total += len(name) + len(content)
        found.append((name, content))
    if total > XATTR_BYTES:
        raise TreeError("too many xattrs", str(header.get("n", "")))
    return tuple(sorted(found))


def apply(target: Union[int, bytes], kind: str, meta: Meta, fresh: bool) -> list[str]:
    """Give an object its metadata; returns the names of xattrs that this file system or user cannot have.

    `target` is a descriptor, or the /proc path of an O_PATH descriptor: that one leads to the object itself, even to a
    symbolic link. The order matters: chown clears setuid and security.capability, all of them touch ctime only.
    """
    os.chown(target, meta.uid, meta.gid)
    if kind != SYMLINK:
        os.chmod(target, meta.mode)
    lost = [] if fresh and not meta.xattrs else _apply_xattrs(target, meta.xattrs, fresh)
    os.utime(target, ns=(meta.atime_ns, meta.mtime_ns))
    return lost


def _apply_xattrs(target: Union[int, bytes], wanted: Xattrs, fresh: bool) -> list[str]:
    present: dict[bytes, bytes] = {}
    if not fresh:  # else inherited ones (a default ACL of the directory) could stay
        names = [os.fsencode(name) for name in _names(target)]
        present = {name: os.getxattr(target, name) for name in names if travels(name)}
    for name in present.keys() - dict(wanted).keys():
        os.removexattr(target, name)
    lost = []
    for name, value in wanted:
        if present.get(name) == value:
            continue
        try:
            os.setxattr(target, name, value)
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise
            lost.append(text(name))
    return lost


def _names(target: Union[int, bytes]) -> list[str]:
    try:
        return os.listxattr(target)
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return []
        raise
