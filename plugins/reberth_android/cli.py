"""`reberth android setup|start|stop|status|undo`: words in, text or JSON out."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reberth_hooks import Exit, Level, ReberthError, RefusedError, UsageError, plain

if TYPE_CHECKING:
    from reberth_android.adb import Adb
    from reberth_android.keys import PublicKey
    from reberth_android.setup import Step, Wish
    from reberth_hooks import Controller, Node

HELP = "Set a LineageOS phone up as a node, over adb, and take it back again."
Which = Annotated[
    str, typer.Argument(metavar="[PHONE]", help="A node of the inventory, or a serial number.", show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.", show_default=False)]


def android_commands(controller: Controller) -> typer.Typer:
    """Return the command group; each command gets the controller by closure."""
    app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None)

    @app.command()
    def setup(
        serial: Annotated[
            str, typer.Argument(metavar="[SERIAL]", help="As `adb devices` shows.", show_default=False)
        ] = "",
        key: Annotated[str, typer.Option(metavar="FILE.pub", help="The public key.", show_default=False)] = "",
        name: Annotated[str, typer.Option(help="The node's name.")] = "phone",
        address: Annotated[
            str,
            typer.Option(help="Listen on this address of the phone, or `any`. Else only over USB.", show_default=False),
        ] = "",
        reach: Annotated[
            str, typer.Option(metavar="HOST", help="With --address any: where the phone is found.", show_default=False)
        ] = "",
        port: Annotated[int, typer.Option(min=1, max=65535, help="The port of sshd.")] = 22,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the steps and do nothing.")] = False,
        yes: Yes = False,
    ) -> None:
        """Let a phone's own sshd start with your public key, and add it to the inventory.

        Every step is printed before it is done. `reberth android undo` puts all of it back.

        \b
        reberth android setup --dry-run
        reberth android setup --address 192.0.2.7 --name phone
        """
        from reberth_android import files

        where = address or files.LOOPBACK
        _check_words(name, where, reach)
        do_setup(controller, serial, key, (name, where, port, reach), dry_run=dry_run, yes=yes)

    @app.command()
    def start(phone: Which = "") -> None:
        """Start the phone's sshd, and open the way over USB again where that is used."""
        from reberth_android import device

        adb, node = find_phone(controller, phone)
        device.require_set_up(adb)
        rooted = adb.become_root()
        pid = device.running_pid(adb) or device.start(adb)
        _leave(adb, rooted)
        say(f"sshd runs on {ascii(adb.serial)[1:-1]}, pid {pid}")
        if node and node.options_of("android").get("forward"):
            table = node.options_of("android")
            local = adb.forward(int(table["device_port"]), int(table["port"]))
            say(f"127.0.0.1 port {local} of this machine leads there")

    @app.command()
    def stop(phone: Which = "") -> None:
        """End the phone's sshd, and close the way over USB; at its next start it may run again."""
        from reberth_android import device

        adb, node = find_phone(controller, phone)
        rooted = adb.become_root()
        ran = device.stop(adb)
        _leave(adb, rooted)
        _close_way(adb, node)
        say("sshd is stopped" if ran else "no sshd of ours was running")
        if device.starts_at_boot(adb) != "no":
            say("it may start again when the phone does; `reberth android undo` prevents that")

    @app.command()
    def status(phone: Which = "", as_json: Json = False) -> None:
        """Tell what runs, where it listens, who can log in, and what is open further than it should be."""
        from reberth_android.status import status as look

        adb, node = find_phone(controller, phone)
        found = look(adb)
        data = {**plain(found), "serial": adb.serial, "node": node.name if node else ""}
        if as_json:
            print(json.dumps({"schema": 1, **data}, indent=1))
        else:
            for line in status_lines(data):
                print(line)

    @app.command()
    def undo(phone: Which = "", yes: Yes = False) -> None:
        """Put the phone back as it was before the first setup, and take it out of the inventory."""
        adb, node = find_phone(controller, phone)
        do_undo(controller, adb, node, yes=yes)

    return app


def say(text: str) -> None:
    """Tell what happens on stderr; stdout carries data only."""
    print(text, file=sys.stderr, flush=True)


def _check_words(name: str, address: str, reach: str) -> None:
    """No word that could be taken for an option or for two words, in a file of sshd's or on a command line."""
    import ipaddress

    from reberth_android import files

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        raise UsageError(f"{name!a} is no node name", hint="letters, digits, dots, dashes and underscores")
    if reach and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.:_%-]*", reach):
        raise UsageError(f"{reach!a} is no host", hint="a host name or an address")
    if address == files.EVERYWHERE:
        if not reach:
            raise UsageError("--address any needs --reach HOST", hint="where does this machine find the phone?")
        return
    try:
        chosen = ipaddress.ip_address(address)
    except ValueError as error:
        raise UsageError(f"{address!a} is no address", hint="one address of the phone, or any") from error
    if chosen.is_unspecified:
        raise UsageError(f"{address} means every address", hint="if that is meant: --address any")


def find_phone(controller: Controller, word: str) -> tuple[Adb, Node | None]:
    """Return the device of a node or serial number (else the only one), and its node if it has one."""
    from reberth_android import adb

    phones = {n: node for n, node in controller.nodes().items() if node.connector == "android"}
    if word in phones:
        serial = str(phones[word].options_of("android").get("serial") or "")
        return adb.find(controller, serial), phones[word]
    found = adb.find(controller, word)
    node = next((n for n in phones.values() if n.options_of("android").get("serial") == found.serial), None)
    return found, node


def do_setup(
    controller: Controller, serial: str, key: str, place: tuple[str, str, int, str], *, dry_run: bool, yes: bool
) -> None:
    """All of setup; raises what its parts raise."""
    from reberth_android import adb as adbs
    from reberth_android import device, keys, setup
    from reberth_android.setup import Wish

    name, address, port, reach = place
    adb = adbs.find(controller, serial)
    device.require_lineage(adb)
    chosen = keys.choose(controller, key, Path.home(), yes=yes or dry_run, ask=_ask_key)
    wish = Wish(chosen, name, address, port, reach)
    say(f"device {ascii(adb.serial)[1:-1]}, key {chosen.fingerprint} ({ascii(chosen.comment)[1:-1]})")
    rooted = adb.become_root()
    try:
        state = device.look(adb)
        steps = list(setup.device_steps(adb, state, wish))
        _agree(steps, controller, adb, wish, dry_run=dry_run, yes=yes)
        if dry_run:
            return
        adb.run(device.SWEEP, "/data/local/reberth-kept")
        setup.run_steps(steps, say)
        try:
            last = list(setup.last_steps(controller, adb, wish, say, changed=_restart_needed(steps)))
        except ReberthError as error:
            raise setup.broken_off(error, "after the device's files were written") from error
        setup.run_steps(last, say)
        _end_setup(adb, wish, bool(steps or last))
    finally:
        _leave(adb, rooted)


def _restart_needed(steps: Sequence[Step]) -> bool:
    """Tell whether sshd or its script reads something that has changed; it reads authorized_keys at each login."""
    return any(word in step.title for step in steps for word in ("sshd_config", "host_", "99sshd"))


def _agree(steps: Sequence[Step], controller: Controller, adb: Adb, wish: Wish, *, dry_run: bool, yes: bool) -> None:
    """Print what would be done, and ask."""
    from reberth_android import setup

    setup.known(controller, adb, wish)  # a name that is taken is told before anything is done
    if not (dry_run or (steps and not yes)):
        return
    say("what would be done:" if dry_run else "what will be done:")
    for number, step in enumerate(steps, 1):
        setup.tell(number, len(steps), step, say)
    way = "over USB (adb forward)" if wish.by_usb else f"at {wish.reach or wish.address}"
    say(f"then: start sshd where it does not run, and have node {wish.name} {way} in the inventory")
    if not dry_run:
        _confirm("Do this?")


def _confirm(question: str) -> None:
    try:
        agreed = typer.confirm(question, err=True)
    except typer.Abort:
        agreed = False
    if not agreed:
        raise RefusedError("not confirmed", hint="--yes does not ask")


def _ask_key(offered: Sequence[PublicKey]) -> PublicKey:
    for number, key in enumerate(offered, 1):
        say(f"{number}  {key.fingerprint} {key.kind} {ascii(key.comment)[1:-1]}")
    try:
        answer = int(typer.prompt("Which key", type=int, err=True))
    except typer.Abort:
        answer = 0
    if not 1 <= answer <= len(offered):
        raise UsageError("no key was chosen", hint="--key FILE.pub")
    return offered[answer - 1]


def _end_setup(adb: Adb, wish: Wish, changed: bool) -> None:
    from reberth_android import device

    if not changed:
        say("everything is as it should be; nothing was changed")
        return
    boot = device.starts_at_boot(adb)
    if boot != "yes":
        known = "does not run" if boot == "no" else "may not run"
        say(f"this phone {known} /data/local/userinit.d at boot; after each: reberth android start {wish.name}")
    say("when you no longer need adb: switch USB debugging off (Developer options)" if not wish.by_usb else "done")


def _leave(adb: Adb, rooted: bool) -> None:
    """Take back the root that we took; never hides what happened before."""
    if rooted:
        try:
            adb.leave_root()
        except ReberthError as error:
            say(f"warning: adb may still be root there: {error.message}")


def _close_way(adb: Adb, node: Node | None) -> None:
    if node and node.options_of("android").get("forward"):
        adb.unforward(int(node.options_of("android").get("port") or 0))


def do_undo(controller: Controller, adb: Adb, node: Node | None, *, yes: bool) -> None:
    """Stop sshd, put every touched path back, close the way, forget the node."""
    from reberth_android import device, files

    rooted = adb.become_root()
    try:
        kept = device.look(adb).kept
        say("puts back what setup has changed:" if kept else "setup has changed nothing on the device")
        if kept:
            for path in files.TOUCHED:
                say(f"  {path}")
        if not yes and (kept or node):
            _confirm("Do this? Keys that were added since lose their way in.")
        if kept:
            _put_back(adb)
        adb.run(device.SWEEP, files.KEPT_DIR)
    finally:
        _leave(adb, rooted)
    _close_way(adb, node)
    if node and controller.remove_node(node.name):
        say(f"node {node.name} is out of the inventory")


def _put_back(adb: Adb) -> None:
    """Stop sshd and undo; what breaks off can be done again, since what is kept goes last."""
    from reberth_android import device, files

    try:
        device.stop(adb)
        for line in adb.run(device.UNDO, files.KEPT_DIR).splitlines():
            say(line)
    except ReberthError as error:
        hint = "`reberth android undo` again does all of it"
        text = f"undo broke off: {error.message}"
        raise ReberthError(text, hint=hint, tail=error.tail, exit_code=Exit.CLEANUP_PENDING) from error


def status_lines(data: dict[str, Any]) -> list[str]:
    """Return a status for a person."""
    runs = f"runs (pid {data['pid']})" if data["pid"] else "does not run"
    where = ", ".join(data["listening"]) or "nothing"
    boot = {"yes": "yes", "no": "no", "unknown": "unknown"}[data["boot"]]
    by_hand = "" if boot == "yes" else f"; by hand: reberth android start {data['node'] or data['serial']}"
    lines = [
        f"device     {ascii(data['serial'])[1:-1]}" + (f", node {data['node']}" if data["node"] else ""),
        f"set up     {'yes, undo is possible' if data['set_up'] else 'no'}",
        f"sshd       {runs}",
        f"listens    {where}",
        f"keys       {data['keys']}",
        f"at boot    {boot}{by_hand}",
    ]
    for check in data["checks"]:
        if check["level"] != Level.OK:
            lines += [f"warning    {check['id']}: {check['reason']}", f"           {check['remedy']}"]
    return lines
