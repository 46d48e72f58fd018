"""What a pass leaves behind: the sender's snapshot, and the list of files that crossed as each side saw it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from reberth.node.tree.walk import Entry

# relative name -> (size in bytes, SHA-256 of the content in hex, see treehash.ContentHash)
Files = Mapping[str, tuple[int, str]]


def canonical(files: Files) -> bytes:
    """Return the list as JSON in one possible spelling, ASCII only, so that odd names pass any channel."""
    rows = {name: list(files[name]) for name in files}
    return json.dumps(rows, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def digest(files: Files) -> str:
    """SHA-256 of the canonical list, in hex."""
    return hashlib.sha256(canonical(files)).hexdigest()


def parse(data: bytes) -> dict[str, tuple[int, str]]:
    """Return the list back from its JSON; ValueError when it is none."""
    rows = json.loads(data)
    if not isinstance(rows, dict):
        raise ValueError("not a list of files")
    files: dict[str, tuple[int, str]] = {}
    for name, row in rows.items():
        if not (isinstance(row, list) and len(row) == 2 and type(row[0]) is int and isinstance(row[1], str)):
            raise ValueError(f"bad row of {name!r}")
        files[name] = (row[0], row[1])
    return files


def verify(sent: Files, received: Files) -> list[str]:
    """Names that one side lacks or that differ, sorted; empty when all is well."""
    return sorted(name for name in sent.keys() | received.keys() if sent.get(name) != received.get(name))


@dataclass
class Snapshot:
    """What the target has after this pass, and what went over in it.

    It holds only if the receiver came to its end too. `unstable` names what changed or vanished while it was read:
    after a pass over a frozen tree it must be empty. `skipped_mounts` are relative paths that were left out (of a
    directory the empty shell goes).
    """

    entries: dict[bytes, Entry] = field(default_factory=dict, repr=False)
    full: bool = True
    sent: dict[str, tuple[int, str]] = field(default_factory=dict, repr=False)
    bytes_sent: int = 0  # file data
    stream_bytes: int = 0  # with framing
    files_sent: int = 0
    deleted: int = 0
    records: int = 0
    reread: int = 0  # candidates that were compared by content
    skipped_mounts: list[str] = field(default_factory=list)
    unstable: list[str] = field(default_factory=list)
    next_place: int = 0

    @property
    def total(self) -> int:
        """Number of entries of the tree, the root among them."""
        return len(self.entries)


def manifest_of(snapshot: Snapshot) -> dict[str, tuple[int, str]]:
    """Return the regular files whose content this pass sent; to be compared with the receiver's by `verify`."""
    return snapshot.sent


def digest_of_sent(snapshot: Snapshot) -> str:
    """SHA-256 of the canonical manifest; equal to `treerecv.digest_of` of the same pass."""
    return digest(snapshot.sent)
