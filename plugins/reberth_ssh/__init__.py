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
    Receipt,
    Role,
    Round,
    Route,
    Tree,
    UsageError,
    hookimpl,
)
from reberth_hooks.ssh import BULK_CIPHERS, PATIENT, SAFE, carry_tree, join_straight

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
    words = [*SAFE, *words]
    bulk = (*words, "-c", BULK_CIPHERS, "-o", "Compression=no", "--", host)
    return Route(
        control=(*start, *words, "--", host),
        bulk=(*start, *bulk),
        pages=(*start, *PATIENT, *bulk),
        quoted=True,
        become=BECOME[node.become],
        hint=hint,
    )


@hookimpl
def reberth_receive(move: Move, round: Round) -> bool:
    """Open the data connections while the workload runs: a handshake has no place in the frozen window."""
    if not move.recall("joined"):
        if not _open_direct(move):
            move.open_pipe()
        for shell in (move.source, move.target):
            shell.call("pipe_ready")
        move.note("joined", True)
    if round.lazy:
        move.open_pages()
    return True


def _open_direct(move: Move) -> bool:
    """Join the nodes straight, where the target's table says `direct` (true, or the address to listen on)."""
    allowed = move.plan.target.options_of("ssh").get("direct")
    joined: list[str] = []
    try:
        # Without the line a source that loses this machine after its vote waits longer.
        for use in join_straight(move.source, move.target, allowed, ("data", "line")):
            joined.append(use)
    except HelperError as error:
        lost = "the nodes have no line to each other" if joined else "data goes through this machine"
        move.emit("warning", f"{lost}: {error.message}")
    return bool(joined)


@hookimpl
def reberth_transfer(move: Move, parcel: Tree) -> Receipt:
    """Send one tree through the pipe; each file is hashed on both sides, and the two digests must agree."""
    return carry_tree(move, parcel)
