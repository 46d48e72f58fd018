"""`reberth lab demo`: a Redis under load moves to node2, and every acknowledged write is looked for there."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from reberth_lab import demo_bundle, demo_move
from reberth_lab.demo_address import service_address
from reberth_lab.demo_bundle import BUNDLE, CONTAINER, PORT
from reberth_lab.demo_client import Client, Tally
from reberth_lab.demo_move import Moved, by_reberth
from reberth_lab.demo_redis import Connection, RedisError
from reberth_lab.lab import Lab
from reberth_lab.node import Node
from reberth_lab.proc import LabError, say

PRELOAD_VALUES, PRELOAD_BYTES = 1024, 64 << 10
WARM_UP_S, AFTER_S = 1.5, 2.0
START_LIMIT_S = 10
BATCH = 500
FAILED = 1
UNDECIDED = (40, 41, 42, 50)  # exit statuses of `move` after which the next command needs what is there


@dataclass(frozen=True)
class Verdict:
    """What was found after the move."""

    acknowledged: int
    lost: list[str]
    preload_damaged: int
    source_runs: bool
    connections_too_many: int = 0


def run_demo(lab: Lab, *, as_json: bool = False, plain: bool = False, one_connection: bool = False) -> int:
    """Return the whole demo; returns the exit status (0 only if the move worked and nothing was lost).

    With `one_connection` the client talks to a service address that moves too, and must not connect again.
    """
    if plain and one_connection:
        raise LabError("the plain way moves no address", "give one of --plain and --one-connection")
    if len(lab.nodes()) < 2:
        lab.up(2)
    else:
        lab.refresh()
    source, target = lab.node("node1"), lab.node("node2")
    _clean(source, target)  # of a demo that was killed
    moved: Moved | None = None
    try:
        say(
            f"starting Redis in a runc container on {source.name}, {PRELOAD_VALUES * PRELOAD_BYTES >> 20} MiB of values"
        )
        _start(source)
        with service_address(lab, source, target) if one_connection else contextlib.nullcontext("") as address:
            servers = {address: address} if address else {node.name: node.address for node in (source, target)}
            client = Client(servers, PORT)
            client.start()
            try:
                time.sleep(WARM_UP_S)
                say(f"moving it to {target.name} while a client writes and reads")
                moved = demo_move.plainly(lab, source, target) if plain else by_reberth(lab, source, target, address)
                time.sleep(AFTER_S)
            finally:
                client.stop()
        verdict = _verify(client.tally, source, target if moved.arrived else source, bool(address))
    finally:
        if moved is None or moved.exit_code not in UNDECIDED:
            _clean(source, target)
        else:
            say("the container stays where it is: `reberth status` and `reberth recover` go on from here")
    print(json.dumps(_data(moved, client.tally, verdict), indent=1) if as_json else _text(moved, client.tally, verdict))
    if moved.exit_code != 0:
        return moved.exit_code
    wrong = (*asdict(verdict).items(), ("reads", client.tally.wrong_reads))
    return FAILED if any(found for what, found in wrong if what != "acknowledged") else 0


def _clean(*nodes: Node) -> None:
    """Removes what a demo makes on the nodes."""
    for node in nodes:
        node.run(["runc", "delete", "--force", CONTAINER], check=False)
        node.run(["rm", "-rf", BUNDLE], check=False)


def _start(node: Node) -> None:
    demo_bundle.build(node)
    # /dev/null is reopened inside by runc; any other file of the node would be one that the dump cannot name.
    command = 'exec runc run -d -b "$1" "$2" </dev/null >/dev/null 2>&1'
    node.run(["sh", "-c", command, "sh", BUNDLE, CONTAINER], check=False)
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            connection = Connection(node.address, PORT)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                log = node.run(["tail", "-n", "5", f"{BUNDLE}/rootfs/data/redis.log"], check=False).stdout
                raise LabError(f"Redis does not start on {node.name}: {log or error}") from error
            time.sleep(0.05)
    for number, value in enumerate(_preload()):
        connection.ask("SET", f"preload:{number}", value)
    connection.close()


def _preload() -> Iterator[bytes]:
    """Return the same values every time, and not compressible."""
    source = random.Random(20)
    return (source.randbytes(PRELOAD_BYTES) for _ in range(PRELOAD_VALUES))


def _verify(tally: Tally, source: Node, owner: Node, one_connection: bool) -> Verdict:
    """Asks the node that should run Redis now for everything."""
    runs = owner is not source and source.run(["runc", "state", CONTAINER], check=False).returncode == 0
    keys = list(tally.acknowledged)
    lost, damaged = list(keys), PRELOAD_VALUES
    with contextlib.suppress(OSError, RedisError):
        connection = Connection(owner.address, PORT)
        lost = []
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]
            found = connection.ask("MGET", *batch)
            values = found if isinstance(found, list) else []
            lost += [key for key, value in zip(batch, values, strict=True) if value != tally.acknowledged[key].encode()]
        damaged = sum(connection.ask("GET", f"preload:{n}") != value for n, value in enumerate(_preload()))
        connection.close()
    return Verdict(len(keys), lost, damaged, runs, tally.connections - 1 if one_connection else 0)


def _data(moved: Moved, tally: Tally, verdict: Verdict) -> dict[str, Any]:
    seen = {key: value for key, value in asdict(tally).items() if key != "acknowledged"}
    return {"schema": 1, "exit_code": moved.exit_code, "move": moved.report, "client": seen, "verdict": asdict(verdict)}


def _text(moved: Moved, tally: Tally, verdict: Verdict) -> str:
    servers = " then ".join(tally.served_by)
    lines = [
        f"{moved.how}: {moved.report.get('outcome', 'no report')} (exit status {moved.exit_code})",
        f"client: {verdict.acknowledged} acknowledged writes, {tally.reads} reads, served by {servers}",
        f"{tally.connections} connection{'s' * (tally.connections != 1)} from beginning to end",
    ]
    if verdict.connections_too_many:
        lines.append("WRONG: the client had to connect again")
    if verdict.source_runs:
        lines.append("WRONG: the container still exists on node1")
    if tally.wrong_reads:
        lines.append(f"WRONG: {len(tally.wrong_reads)} reads did not return what had been acknowledged")
    if verdict.preload_damaged:
        lines.append(f"WRONG: {verdict.preload_damaged} of {PRELOAD_VALUES} preloaded values are not what they were")
    if tally.errors:
        lines.append(f"errors that Redis reported: {'; '.join(sorted(set(tally.errors))[:3])}")
    seen = f"the client saw {tally.longest_silence_s * 1000:.0f} ms of silence"
    lines.append(f"downtime {_seconds(moved.report.get('downtime_s'))} ({seen})")
    lines.append(f"total {_seconds(moved.report.get('total_s'))}")
    lines.append(f"moved {_volume(moved.report.get('bytes'))}")
    lines.append(f"{len(verdict.lost)} acknowledged writes lost")
    return "\n".join(lines)


def _seconds(value: Any) -> str:
    if not isinstance(value, int | float):
        return "unknown"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def _volume(parts: Any) -> str:
    if not isinstance(parts, dict):
        return "unknown"
    numbers = {name: value for name, value in parts.items() if isinstance(value, int)}
    shown = ", ".join(f"{name} {value / (1 << 20):.1f}" for name, value in numbers.items())
    return f"{sum(numbers.values()) / (1 << 20):.1f} MiB ({shown})"
