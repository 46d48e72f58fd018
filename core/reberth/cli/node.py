"""`reberth node`: the inventory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from reberth.cli import common, params
from reberth.cli.facts import fact_lines
from reberth.cli.output import note, write, write_json
from reberth.config import inventory
from reberth.config.names import check_name
from reberth.plugin.catalog import Catalog
from reberth.text import safe, table
from reberth_hooks import Node, PluginError, Role, UnreachableError, UntrustedError, UsageError, plain

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Manage the nodes of the inventory.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of a node.", show_default=False)]
PluginName = Annotated[str, typer.Argument(metavar="PLUGIN", help="The name of a plugin.", show_default=False)]
KINDS = {Role.BACKEND: "backends", Role.TRANSPORT: "transports", Role.WRAPPER: "wrappers"}


@app.command("add")
def add(
    name: Name,
    place: Annotated[str, typer.Argument(metavar="ADDRESS", help="As --address.", show_default=False)] = "",
    address: Annotated[str, typer.Option(help="Host name, address, or a Host of ssh_config.", show_default=False)] = "",
    user: Annotated[str, typer.Option(help="Log in as this user.", show_default=False)] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port of sshd.", show_default=False)] = 0,
    identity: Annotated[str, typer.Option(metavar="FILE", help="The private key.", show_default=False)] = "",
    become: Annotated[str, typer.Option(metavar="HOW", help="Become root by: none or sudo.")] = "none",
    fingerprint: Annotated[
        str, typer.Option(metavar="SHA256:...", help="The host key that is expected.", show_default=False)
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Trust the key that the node shows.", show_default=False)] = False,
    json: params.Json = False,
) -> None:
    """Add a node: pin its host key, probe it, enable what is usable there.

    \b
    reberth node add pi2 192.0.2.2 --user pi --become sudo
    reberth node add pi2 --address pi2.lan --fingerprint SHA256:...
    """
    if place and address:
        raise UsageError("the address is given twice", hint="ADDRESS or --address, not both")
    ssh = {"user": user, "port": port, "identity": str(Path(identity).expanduser().absolute()) if identity else ""}
    _add(name, address or place or name, become, ssh, {}, fingerprint=fingerprint, yes=yes, json=json)


def _add(
    name: str,
    address: str,
    become: str,
    ssh: dict[str, Any],
    tables: dict[str, dict[str, Any]],
    *,
    fingerprint: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Pin, probe, store and tell; `tables` are further plugins' tables of the node."""
    from dataclasses import replace

    from reberth.commands import add_node

    config = common.load_config()
    node = add_node.new_node(config, name, address, become, ssh)
    node = replace(node, options={**node.options, **tables})
    key = add_node.choose_key(add_node.fetch_keys(node.address, int(ssh["port"])), fingerprint)
    if not fingerprint:
        _confirm(node, key.kind, key.fingerprint, yes=yes)
    node = add_node.pin(node, key.line)
    try:
        node, unusable = add_node.probe(node, config, lambda with_it: common.open_host(with_it, quiet=True, json=json))
        path = add_node.store(node)
    except BaseException:
        add_node.unpin(name)
        raise
    if json:
        write_json({"schema": 1, "node": plain(node), "unusable": unusable, "file": str(path)})
        return
    enabled = [*(node.backends or ["no backend"]), *(w for w in node.wrappers if w not in node.backends)]
    write([f"node {name} is in {safe(path)}", f"  enabled      {', '.join(enabled)}"])
    for plugin, reason in unusable.items():
        note(f"  not enabled  {safe(plugin)}: {safe(reason)}")


@app.command("import-lxd")
def import_lxd(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="REMOTE...", help="These alone.", show_default=False)
    ] = None,
    client: Annotated[str, typer.Option("--client", metavar="PROGRAM", help="lxc or incus.")] = "lxc",
    user: Annotated[str, typer.Option(help="Log in as this user.", show_default=False)] = "",
    become: Annotated[str, typer.Option(metavar="HOW", help="Become root by: none or sudo.")] = "none",
    yes: Annotated[bool, typer.Option("--yes", help="Trust the ssh keys that they show.", show_default=False)] = False,
    https: Annotated[bool, typer.Option("--https", help="Reach them by HTTPS alone.", show_default=False)] = False,
) -> None:
    """Add the remotes of the lxc client as nodes: one ssh connection each, as `node add` makes it.

    With --https nobody logs in there: the daemons alone are asked, and the plan says which checks cannot be made.

    \b
    reberth node import-lxd
    reberth node import-lxd node2 --user root
    reberth node import-lxd node2 --https
    """
    from reberth import lxdremotes

    have = common.load_config().nodes
    found = {remote.name: remote for remote in lxdremotes.remotes(client)}
    for name in names or [name for name in found if name not in have]:
        if name not in found:
            raise UsageError(f"{client} has no remote {name!a} that could be a node", hint=f"{client} remote list")
        remote = found[name]
        if https:
            _add_api(lxdremotes.over_api(remote, client))
            continue
        try:
            ssh = {"user": user, "port": 0, "identity": ""}
            _add(name, remote.host, become, ssh, {"lxd": lxdremotes.over_ssh(remote, client)}, yes=yes)
        except UnreachableError as error:
            note(f"{safe(name)} is not added: {safe(error.message)}")
            note(f"  its daemon alone, with fewer checks: reberth node import-lxd {safe(name)} --https")


def _add_api(node: Node) -> None:
    """Ask a node's daemon what it is, store and tell."""
    from dataclasses import replace

    from reberth.commands import add_node

    config = common.load_config()
    if node.name in config.nodes:
        raise UsageError(f"there is a node {node.name} already", hint=f"reberth node rm {node.name}")
    with common.open_host(replace(config, nodes={**config.nodes, node.name: node}), quiet=True) as host:
        facts = host.stage.probe("lxd", node, host.shell(node.name))
    if not facts.get("usable"):
        note(f"{safe(node.name)} is not added: {safe(str(facts.get('reason')))}")
        return
    path = add_node.store(node)
    write([f"node {node.name} is in {safe(path)}", "  enabled      lxd, over HTTPS alone"])


def _confirm(node: Node, kind: str, fingerprint: str, *, yes: bool) -> None:
    note(f"{safe(node.address)} shows the host key\n  {safe(fingerprint)} ({safe(kind)})")
    if yes:
        return
    try:
        agreed = typer.confirm("Is this the key of the node?", err=True)
    except typer.Abort:
        agreed = False
    if not agreed:
        raise UntrustedError("the host key was not confirmed", hint="compare it on the node; --fingerprint or --yes")


@app.command("rm")
def rm(name: Name) -> None:
    """Remove a node from the inventory, with its pinned key."""
    from reberth.commands.add_node import unpin

    path = inventory.remove_node(check_name(name, "node name"))
    unpin(name)
    note(f"node {name} is gone from {safe(path)}")


@app.command("ls")
def ls(json: params.Json = False) -> None:
    """List the nodes."""
    nodes = [node for _, node in sorted(common.load_config().nodes.items())]
    if json:
        write_json({"schema": 1, "nodes": [plain(node) for node in nodes]})
        return
    rows = [
        (n.name, n.address or "-", n.connector, n.become, ", ".join(n.backends) or "-", ", ".join(n.transports) or "-")
        for n in nodes
    ]
    write(table(("NODE", "ADDRESS", "CONNECTOR", "BECOME", "BACKENDS", "TRANSPORTS"), rows))


@app.command("show")
def show(name: Name, json: params.Json = False) -> None:
    """Show one node as it is configured."""
    data = plain(common.load_config().node(check_name(name, "node name")))
    if json:
        write_json({"schema": 1, "node": data})
    else:
        write(fact_lines(data, "name"))


@app.command("enable")
def enable(name: Name, plugin: PluginName) -> None:
    """Enable a plugin on a node; only enabled plugins are ever called for it."""
    roles = Catalog().get(check_name(plugin, "plugin name")).declaration.roles
    kinds = [kind for role, kind in KINDS.items() if role in roles]
    if not kinds:
        raise PluginError(f"plugin {plugin} is {', '.join(sorted(roles))}: nothing to enable on a node")
    _set(name, kinds, plugin, enabled=True)


@app.command("disable")
def disable(name: Name, plugin: PluginName) -> None:
    """Disable a plugin on a node."""
    node = common.load_config().node(check_name(name, "node name"))
    kinds = [kind for kind in KINDS.values() if plugin in getattr(node, kind)]
    if not kinds:
        have = ", ".join(sorted(node.plugins))
        raise UsageError(f"plugin {plugin!a} is not enabled on node {name}", hint=f"enabled: {have}")
    _set(name, kinds, plugin, enabled=False)


def _set(name: str, kinds: list[str], plugin: str, *, enabled: bool) -> None:
    for kind in kinds:
        path = inventory.set_enabled(common.load_config(), check_name(name, "node name"), kind, plugin, enabled)
        word = "enabled" if enabled else "disabled"
        note(f"node {name}: {plugin} {word} ({kind}, {safe(path)})")
