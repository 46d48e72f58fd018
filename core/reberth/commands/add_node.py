"""The work behind `reberth node add`: fetch a host key, pin it, find out what the node can do, write it down."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reberth.config import inventory
from reberth.config.config import Config
from reberth.config.names import check_name, is_name
from reberth.config.paths import own_config_file
from reberth.connect.plain import PlainShell
from reberth.connect.process import run_local
from reberth_hooks import Node, PluginError, Role, UnreachableError, UntrustedError, UsageError

if TYPE_CHECKING:
    from reberth.host import Host

SCAN_S = 10
_PREFERRED = ("ssh-ed25519", "ecdsa-", "ssh-rsa")


@dataclass(frozen=True, slots=True)
class HostKey:
    """One line of a known_hosts file, and its fingerprint as ssh-keygen prints it."""

    line: str
    kind: str
    fingerprint: str


def new_node(config: Config, name: str, address: str, become: str, ssh: dict[str, Any]) -> Node:
    """The node as asked for, with its `ssh` table; UsageError for words that no command line may carry."""
    if check_name(name, "node name") in config.nodes:
        raise UsageError(f"there is a node {name} already", hint=f"reberth node rm {name}, or another name")
    for what, word in (("address", address), ("user", ssh.get("user", ""))):
        if word.startswith("-") or not word.isprintable() or any(c.isspace() for c in word):
            raise UsageError(f"{word!a} is no {what}", hint="no blanks, no control characters, no dash in front")
    if become not in ("none", "sudo", "su"):
        raise UsageError(f"{become!a} is no way to become root", hint="none, sudo or su")
    table = {key: value for key, value in ssh.items() if value}
    return Node(name=name, address=address, become=become, transports=("ssh",), options={"ssh": table})


def fetch_keys(address: str, port: int) -> list[HostKey]:
    """The host keys that a node shows, the preferred kind first; host name and port as ssh itself would take them.

    Raises UnreachableError when none comes.
    """
    host, number = _as_ssh_would(address, port)
    scan = run_local(["ssh-keyscan", "-T", str(SCAN_S), "-p", number, "--", host], timeout_s=3 * SCAN_S)
    keys = [key for key in map(_key, scan.out.splitlines()) if key is not None]
    if not keys:
        words = [line for line in scan.err.splitlines() if not line.startswith("#")]
        hint = (
            "is sshd running there, and are address and port right? (a jump host: pin the key by hand, see ssh_config)"
        )
        raise UnreachableError(f"{host} port {number} shows no ssh host key", hint=hint, tail="\n".join(words))
    return sorted(keys, key=lambda key: next((n for n, k in enumerate(_PREFERRED) if key.kind.startswith(k)), 9))


def _as_ssh_would(address: str, port: int) -> tuple[str, str]:
    """Host name and port after ssh_config was read (`ssh -G`), which is where ssh looks the key up."""
    words = ["ssh", "-G", *(["-p", str(port)] if port else []), "--", address]
    found = dict(line.split(" ", 1) for line in run_local(words).out.splitlines() if " " in line)
    return found.get("hostname", address.rpartition("@")[2]), found.get("port", str(port or 22))


def _key(line: str) -> HostKey | None:
    words = line.split()
    if len(words) < 3 or line.startswith("#"):
        return None
    try:
        digest = hashlib.sha256(base64.b64decode(words[2], validate=True)).digest()
    except binascii.Error:
        return None
    return HostKey(" ".join(words[:3]), words[1], "SHA256:" + base64.b64encode(digest).decode().rstrip("="))


def choose_key(keys: Iterable[HostKey], fingerprint: str) -> HostKey:
    """The one key to pin: the one of this fingerprint, or the first without one; UntrustedError when none has it.

    Only one is pinned: the others came over a connection that nobody vouched for.
    """
    shown = list(keys)
    if not fingerprint:
        return shown[0]
    for key in shown:
        if key.fingerprint == fingerprint:
            return key
    tail = "\n".join(f"{key.fingerprint} {key.kind}" for key in shown)
    hint = "somebody may be between you and the node, or it was installed anew: ask whoever runs it"
    raise UntrustedError(
        f"no host key of the node has the fingerprint {fingerprint!a}; it shows:", hint=hint, tail=tail
    )


def pinned_file(name: str) -> Path:
    """The known_hosts file of one node, beside the configuration."""
    return own_config_file().parent / "known_hosts.d" / check_name(name, "node name")


def pin(node: Node, line: str) -> Node:
    """Write the key (a line of known_hosts) into the node's own file, and name that in its connector's table."""
    path = pinned_file(node.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n", encoding="utf-8")
    table = {**node.options_of(node.connector), "known_hosts": str(path.absolute())}
    return replace(node, options={**node.options, node.connector: table})


def unpin(name: str) -> None:
    """Forget the pinned key of a node."""
    if is_name(name):
        pinned_file(name).unlink(missing_ok=True)


def probe(
    node: Node, config: Config, open_host: Callable[[Config], AbstractContextManager[Host]]
) -> tuple[Node, dict[str, str]]:
    """Connect once and enable the backends and wrappers that are usable there; also why each other one is not.

    Wrappers that do not probe are left to `reberth node enable`. Raises UnreachableError and UntrustedError of the
    connection.
    """
    with open_host(config) as host:
        found = {p.name: p.declaration.roles for p in host.catalog.load_all()}
        backends = [name for name, roles in found.items() if Role.BACKEND in roles]
        probing = [name for name in found if host.catalog.implements(name, "reberth_probe")]
        wrappers = [name for name in probing if Role.WRAPPER in found[name]]
    all_of_them = replace(node, backends=tuple(backends), wrappers=tuple(wrappers))
    unusable: dict[str, str] = {}
    with open_host(replace(config, nodes={**config.nodes, node.name: all_of_them})) as host:
        shell = host.shell(node.name)
        if isinstance(shell, PlainShell):
            return replace(node, backends=(), wrappers=()), dict.fromkeys(backends, shell.verdict())
        for name in dict.fromkeys([*backends, *wrappers]):
            try:
                facts = host.stage.probe(name, all_of_them, shell)
            except PluginError as error:
                facts = {"usable": False, "reason": error.message}
            if not facts.get("usable"):
                unusable[name] = str(facts.get("reason") or "not usable there")
    usable = [tuple(name for name in names if name not in unusable) for names in (backends, wrappers)]
    return replace(node, backends=usable[0], wrappers=usable[1]), unusable


def store(node: Node) -> Path:
    """Write the node into the user's configuration."""
    return inventory.add_node(node)
