"""`reberth lab up|down|status|refresh|demo|ssh`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from reberth_lab.proc import LabError

if TYPE_CHECKING:
    from reberth_lab.lab import Lab

HELP = "Two or more nodes on this machine, to try things with (needs root; REBERTH_LAB_NAME gives you one of your own)."

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Nodes = Annotated[int, typer.Option(min=1, max=99, help="How many nodes shall run.")]
Kind = Annotated[
    str | None,
    typer.Option(
        help="namespace (default): this machine's kernel, native speed; vm: kernels of their own, by QEMU, slow; "
        "android: two phones beside two nodes of namespaces.",
        show_default=False,
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        help="vm: the nodes' processor, x86_64 (default) or aarch64; emulated if it is not this machine's.",
        show_default=False,
    ),
]
Install = Annotated[bool, typer.Option("--install", help="Install debootstrap (vm: QEMU) by apt if it is missing.")]
Plain = Annotated[bool, typer.Option("--plain", help="Move by dump, rsync and restore instead, to compare.")]
OneConnection = Annotated[
    bool, typer.Option("--one-connection", help="Move the service's address too: the client keeps its connection.")
]
WithParts = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="PART",
        help="lxd, incus: that daemon; shells: fish, zsh, ..., sudo; zfs: vm, its modules.",
    ),
]
Rebuild = Annotated[bool, typer.Option("--rebuild", help="Make the root filesystem anew.")]


def lab_commands() -> typer.Typer:
    """Return the command group."""
    app = typer.Typer(
        help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None
    )
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(refresh)
    app.command()(demo)
    # Options after the node's name belong to the remote command.
    app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(ssh)
    return app


@contextmanager
def _told(as_json: bool = False) -> Iterator[Lab]:
    """The lab; its errors become one message with a hint (or a JSON document) and an exit status."""
    from reberth_lab.lab import Lab

    try:
        yield Lab.default()
    except LabError as error:
        if as_json:
            data = {"code": error.code, "message": error.message, "hint": error.hint, "exit_code": int(error.exit_code)}
            print(json.dumps({"schema": 1, "error": data}))
        else:
            print(f"reberth lab: {error.message}", file=sys.stderr)
            print(f"  hint: {error.hint or '`reberth lab down` removes what is there'}", file=sys.stderr)
        raise typer.Exit(int(error.exit_code)) from error


def up(
    nodes: Nodes = 2,
    kind: Kind = None,
    arch: Arch = None,
    with_parts: WithParts = None,
    install: Install = False,
    rebuild: Rebuild = False,
) -> None:
    """Start the nodes; what runs already stays, and gets the present code of reberth."""
    with _told() as lab:
        plain = None if kind == "android" else kind
        lab.up(nodes, kind=plain, arch=arch, install=install, rebuild=rebuild, with_parts=tuple(with_parts or ()))
        if kind == "android":
            from reberth_lab import android

            for phone in android.up(lab, install=install):
                print(f"adb connect {phone.serial}")
        print(f"export REBERTH_CONFIG={lab.config_path}")


def down() -> None:
    """End the nodes and remove every trace but the cached root filesystem."""
    with _told() as lab:
        lab.down()


def status(as_json: Json = False) -> None:
    """Tell what is up, and what a killed run has left."""
    with _told(as_json) as lab:
        found = lab.status()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    print(f"lab {found['name']}, kind {found['kind']}: {'up' if found['up'] else 'down'}")
    for node in found["nodes"]:
        print(f"  {node['name']}  {node['address']}  {'QEMU' if found['kind'] == 'vm' else 'init'} {node['pid']}")
    for phone in found["phones"]:
        print(f"  {phone['name']}  adb connect {phone['serial']}")
    if found["versions"]:
        print("  " + ", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    if found["config"] and found["up"]:
        print(f"  export REBERTH_CONFIG={found['config']}")
    for trace in found["left"]:
        print(f"  left behind: {trace} (reberth lab down removes it)")


def refresh() -> None:
    """Copy the present code of reberth into the nodes that run."""
    with _told() as lab:
        lab.refresh()


def ssh(node: str, command: Annotated[list[str] | None, typer.Argument(help="Else a login shell.")] = None) -> None:
    """Log in to a node, or run a command there."""
    with _told() as lab:
        there = lab.node(node)
        _ = there.pid  # says that the node is down before ssh does so less clearly
        words = list(command or ())
        argv = there.ssh_argv(words[1:] if words[:1] == ["--"] else words)
    os.execvp(argv[0], argv)


def demo(as_json: Json = False, plain: Plain = False, one_connection: OneConnection = False) -> None:
    """Move a Redis under load from node1 to node2 and prove that no acknowledged write is lost."""
    from reberth_lab.demo import run_demo

    with _told(as_json) as lab:
        raise typer.Exit(run_demo(lab, as_json=as_json, plain=plain, one_connection=one_connection))
