"""Two aarch64 nodes, emulated: their kernel tracks no written pages, so `auto` takes post-copy, and says why."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from livekit import stand, tier
from livekit.command import Command
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of

from reberth_lab import apt
from reberth_lab.lab import VM, Lab
from reberth_lab.node import Node
from reberth_lab.proc import LabError
from reberth_lab.vm import image
from reberth_lab.vm.arch import AARCH64
from reberth_lab.vm.up import missing_tools

MOVE_S = 900.0
WORDS = ("memory", "--mib", "32", "--rate", "0.5")
pytestmark = pytest.mark.timeout(3600)  # the first one makes the disk, and both boot


@pytest.fixture(scope="module")
def pis() -> Iterator[tuple[Lab, tuple[Node, Node]]]:
    """A lab of two, or the reason why there is none."""
    if os.geteuid() != 0:
        pytest.skip("virtual nodes need root: taps and a bridge")
    if missing_tools(AARCH64):
        pytest.skip(f"not installed: {', '.join(missing_tools(AARCH64))}")
    lab = Lab(tier.lab_name("a"), say=print)
    if image.cached(lab.site.cache, arch=AARCH64) is None:
        try:
            apt.find_mirror()
        except LabError as error:
            pytest.skip(f"there is no disk for aarch64 nodes, and none can be made: {error} ({error.hint})")
    if not tier.KEEP:
        lab.down()
    lab.up(2, kind=VM, arch=AARCH64)
    yield lab, (lab.node("node1"), lab.node("node2"))
    if not tier.KEEP:
        lab.down()


@pytest.fixture(scope="module")
def command(pis: tuple[Lab, tuple[Node, Node]], tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The command on the outer machine, which is of another architecture."""
    return Command(pis[0].config_path, tmp_path_factory.mktemp("state"))


def test_the_kernel_lacks_soft_dirty(pis: tuple[Lab, tuple[Node, Node]]) -> None:
    for node in pis[1]:
        assert node.run(["uname", "-m"]).stdout.strip() == AARCH64
        found = {}
        for feature in ("mem_dirty_track", "uffd-noncoop"):
            found[feature] = node.run(["criu", "check", "--feature", feature], check=False).returncode
        assert found["uffd-noncoop"] == 0 != found["mem_dirty_track"], found


def test_auto_takes_post_copy_by_itself(pis: tuple[Lab, tuple[Node, Node]], command: Command) -> None:
    """The plan, that move, and one back that stops and copies: every byte right each time."""
    node1, node2 = pis[1]
    stand.keep_pids_apart(pis[1])
    watch, works = Watch(pis[1], command.state, command.ids), Stand(pis[1])
    try:
        handle = works.raw(*WORDS)
        hasty = ("--max-downtime", "50ms")
        plan = command.run("plan", *hasty, "--json", "--", word_of(node1, handle), "node2:", limit_s=MOVE_S)
        assert plan.code == 0, str(plan)
        print(json.dumps({key: plan.report[key] for key in ("mode", "why", "predicted", "measured")}))
        assert plan.report["mode"] == "post-copy", str(plan)
        assert "no pre-copy" in plan.report["why"] and "soft-dirty" in plan.report["why"].lower().replace("_", "-")
        for here, there, mode in ((node1, node2, "auto"), (node2, node1, "stop-and-copy")):
            words = ("move", "--mode", mode, *hasty, "--json", "--", word_of(here, handle), f"{there.name}:")
            done = command.run(*words, limit_s=MOVE_S)
            assert done.code == 0, str(done)
            print(done.report["mode"], done.report["downtime_s"], done.report["total_s"], done.report["bytes"])
            assert done.report["mode"] == ("post-copy" if mode == "auto" else mode)
            healthy(there, handle)
            assert gone(here, handle)
        works.stop(handle)
        watch.check()
    finally:
        works.stop_all()
