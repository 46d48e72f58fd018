"""S6 with images that criu really wrote: damaged in a checkpoint (112 times) or on their way, they are refused.

Live because the images are those of criu; parsers alone are in tests/unit/security.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from livekit.command import Command, Done
from livekit.damage import cases, damage_file
from livekit.snapshot import Watch
from livekit.stand import Stand, healthy, word_of

from reberth.archive import directory
from reberth_hooks import RefusedError
from reberth_lab.node import Node

SSH_BIN = Path(__file__).parent / "faults" / "bin"
BY_COMMAND = 16  # every so many of them the whole command is run
# Bytes from the begin of the stream: in its first frames, in the small images, in the pages.
PLACES = (40, 60_000, 6_000_000)


def test_s6_all_112_damages_of_real_images_are_refused(
    works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node, tmp_path: Path, monkeypatch
) -> None:
    handle = works.raw("tree", "--processes", "4")  # each process has images of its own
    place = tmp_path / "kept"
    assert reberth.run("checkpoint", word_of(node1, handle), str(place), "--json").code == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(reberth.state))  # where the key of the seal is
    running = watch.again()
    refused = 0
    for number, (path, damage) in enumerate(cases(list((place / "images").iterdir()))):
        assert directory.read_signed(place)["plan"]  # whole, before each damage
        whole = damage_file(path, damage)
        with pytest.raises(RefusedError):
            directory.read_signed(place)
        if number % BY_COMMAND == 0:
            done = reberth.run("restore", str(place), f"{node2.name}:", "--json")
            assert (done.code, "not as they were written" in done.error) == (10, True), f"{path.name} {damage}: {done}"
        whole()
        refused += 1
    assert refused == 112
    running.check(node2.name)  # no run was opened there, so no criu was started
    done = reberth.run("restore", str(place), f"{node2.name}:", "--json")  # the twin
    assert done.code == 0, str(done)
    healthy(node2, handle)
    works.stop(handle)
    watch.check()


@pytest.fixture
def on_the_way(reberth: Command, node2: Node, settings: Callable[[Callable[[str], str]], dict[str, str]]):
    """Moves with the data connection to the target damaged: a byte flipped, or the rest cut off."""
    piped = settings(lambda text: "".join(line for line in text.splitlines(True) if not line.startswith("direct")))

    def move(source: str, kind: str, at_bytes: int) -> Done:
        env = {
            **piped,
            "PATH": f"{SSH_BIN}{os.pathsep}{os.environ['PATH']}",
            "FAULT_HOST": node2.address,
            "FAULT_KIND": kind,
            "FAULT_AT_BYTES": str(at_bytes),
        }
        return reberth.move(source, f"{node2.name}:", env=env)

    return move


@pytest.mark.parametrize(("kind", "at_bytes"), [*(("flip", at) for at in PLACES), ("cut-off", 60_000)])
def test_s6_bytes_that_change_on_their_way_never_reach_criu(
    kind: str, at_bytes: int, on_the_way, works: Stand, watch: Watch, node1: Node, node2: Node
) -> None:
    handle = works.raw("memory", "--mib", "8")
    healthy(node1, handle)
    running = watch.again()
    done = on_the_way(word_of(node1, handle), kind, at_bytes)
    assert (done.code, done.report["outcome"]) == (20, "rolled-back"), str(done)
    assert done.report["error"]["phase"] != "restore", str(done)
    healthy(node1, handle)
    running.check()
    works.stop(handle)
    watch.check()


def test_s6_an_undamaged_stream_through_the_same_way_moves(
    on_the_way, works: Stand, watch: Watch, node1: Node, node2: Node
) -> None:
    handle = works.raw("memory", "--mib", "8")
    done = on_the_way(word_of(node1, handle), "flip", 1 << 40)
    assert done.code == 0, str(done)
    healthy(node2, handle)
    works.stop(handle)
    watch.check()
