"""The steps of `reberth android setup`: decided from what is there, told before they are done, each safe to repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from reberth_android import device, files
from reberth_android.adb import Adb
from reberth_android.device import State
from reberth_android.keys import PublicKey, parse
from reberth_hooks import Controller, Exit, Node, ReberthError, UntrustedError, UsageError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for: the key, the node's name, and where sshd is to listen."""

    key: PublicKey
    name: str
    address: str = files.LOOPBACK
    port: int = files.DEFAULT_PORT
    reach: str = ""  # where this machine finds the phone, when sshd listens everywhere

    @property
    def by_usb(self) -> bool:
        """Tell whether the only way in is `adb forward`."""
        return self.address == files.LOOPBACK


@dataclass(frozen=True, slots=True)
class Step:
    """One change: what it does, what it opens (empty: nothing), and the act itself."""

    title: str
    opens: str
    act: Callable[[], None]


def device_steps(adb: Adb, state: State, wish: Wish) -> Iterator[Step]:
    """Yield the changes on the device that are not made yet, in their order."""
    script = files.start_script(state.texts[files.DEVICE_SCRIPT])
    if not state.kept:
        yield Step(
            f"keep what is there now in {files.KEPT_DIR}, for undo",
            "",
            lambda: _quiet(adb.run(device.KEEP, files.KEPT_DIR, *files.TOUCHED)),
        )
    for path in (files.SSH_DIR, files.USERINIT_DIR):
        if not state.entries[path].is_as(files.DIR_MODE):
            yield Step(
                f"{path}: directory, mode {files.DIR_MODE}, owner shell",
                "",
                lambda p=path: _quiet(adb.run(device.MAKE_DIR, p, files.DIR_MODE, device.SHELL)),  # type: ignore[misc]
            )
    yield from _host_key_steps(adb, state)
    texts = (
        (files.AUTHORIZED_KEYS, files.with_key(state.texts[files.AUTHORIZED_KEYS], wish.key), files.KEYS_MODE),
        (files.SSHD_CONFIG, files.sshd_config(wish.address, wish.port), files.CONFIG_MODE),
        (files.START_SCRIPT, script, files.SCRIPT_MODE),
    )
    for path, text, mode in texts:
        if state.texts[path] != text or not state.entries[path].is_as(mode):
            yield Step(
                f"{path}: {_what(path, text)}, mode {mode}, owner shell",
                _opens(path, wish),
                lambda p=path, t=text, m=mode: device.write(adb, p, t, m),  # type: ignore[misc]
            )


def _host_key_steps(adb: Adb, state: State) -> Iterator[Step]:
    """Yield a host key made on the device, and the right modes for those that are there."""
    public = f"{files.HOST_KEY}.pub"
    if not (state.entries[files.HOST_KEY].there and state.texts[public]):
        yield Step(
            f"{files.HOST_KEY}: a host key made on the device, mode 600",
            "",
            lambda: _quiet(adb.run(device.MAKE_KEY, files.HOST_KEY)),
        )
    for path in files.HOST_KEYS:
        entry = state.entries[path]
        if entry.there and not entry.is_as("600"):
            yield Step(
                f"{path}: mode 600, owner shell",
                "",
                lambda p=path: _quiet(adb.run(device.SET_MODE, p, "600", device.SHELL)),  # type: ignore[misc]
            )


def _what(path: str, text: str) -> str:
    if path == files.START_SCRIPT:
        return f"copy of {files.DEVICE_SCRIPT} that looks into {files.SSH_DIR}"
    return f"{len(text.splitlines())} lines"


def _opens(path: str, wish: Wish) -> str:
    if path == files.AUTHORIZED_KEYS:
        return f"who has the private half of {wish.key.fingerprint} can log in as user shell"
    if path == files.START_SCRIPT:
        return "where the device's init runs userinit.d, sshd starts at each boot"
    where = {files.LOOPBACK: "the device itself (and USB)", files.EVERYWHERE: "every network the phone is in"}
    return f"sshd will listen on {where.get(wish.address, wish.address)}, port {wish.port}"


def run_steps(steps: list[Step], say: Say) -> None:
    """Do them one by one, each told before; a failure says how far it came and how to go on or back."""
    for number, step in enumerate(steps, 1):
        tell(number, len(steps), step, say)
        try:
            step.act()
        except ReberthError as error:
            raise broken_off(error, f"at step {number} of {len(steps)} ({step.title})") from error


def broken_off(error: ReberthError, where: str) -> ReberthError:
    """Return the same failure, with how to go on or back; a peer that is not trusted stays that."""
    hint = "`reberth android setup` again goes on, `reberth android undo` puts the device back"
    exit_code = Exit.UNTRUSTED if isinstance(error, UntrustedError) else Exit.CLEANUP_PENDING
    return ReberthError(f"setup broke off {where}: {error.message}", hint=hint, tail=error.tail, exit_code=exit_code)


def tell(number: int, of: int, step: Step, say: Say) -> None:
    """One line for the step, one more for what it opens."""
    say(f"{number}/{of} {step.title}")
    if step.opens:
        say(f"    opens: {step.opens}")


def last_steps(controller: Controller, adb: Adb, wish: Wish, say: Say, *, changed: bool) -> Iterator[Step]:
    """Start sshd (anew where its files have changed), open the way over USB, and write the node down."""
    if changed or not device.running_pid(adb):
        yield Step(
            "start sshd" + (" anew" if device.running_pid(adb) else ""),
            "from now on sshd answers",
            lambda: restart(adb),
        )
    if not known(controller, adb, wish):
        way = "open a way over USB (adb forward, on this machine's loopback), " if wish.by_usb else ""
        yield Step(
            f"{way}pin the host key and add node {wish.name} to the inventory",
            "",
            lambda: add_node(controller, adb, wish, say),
        )


def restart(adb: Adb) -> None:
    """End the running sshd, if any, and start it from the present files."""
    device.stop(adb)
    device.start(adb)


def node_of(adb: Adb, wish: Wish, local_port: int = 0) -> Node:
    """Return the node as the inventory has it."""
    table: dict[str, object] = {"serial": adb.serial, "device_port": wish.port}
    if wish.by_usb:
        table |= {"port": local_port, "forward": True}
    else:
        table |= {"port": wish.port}
    if wish.key.identity:
        table["identity"] = wish.key.identity
    address = files.LOOPBACK if wish.by_usb else wish.reach or wish.address
    return Node(wish.name, address, "android", options={"android": table})


def known(controller: Controller, adb: Adb, wish: Wish) -> bool:
    """Tell whether the inventory has exactly this node already; UsageError when the name is another device's."""
    there = controller.nodes().get(wish.name)
    if there is None:
        return False
    table = dict(there.options_of("android"))
    if there.connector != "android" or table.get("serial") != adb.serial:
        raise UsageError(f"there is a node {wish.name} already, which is another machine", hint="--name NAME")
    ours = dict(node_of(adb, wish, int(table.get("port") or 0)).options_of("android"))
    if wish.by_usb and adb.forward(wish.port, int(table.get("port") or 0)) != table.get("port"):
        return False
    return {key: table.get(key) for key in ours} == ours and "known_hosts" in table


def add_node(controller: Controller, adb: Adb, wish: Wish, say: Say) -> None:
    """Read the host key over adb, which only the phone can answer, pin it, try the way, and write the node down."""
    key = host_key(adb)
    say(f"    host key {key.fingerprint} ({key.kind})")
    old = controller.nodes().get(wish.name)
    remembered = int(old.options_of("android").get("port") or 0) if old and wish.by_usb else 0
    local_port = adb.forward(wish.port, remembered) if wish.by_usb else 0
    node, _ = controller.add_node(node_of(adb, wish, local_port), f"{wish.name} {key.kind} {key.blob}")
    say(f"    node {node.name} is in the inventory: {node.address} port {node.options_of('android')['port']}")


def host_key(adb: Adb) -> PublicKey:
    """Return the device's host key, its public half."""
    return parse(adb.run(device.READ, f"{files.HOST_KEY}.pub"), f"the host key of {adb.serial!a}")


def _quiet(_: str) -> None:
    """A step answers nothing."""
