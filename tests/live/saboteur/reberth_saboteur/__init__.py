"""A wrapping plugin that runs a command in a phase of the move it wraps: how the live tests break things on time.

`SABOTAGE_PHASE` is prepare, sync, transfer-KIND, checkpoint, restore, commit or rollback; `SABOTAGE_CMD` a JSON list
in which `@pid@` becomes the controller's pid, `@id@` the run's id and `@images@` the target's folder of images. The
command runs to its end before the phase, or with `SABOTAGE_DELAY_S` so many seconds after its begin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from typing import Any

from reberth_hooks import Checkpoint, Declaration, Move, Receipt, Restored, Role, Round, Tree, hookimpl

done: set[str] = set()


@hookimpl
def reberth_describe() -> Declaration:
    """A wrapper, nothing else."""
    return Declaration("breaks one phase, for tests", frozenset({Role.WRAPPER}))


def strike(phase: str, move: Move) -> None:
    """Run the command if this is its phase, once."""
    if phase != os.environ.get("SABOTAGE_PHASE") or phase in done:
        return
    done.add(phase)
    words = {"@pid@": str(os.getpid()), "@id@": move.id, "@images@": str(move.recall("images.target") or "")}
    command = json.loads(os.environ["SABOTAGE_CMD"])
    for key, value in words.items():
        command = [word.replace(key, value) for word in command]
    delay_s = float(os.environ.get("SABOTAGE_DELAY_S") or 0)
    if delay_s:
        threading.Timer(delay_s, run, [command]).start()
    else:
        run(command)


def run(command: list[str]) -> None:
    """One command; that it failed must be seen, or the test would prove nothing."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=60)


@hookimpl(wrapper=True)
def reberth_prepare(move: Move) -> Generator[None, bool, bool]:
    """Around the preparation."""
    strike("prepare", move)
    return (yield)


@hookimpl(wrapper=True)
def reberth_sync(move: Move) -> Generator[None, Any, Any]:
    """Around the choice of what travels before the freeze."""
    strike("sync", move)
    return (yield)


@hookimpl(wrapper=True)
def reberth_checkpoint(move: Move, round: Round) -> Generator[None, Checkpoint, Checkpoint]:
    """Around each round."""
    strike("checkpoint", move)
    return (yield)


@hookimpl(wrapper=True)
def reberth_transfer(move: Move, parcel: Tree) -> Generator[None, Receipt, Receipt]:
    """Around each parcel."""
    strike(f"transfer-{parcel.kind}", move)
    return (yield)


@hookimpl(wrapper=True)
def reberth_restore(move: Move) -> Generator[None, Restored, Restored]:
    """Around the restore."""
    strike("restore", move)
    return (yield)


@hookimpl(wrapper=True)
def reberth_commit(move: Move) -> Generator[None, bool, bool]:
    """Around the commit."""
    strike("commit", move)
    return (yield)


@hookimpl(wrapper=True)
def reberth_rollback(move: Move) -> Generator[None, bool, bool]:
    """Around the rollback."""
    strike("rollback", move)
    return (yield)
