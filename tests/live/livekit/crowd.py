"""Many containers moved at once, and beside them a stranger's criu that dumps and restores something of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from livekit import lxd as kit
from livekit.command import PLAIN, Command, Done
from livekit.stand import Stand, gone, healthy, keep_pids_apart, word_of
from reberth_lab.node import Node

LIMIT_S = 280.0
CONFIG = "/etc/criu/default.conf"
ADMINS = "# the administrator's own, without an end of its last line\ntcp-close"
# A stranger of the node, who reads CRIU's configuration as all do: dumped to its end and restored, again and again.
STRANGER = """
set -e
mkdir -p "$1/images"
setsid sleep 1000 </dev/null >"$1/out" 2>&1 &
pid=$!
echo $$ >"$1/shell"
while [ ! -e "$1/stop" ]; do
  code=0
  /usr/sbin/criu dump -t $pid -D "$1/images" -o dump.log || code=$?
  echo "dump $code" >>"$1/said"
  [ $code = 0 ] || break
  /usr/sbin/criu restore -d -D "$1/images" -o restore.log || code=$?
  why=; [ $code = 0 ] || why=$(grep Error "$1/images/restore.log")
  echo "restore $code" $why >>"$1/said"
  [ $code = 0 ] || break
  sleep 0.2
done
kill -KILL $pid || :
echo done >>"$1/said"
"""


@contextlib.contextmanager
def strangers(nodes: Sequence[Node]) -> Iterator[list[str]]:
    """On each node a stranger's criu that works all the time; the list has what it said when it has ended."""
    said: list[str] = []
    place = "/root/stranger"
    for node in nodes:
        node.run(["rm", "-rf", place])
        node.run(["mkdir", place])
        node.spawn(["sh", "-c", STRANGER, "sh", place])
    try:
        yield said
    finally:
        for node in nodes:
            node.run(["touch", f"{place}/stop"])
        for node in nodes:
            node.run(["sh", "-c", f"until grep -q done {place}/said; do sleep 0.1; done"], timeout_s=60)
            said += [f"{node.name} {line}" for line in node.read(f"{place}/said").splitlines()[:-1]]
            node.run(["rm", "-rf", place])


def move_at_once(nodes: Sequence[Node], command: Command, names: Sequence[str]) -> list[Done]:
    """Move these containers from the first node to the second, all begun at one moment."""
    with ThreadPoolExecutor(len(names)) as pool:
        words = [("move", "--json", "--", f"{nodes[0].name}:{name}", f"{nodes[1].name}:") for name in names]
        return list(pool.map(lambda one: command.run(*one, limit_s=LIMIT_S), words))


def check(nodes: Sequence[Node], command: Command, number: int) -> None:
    """As many containers as asked for arrive whole, no stranger is harmed, and the configuration is as before."""
    names = [f"t{i}" for i in range(number)]
    for node in nodes:
        node.write(CONFIG, ADMINS, 0o640)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: kit.launch(nodes[0], name), names))
        before = {name: kit.healthy(nodes[0], name) for name in names}
        begun = time.monotonic()
        with strangers(nodes) as said:
            found = move_at_once(nodes, command, names)
        seconds = time.monotonic() - begun
        failed = [f"{name}: {done}" for name, done in zip(names, found, strict=True) if done.code]
        assert not failed, "\n".join(failed)
        for name in names:
            kit.healthy(nodes[1], name, before[name])
            assert kit.status(nodes[0], name) == ""
        # A stranger that needs its own pid again finds it taken now and then, with reberth or without.
        harmed = [line for line in said if not line.endswith(" 0") and "File exists" not in line]
        assert not harmed and len(said) >= 4, said
        print(f"{number} moved at once in {seconds:.0f} s; {len(said)} dumps and restores of strangers beside them")
        for node in nodes:
            assert node.read(CONFIG) == ADMINS
            assert node.run(["stat", "-c", "%a", CONFIG]).stdout.strip() == "640"
        assert command.run("recover", "--json").report["runs"] == []
    finally:
        for name in names:
            kit.delete(nodes, name)
        for node in nodes:
            node.run(["rm", "-f", CONFIG])


def check_processes(nodes: Sequence[Node], command: Command, number: int) -> None:
    """As many processes arrive and go on, beside strangers; our own criu moves them, and reads no such file."""
    works = Stand(nodes)
    try:
        keep_pids_apart(nodes)
        handles = [works.raw("pulse") for _ in range(number)]
        words = [("move", *PLAIN, "--json", "--", word_of(nodes[0], one), f"{nodes[1].name}:") for one in handles]
        with strangers(nodes) as said, ThreadPoolExecutor(number) as pool:
            found = list(pool.map(lambda one: command.run(*one, limit_s=LIMIT_S), words))
        failed = [str(done) for done in found if done.code]
        assert not failed, "\n".join(failed)
        for one in handles:
            healthy(nodes[1], one)
            assert gone(nodes[0], one)
        harmed = [line for line in said if not line.endswith(" 0") and "File exists" not in line]
        assert not harmed and len(said) >= 4, said
        print(f"{number} processes moved at once; {len(said)} dumps and restores of strangers beside them")
    finally:
        works.stop_all()
