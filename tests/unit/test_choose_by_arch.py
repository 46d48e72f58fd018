"""What `auto` takes on other processors, from what the helper and criu say there: the probes go the whole way."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from reberth.config.request import Request
from reberth.plan import choose
from reberth_hooks import Declaration, Mode, Options, Role, Survey
from reberth_hooks.criu.modes import unfit_modes

MIB = 1 << 20
PROBES = json.loads(Path(__file__).parent.with_name("fixtures").joinpath("probes.json").read_text(encoding="utf-8"))
ALL = frozenset({Mode.STOP_AND_COPY, Mode.PRE_COPY, Mode.POST_COPY, Mode.HYBRID})
BOTH = ("source", "target")
TREE = {"shared_locks": []}


def auto(source, target, mib=256, max_downtime_s=0.05):
    facts = dict(zip(BOTH, (source, target), strict=True))
    unfit = unfit_modes(facts, "criu", TREE, ())
    declaration = Declaration("a backend", frozenset({Role.BACKEND}), modes=ALL)
    stage = SimpleNamespace(catalog=SimpleNamespace(get=lambda name: SimpleNamespace(declaration=declaration)))
    request = Request("web", "b:", Options(max_downtime_s=max_downtime_s))
    return choose.mode(request, "criu", stage, Survey((), {"memory_bytes": mib * MIB}, unfit), None, None, {})


@pytest.mark.parametrize(
    ("arch", "mode", "reason"),
    [
        ("aarch64", Mode.POST_COPY, "no pre-copy: the source's kernel does not track written pages"),
        ("ppc64le", Mode.HYBRID, "more than 0.05 s"),
        ("s390x", Mode.HYBRID, "more than 0.05 s"),
    ],
)
def test_the_mode_follows_from_what_the_node_says(arch, mode, reason):
    probe = PROBES[arch]
    assert probe["hello"]["arch"] == arch
    found = auto(probe, probe)
    assert (found.mode, reason in found.why, found.checks) == (mode, True, ()), found.why


def test_without_userfaultfd_aarch64_stops_and_copies():
    bare = json.loads(json.dumps(PROBES["aarch64"]))
    bare["criu"]["features"]["uffd-noncoop"] = False
    found = auto(PROBES["aarch64"], bare)
    assert (found.mode, "no post-copy" in found.why) == (Mode.STOP_AND_COPY, True), found.why


def test_small_or_patient_it_stops_and_copies_there_too():
    probe = PROBES["aarch64"]
    assert auto(probe, probe, mib=1).mode == Mode.STOP_AND_COPY
    assert auto(probe, probe, max_downtime_s=10.0).mode == Mode.STOP_AND_COPY


def test_who_recorded_a_probe_is_told():
    """One was asked of a node of the lab; two are what the kernel's sources say, for there was no such node."""
    assert [arch for arch, probe in PROBES.items() if probe["recorded"]] == ["aarch64"]
