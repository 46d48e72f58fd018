"""The work behind `reberth node add`: fetch a host key, pin it, find out what the node can do, write it down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reberth.commands import host_key
from reberth.commands.host_key import HostKey
from reberth.config import inventory
from reberth.config.config import Config
from reberth.config.names import check_name, is_name
from reberth.config.paths import own_config_file
from reberth.connect.plain import PlainShell
from reberth_hooks import Node, PluginError, Role, Route, UsageError

if TYPE_CHECKING:
    from reberth.host import Host


def new_node(config: Config, name: str, address: str, become: str, ssh: dict[str, Any]) -> Node:
    """Return the node as asked for, with its `ssh` table; UsageError for words that no command line may carry."""
    if check_name(name, "node name") in config.nodes:
        hint = f"another name; after a new host key: reberth node add --again {name}; reberth node rm {name} forgets it"
        raise UsageError(f"there is a node {name} already", hint=hint)
    for what, word in (("address", address), ("user", ssh.get("user", ""))):
        if word.startswith("-") or not word.isprintable() or any(c.isspace() for c in word):
            raise UsageError(f"{word!a} is no {what}", hint="no blanks, no control characters, no dash in front")
    if become not in ("none", "sudo", "su"):
        raise UsageError(f"{become!a} is no way to become root", hint="none, sudo or su")
    table = {key: value for key, value in ssh.items() if value}
    return Node(name=name, address=address, become=become, transports=("ssh",), options={"ssh": table})


def fetch_key(
    node: Node, config: Config, open_host: Callable[[Config], AbstractContextManager[Host]], fingerprint: str = ""
) -> HostKey:
    """Return the host key to pin, fetched with the words of the connection; what is pinned already has no say in it."""
    table = {key: value for key, value in node.options_of(node.connector).items() if key != "known_hosts"}
    anew = replace(node, options={**node.options, node.connector: table})
    return host_key.fetch(anew, _route(anew, config, open_host), fingerprint)


def pinned_keys(
    node: Node, config: Config, open_host: Callable[[Config], AbstractContextManager[Host]]
) -> list[HostKey]:
    """Return the keys that are pinned for a node now."""
    return host_key.pinned(node, _route(node, config, open_host))


def _route(node: Node, config: Config, open_host: Callable[[Config], AbstractContextManager[Host]]) -> Route:
    with open_host(replace(config, nodes={**config.nodes, node.name: node})) as host:
        return host.stage.connect(node)


def pinned_file(name: str) -> Path:
    """Return the known_hosts file of one node, beside the configuration."""
    return own_config_file().parent / "known_hosts.d" / check_name(name, "node name")


def pin(node: Node, line: str) -> Node:
    """Write the key (a line of known_hosts) into the node's own file, and name that in its connector's table."""
    path = pinned_file(node.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(line + "\n", encoding="utf-8")
    table = {**node.options_of(node.connector), "known_hosts": str(path.absolute())}
    return replace(node, options={**node.options, node.connector: table})


@contextmanager
def kept_on_failure(name: str) -> Iterator[None]:
    """Put back what was pinned for a node when what is done with a new key fails."""
    file = pinned_file(name)
    before = file.read_text(encoding="utf-8") if file.exists() else None
    try:
        yield
    except BaseException:
        if before is None:
            unpin(name)
        else:
            file.write_text(before, encoding="utf-8")
        raise


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
