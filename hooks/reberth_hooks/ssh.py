"""What every connector that is OpenSSH says to it, and how a tree travels between two helpers: no I/O of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reberth_hooks.errors import ReberthError
from reberth_hooks.protocols import Move, Shell
from reberth_hooks.types import Receipt, Tree

# What ssh_config may say for people at a terminal has no place here: another command, another verbosity, a terminal.
# ServerAlive notices a dead peer after 15 s even where our own heartbeat cannot (a connection that only sends).
SAFE = (
    "-o", "BatchMode=yes",
    "-o", "StrictHostKeyChecking=yes",
    "-o", "ForwardAgent=no",
    "-o", "ForwardX11=no",
    "-o", "ClearAllForwardings=yes",
    "-o", "PermitLocalCommand=no",
    "-o", "RemoteCommand=none",
    "-o", "LogLevel=INFO",
    "-o", "RequestTTY=no",
    "-o", "EscapeChar=none",
    "-o", "ServerAliveInterval=5",
    "-o", "ServerAliveCountMax=3",
    "-o", "ConnectTimeout=10",
    "-o", "ControlPath=none",
)  # fmt: skip
# Pages that follow a copy wait for a link that comes back: the target allows them a minute without one. Of an option
# only the first value counts, so this goes before SAFE.
PATIENT = ("-o", "ServerAliveCountMax=15")
# Twice the throughput of the default cipher where the processor has AES instructions.
BULK_CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr"


def carry_tree(move: Move, parcel: Tree) -> Receipt:
    """Send one tree through the joined connections; each file is hashed on both sides, the two digests must agree.

    Raises ReberthError when they do not, and what `Move.gather` raises.
    """

    def told(**data: int) -> None:
        move.emit("progress", parcel.kind, bytes=data.get("bytes", 0))

    receiving = move.target.begin("tree_recv", into=parcel.into, kind=parcel.kind, on_progress=told)
    sending = move.source.begin(
        "tree_send", path=parcel.path, kind=parcel.kind, pids=list(parcel.pids), keep=parcel.kind != "images"
    )
    got, sent = move.gather(receiving, sending)
    if got["digest"] != sent["digest"]:
        text = f"what arrived in {parcel.into} is not what left the source"
        raise ReberthError(text, hint="nothing was restored from it; is the connection or a disk faulty?")
    for name in sent["skipped_mounts"]:
        move.emit("warning", f"not copied, something is mounted there: {ascii(name)[1:-1]}")
    for text in got["warnings"]:
        move.emit("warning", ascii(text)[1:-1])
    return Receipt(parcel.kind, parcel.into, sent["bytes"], sent["files"], sent["seconds"], sent.get("wire_bytes"))


def join_straight(source: Shell, target: Shell, allowed: object, uses: Sequence[str]) -> Iterator[str]:
    """Join two helpers without this machine between, where the target's `direct` allows it; yields each use in turn.

    `allowed` is true, or the target's address to listen on. Raises HelperError when it cannot be done (docs/helper.md).
    """
    if not allowed:
        return
    ours, theirs = (shell.call("direct_identity") for shell in (source, target))
    address = allowed if isinstance(allowed, str) else ""
    for use in uses:
        place = target.call("direct_listen", peer=ours, address=address, use=use)
        source.call("direct_connect", peer=theirs, use=use, **place)
        yield use
