"""A criu on the target that fails to restore, fast and in many ways: what the daemons then make of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from reberth_lab.node import Node

CRIU, KEPT, SEEN = "/usr/local/sbin/criu", "/usr/local/sbin/criu.kept", "/run/restores"
# In place of the lab's criu, which leaves out --lsm-profile; `d` is the folder of the images.
SCRIPT = """#!/bin/sh
[ "$1" = restore ] || exec {kept} "$@"
echo "$@" >>{seen}
word= d=
for now; do
  [ "$word" = -D ] && d=$now
  word=$now
done
root=/var/lib/lxd/containers/c1/rootfs
{harm}
exec {kept} "$@"
"""


@dataclass(frozen=True)
class Trap:
    """One way to fail: what the script does before criu restores; `check` is the preflight's that finds it, if any.

    `word` is one of the error that the user must read.
    """

    name: str
    harm: str = ""
    check: str = ""
    word: str = ""


TRAPS = (
    Trap("apparmor", check="apparmor", word="AppArmor"),
    Trap("lies", "exit 0"),
    # CRIU would read on for ever; it is refused before that, so criu is called.
    Trap("pages", 'for f in "$d"/pages-*.img; do truncate -s -4096 "$f"; done', word="pages-1.img has"),
    Trap("file-missing", 'rm "$root/var/log/beats"'),
    Trap("refuses", "exit 1"),
    Trap("dies", "kill -KILL $$"),
    Trap("gone", 'exec /usr/sbin/criu.gone "$@"'),
    Trap("inventory", ': >"$d/inventory.img"'),
    Trap("core", ': >"$d/core-1.img"'),
    Trap("file-replaced", 'rm "$root/var/log/beats"; mkdir "$root/var/log/beats"'),
    Trap("script", 'set -- "$@" --action-script /bin/false'),
    Trap("selinux", 'exec /usr/sbin/criu "$@" --lsm-profile selinux:made-up'),
    Trap("apparmor-2", check="apparmor", word="AppArmor"),
    Trap("apparmor-3", check="apparmor", word="AppArmor"),
)


@contextlib.contextmanager
def laid(node: Node, trap: Trap) -> Iterator[None]:
    """The trap on this node; what was there is there again afterwards."""
    shim = node.read(CRIU)
    text = shim
    if trap.check == "apparmor":
        text = '#!/bin/sh\nexec /usr/sbin/criu "$@"\n'
    elif trap.harm:
        text = SCRIPT.format(kept=KEPT, seen=SEEN, harm=trap.harm) + "# --lsm-profile is left out\n"
    node.write(KEPT, shim, 0o755)
    node.write(CRIU, text, 0o755)
    try:
        yield
    finally:
        node.write(CRIU, shim, 0o755)
        node.run(["rm", "-f", KEPT, SEEN])


def restores(node: Node) -> int:
    """How often a daemon has asked the trap for a restore."""
    done = node.run(["cat", SEEN], check=False)
    return len(done.stdout.splitlines()) if done.returncode == 0 else 0
