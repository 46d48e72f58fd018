"""The two halves of a move: a workload goes into a directory and comes out of it on the other node.

Live because a checkpoint of real criu is restored on another node.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of

from reberth_lab.node import Node


@pytest.mark.parametrize(("kind", "workload"), [("raw", "memory"), ("runc", "fswriter")])
def test_into_a_directory_and_out_again(
    kind: str,
    workload: str,
    works: Stand,
    watch: Watch,
    reberth: Command,
    node1: Node,
    node2: Node,
    tmp_path: Path,
) -> None:
    """All of it, also where pages would follow a move: nobody could ask for them later."""
    handle = (works.raw if kind == "raw" else works.container)(workload)
    place, env = tmp_path / "kept", {"REBERTH_MODE": "post-copy"}
    done = reberth.run("checkpoint", word_of(node1, handle), str(place), "--json", env=env)
    assert (done.code, done.report.get("outcome"), done.report.get("owner")) == (0, "moved", "nobody"), str(done)
    assert gone(node1, handle)
    assert {"images", "checkpoint.json"} <= {entry.name for entry in place.iterdir()}
    done = reberth.run("restore", str(place), f"{node2.name}:", "--json", env=env)
    assert (done.code, done.report.get("outcome")) == (0, "moved"), str(done)
    healthy(node2, handle)
    works.stop(handle)
    watch.check()


@pytest.mark.parametrize("spoil", ["image", "document", "seal", "added"])
def test_a_changed_directory_is_never_restored(
    spoil: str, works: Stand, watch: Watch, reberth: Command, node1: Node, node2: Node, tmp_path: Path
) -> None:
    handle = works.raw("memory", "--mib", "4")
    place = tmp_path / "kept"
    assert reberth.run("checkpoint", word_of(node1, handle), str(place), "--json").code == 0
    image = next(iter(sorted((place / "images").glob("pages-*.img"))))
    document = json.loads((place / "checkpoint.json").read_text())
    if spoil == "image":
        data = bytearray(image.read_bytes())
        data[len(data) // 2] ^= 1
        image.write_bytes(data)
    elif spoil == "added":
        (place / "images" / "extra.img").write_bytes(b"x")
    else:
        key = "checkpoint" if spoil == "document" else "seal"
        document[key] = document[key].replace("0", "1", 1) if "0" in document[key] else document[key] + " "
        (place / "checkpoint.json").write_text(json.dumps(document))
    done = reberth.run("restore", str(place), f"{node2.name}:", "--json")
    assert done.code == 10, str(done)
    assert gone(node2, handle)


def test_a_directory_in_use_is_refused(works: Stand, reberth: Command, node1: Node, tmp_path: Path) -> None:
    handle = works.raw("memory", "--mib", "4")
    (tmp_path / "mine").write_text("precious")
    done = reberth.run("checkpoint", word_of(node1, handle), str(tmp_path), "--json")
    assert done.code == 2, str(done)
    healthy(node1, handle)
