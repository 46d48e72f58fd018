"""When trees are compressed: by the measured link and a sample, as asked, or not at all; and what a run hears of it."""

from __future__ import annotations

import mmap
import os
import random
from types import SimpleNamespace

import pytest
from theatre import Theatre, own_state  # noqa: F401

from reberth.connect.helper import HelperShell
from reberth.node.survey import measure as measuring
from reberth.node.tree import compression as packing
from reberth.plan import choose, compression, measure, predict
from reberth_hooks import Check, Level, Mode, Options, Receipt

MIB = 1 << 20
GOOD = {"zstd": {"ratio": 0.4, "bytes_s": 400e6}, "zlib": {"ratio": 0.35, "bytes_s": 60e6}}
NOISE = {"zstd": {"ratio": 1.0, "bytes_s": 900e6}, "zlib": {"ratio": 1.0, "bytes_s": 40e6}}
SLOW_NODE = {"zstd": {"ratio": 0.4, "bytes_s": 20e6}}


@pytest.mark.parametrize(
    ("wanted", "figures", "link_bytes_s", "method", "why"),
    [
        ("auto", GOOD, 12e6, "zstd", "link 11.4 MiB/s, zstd leaves 0.40"),
        ("auto", GOOD, 1e6, "zlib", "zlib leaves 0.35"),
        ("auto", GOOD, 110e6, "zstd", "zstd leaves 0.40"),
        ("auto", GOOD, 125e6, "none", "is fast"),
        ("auto", GOOD, 2e9, "none", "is fast"),
        ("auto", NOISE, 1e6, "none", "gain nothing"),
        ("auto", SLOW_NODE, 12e6, "none", "gain nothing"),
        ("auto", {"zstd": {"ratio": 0.88, "bytes_s": 400e6}}, 12e6, "none", "gain too little"),
        ("auto", {"zlib": GOOD["zlib"]}, 12e6, "zlib", "zlib leaves"),
        ("auto", {"zlib": GOOD["zlib"]}, 60e6, "none", "gain nothing"),
        ("auto", GOOD, 0, "none", "no link was measured"),
        ("auto", {}, 12e6, "none", "no sample"),
        ("zstd", NOISE, 2e9, "zstd", "as asked; it leaves 1.00 of a sample"),
        ("zlib", {}, 0, "zlib", "as asked"),
        ("none", GOOD, 1e6, "none", "as asked"),
    ],
)
def test_what_is_decided(wanted, figures, link_bytes_s, method, why):
    found = compression.decide(wanted, figures, link_bytes_s)
    assert found[0] == method and why in found[1]


def test_memory_that_another_carrier_takes_is_none_of_it():
    assert compression.decide("auto", GOOD, 12e6, "page-server") == ("none", "page-server carries memory as it is")
    assert compression.decide("zstd", {}, 0, "page-server")[0] == "zstd"


def test_the_plan_says_what_goes_as_it_is():
    measured = {"compress": {"method": "zstd", "why": "as asked"}}
    assert compression.told(measured, Mode.STOP_AND_COPY) == measured
    assert "pages that follow the copy go as they are" in compression.told(measured, Mode.HYBRID)["compress"]["why"]
    assert compression.told({}, Mode.POST_COPY) == {}


def end(mocker, name, methods):
    one = mocker.create_autospec(HelperShell, instance=True)
    one.node = SimpleNamespace(name=name)
    one.call.side_effect = lambda op, **args: {"methods": methods if args.get("pid") else {m: {} for m in methods}}
    return one


def test_only_what_both_have_is_taken_and_what_was_asked_for_must_be_there(mocker):
    ends = [end(mocker, "a", GOOD), end(mocker, "b", {"zlib": {}})]
    found = compression.look(Options(), ends, 7, {"link_bytes_s": 12e6})
    assert (found["method"], found["can"], found["lacks"]) == ("zlib", ["zlib"], [])
    assert list(compression.checks({"compress": found}, Options())) == []
    asked = Options(compress="zstd")
    found = compression.look(asked, ends, 7, {})
    assert list(compression.checks({"compress": found}, asked)) == [
        Check("compress", Level.FAIL, "it cannot compress by zstd", compression.REMEDY, "b")
    ]


def test_a_limit_counts_as_the_link(mocker):
    ends = [end(mocker, name, {"zstd": GOOD["zstd"]}) for name in "ab"]
    fast = {"link_bytes_s": 1e9}
    assert compression.look(Options(), ends, 7, fast)["method"] == "none"
    assert compression.look(Options(bandwidth_bytes_s=3_000_000), ends, 7, fast)["method"] == "zstd"


@pytest.mark.parametrize("options", [Options(compress="none"), Options()])
def test_no_memory_is_sampled_for_nothing(mocker, options):
    ends = [end(mocker, name, GOOD) for name in "ab"]
    found = compression.look(options, ends, 7, {})
    assert found["method"] == "none" and found["can"] == ["zstd", "zlib"]
    assert ends[0].call.call_args.kwargs == {"pid": 0}


def test_the_prediction_is_by_what_goes_over():
    plain = {"link_bytes_s": 12e6}
    packed = {**plain, "compress": {"method": "zstd", "memory": True, **GOOD["zstd"]}}
    costs = [
        predict.predict(mode, "criu", 512 * MIB, found, Options())
        for mode in (Mode.STOP_AND_COPY, Mode.POST_COPY)
        for found in (plain, packed)
    ]
    assert costs[1].total_s < 0.5 * costs[0].total_s
    assert costs[3] == costs[2], "pages that follow go as they are"
    paged = {**packed, "compress": {**packed["compress"], "memory": False}}
    assert predict.predict(Mode.STOP_AND_COPY, "criu", 512 * MIB, paged, Options()) == costs[0]


@pytest.mark.parametrize(
    ("memory_mib", "mode", "word", "measured"),
    [
        (64, Mode.STOP_AND_COPY, "auto", True),
        (63, Mode.STOP_AND_COPY, "auto", False),
        (64, Mode.STOP_AND_COPY, "zstd", False),
        (64, Mode.STOP_AND_COPY, "none", False),
    ],
)
def test_a_move_measures_the_link_only_for_a_choice(mocker, memory_mib, mode, word, measured):
    link = mocker.patch.object(measure, "link_bytes_s", autospec=True, return_value=12e6)
    mocker.patch.object(measure, "straight_bytes_s", autospec=True, return_value=None)
    ends = [mocker.create_autospec(HelperShell, instance=True) for _ in range(2)]
    mocker.patch.object(compression, "look", autospec=True, return_value={"method": "zstd"})
    for one in ends:
        one.call.return_value = {"copy_bytes_s": 1e9}
    request = SimpleNamespace(options=Options(mode=mode, compress=word), figures=False)
    survey = SimpleNamespace(details={"memory_bytes": memory_mib * MIB})
    found = measure.look(request, *ends, survey, [mode], "")
    assert (link.called, found["compress"]) == (measured, {"method": "zstd"})
    assert "compress" not in measure.look(request, *ends, survey, [mode], None)


def test_the_sample_is_the_memory_of_the_process():
    size = 24 * MIB
    ours = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    ours[:] = random.Random(3).randbytes(1 << 16).translate(bytes(v % 4 for v in range(256))) * (size >> 16)
    found = measuring.compress_look(None, None, os.getpid())
    assert tuple(found["methods"]) == packing.known()
    assert MIB < found["sample_bytes"] <= (packing.CHUNK_BYTES * 4) + (1 << 20)
    assert all(0 < one["ratio"] < 0.9 and one["bytes_s"] > 0 for one in found["methods"].values())
    assert measuring.compress_look(None, None)["methods"] == {name: {} for name in packing.known()}


@pytest.fixture
def planned(make_plugin):
    def make(**found):
        stage, told = Theatre(make_plugin), []
        facts = {"measured": {"compress": {"method": "none", "can": ["zlib"], "why": "so", **found}}}
        object.__setattr__(stage.session.plan, "facts", facts)
        for word, shell in zip(("source", "target"), stage.shells, strict=True):
            shell.begin = lambda op, word=word, **args: told.append((word, op, args))
        return stage.session, told

    return make


def test_both_ends_hear_of_it_the_receiver_first(planned):
    session, told = planned(method="zlib")
    session.limit()
    assert told == [(end, "compress", {"method": "zlib"}) for end in ("target", "source")]
    assert [r["method"] for r in session.journal.records if r["event"] == "compress"] == ["zlib"]
    session.limit()
    assert len(told) == 2


def test_a_wish_changes_it_and_an_impossible_one_does_not(planned):
    session, told = planned()
    session.limit()
    session.compress("zstd")
    assert told == []
    session.compress("zlib")
    session.compress("auto")
    assert [args["method"] for _, _, args in told] == ["zlib", "zlib", "none", "none"]


def test_a_wish_that_came_before_the_ends_were_open_stands(planned):
    session, told = planned(method="zlib")
    session.compress("zlib")
    session.compress("none")
    session.limit()
    assert [args["method"] for _, _, args in told] == ["zlib", "zlib", "none", "none"]


def test_the_report_has_both_sizes(planned):
    session, _ = planned(method="zlib")
    assert session.packed() == {}
    session.limit()
    session.carried(Receipt("images", "/x", 1000, 1, 0.1, 300))
    session.carried(Receipt("filesystem", "/x", 50, 1))
    assert session.packed() == {"method": "zlib", "why": "so", "raw_bytes": 1050, "wire_bytes": 350}


def test_a_backend_that_carries_by_itself_is_not_asked(mocker):
    """Its daemons decide; see `ignores` of its declaration."""
    look = mocker.patch.object(choose.measure, "look", autospec=True, return_value={})
    stage = mocker.MagicMock()
    stage.catalog.get.return_value.declaration = SimpleNamespace(
        managed=True, modes={Mode.STOP_AND_COPY}, ignores=frozenset(), knows=frozenset(), carries=frozenset()
    )
    request = SimpleNamespace(options=Options(), transports=(), figures=False)
    survey = SimpleNamespace(unfit={}, details={}, mode=None, why="")
    choose.mode(request, "box", stage, survey, None, None, {"files": "box", "memory": "box"})
    assert look.call_args.args[-1] is None
