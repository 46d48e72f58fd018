"""Connector and transport `ssh`: OpenSSH reaches the node, and trees of files travel through two connections of it.

The user's ssh_config is honoured (jump hosts, agents, identities). The host key is checked against what was pinned at
`reberth node add`; nothing is ever accepted silently.
"""

from __future__ import annotations

import shlex

from reberth_hooks import (
    Channel,
    Declaration,
    HelperError,
    Mode,
    Move,
    Node,
    ReberthError,
    Receipt,
    Role,
    Round,
    Route,
    Tree,
    UsageError,
    hookimpl,
)

# ServerAlive notices a dead peer after 15 s even where our own heartbeat cannot (a connection that only sends).
SAFE = (
    "-o", "BatchMode=yes",
    "-o", "StrictHostKeyChecking=yes",
    "-o", "ForwardAgent=no",
    "-o", "ForwardX11=no",
    "-o", "ClearAllForwardings=yes",
    "-o", "PermitLocalCommand=no",
    "-o", "RequestTTY=no",
    "-o", "EscapeChar=none",
    "-o", "ServerAliveInterval=5",
    "-o", "ServerAliveCountMax=3",
    "-o", "ConnectTimeout=10",
    "-o", "ControlPath=none",
)  # fmt: skip
# Twice the throughput of the default cipher where the processor has AES instructions.
BULK_CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr"
BECOME = {"none": (), "sudo": ("sudo", "-n", "--")}


@hookimpl
def reberth_describe() -> Declaration:
    """A connector that is also a transport for files."""
    return Declaration(
        summary="OpenSSH: reaches nodes and carries files",
        roles=frozenset({Role.CONNECTOR, Role.TRANSPORT}),
        carries=frozenset({Channel.FILES}),
        modes=frozenset({Mode.STOP_AND_COPY, Mode.PRE_COPY, Mode.POST_COPY, Mode.HYBRID}),
        options=frozenset({"user", "port", "identity", "known_hosts", "config", "direct"}),
    )


@hookimpl
def reberth_connect(node: Node) -> Route:
    """The words before a command; `--` stands before the host, so that a name is never taken for an option."""
    options = node.options_of("ssh")
    start = ["ssh", "-F", str(options["config"])] if options.get("config") else ["ssh"]
    words: list[str] = []
    if options.get("known_hosts"):
        words += ["-o", f'UserKnownHostsFile="{options["known_hosts"]}"', "-o", "GlobalKnownHostsFile=none"]
    if options.get("identity"):
        words += ["-o", "IdentitiesOnly=yes", "-i", str(options["identity"])]
    if options.get("port"):
        if not str(options["port"]).isdecimal():
            raise UsageError(f"node {node.name}: port = {options['port']!a} is no number", hint="[nodes.NAME.ssh] port")
        words += ["-p", str(options["port"])]
    if options.get("user"):
        words += ["-l", str(options["user"])]
    if node.become not in BECOME:
        raise UsageError(
            f"node {node.name}: become = {node.become!r} is not known to connector ssh", hint="none or sudo"
        )
    host = node.address or node.name
    hint = f"try: {shlex.join([*start, *words, '--', host, 'true'])}"
    words = [*start, *SAFE, *words]
    return Route(
        control=(*words, "--", host),
        bulk=(*words, "-c", BULK_CIPHERS, "-o", "Compression=no", "--", host),
        quoted=True,
        become=BECOME[node.become],
        hint=hint,
    )


@hookimpl
def reberth_receive(move: Move, round: Round) -> bool:
    """Open the data connections while the workload runs: a handshake has no place in the frozen window."""
    if not _open_direct(move):
        move.open_pipe()
    for shell in (move.source, move.target):
        shell.call("pipe_ready")
    if round.lazy:
        move.open_pages()
    return True


def _open_direct(move: Move) -> bool:
    """Join the nodes straight, where the target's table says `direct` (true, or the address to listen on)."""
    allowed = move.plan.target.options_of("ssh").get("direct")
    if not allowed:
        return False
    joined = []
    try:
        ours, theirs = (shell.call("direct_identity") for shell in (move.source, move.target))
        address = allowed if isinstance(allowed, str) else ""
        for use in ("data", "line"):  # without the line a source that loses this machine after its vote waits longer
            place = move.target.call("direct_listen", peer=ours, address=address, use=use)
            move.source.call("direct_connect", peer=theirs, use=use, **place)
            joined.append(use)
    except HelperError as error:
        lost = "the nodes have no line to each other" if joined else "data goes through this machine"
        move.emit("warning", f"{lost}: {error.message}")
    return bool(joined)


@hookimpl
def reberth_transfer(move: Move, parcel: Tree) -> Receipt:
    """Send one tree through the pipe; each file is hashed on both sides, and the two digests must agree."""

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
    return Receipt(parcel.kind, parcel.into, sent["bytes"], sent["files"], sent["seconds"])
