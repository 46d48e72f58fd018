"""Which daemon connects to which, and what is told of rounds, over two played daemons' API."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from reberth.config.request import Request
from reberth.run.session import Session
from reberth_hooks import Mode, Options, UsageError

pytest.importorskip("pylxd", reason="pylxd is not installed")
import test_lxd_alone
from test_lxd_alone import CASES, HERE, KEY, THERE, Quiet, host, move, where

from reberth_lxd.api import rendezvous
from reberth_lxd.https import phases

world = test_lxd_alone.world


@pytest.mark.parametrize(("how", "words", "code", "outcome", "home", "memory"), CASES)
def test_each_end_of_a_push(world, how, words, code, outcome, home, memory):
    """The target's daemon waits, and the source's is told of it; each end is as that of a pull."""
    made = world(how)
    report = move(*words, lxd_mode="push")
    assert (report.exit_code, report.outcome) == (code, outcome), report.error
    assert where(made) == ([home], [home]) and made.memory == memory
    (first, there), (second, here) = made.asks
    assert (first, second) == (THERE, HERE) and there["source"]["mode"] == "push"
    to = {
        "operation": "https://192.0.2.1:8443/1.0/operations/1",
        "certificate": "PEM",
        "secrets": {"control": "secret"},
    }
    assert here["target"] == to


@pytest.mark.parametrize(
    ("blind", "asked", "way"),
    [
        ((), "", "pull"),
        ((THERE,), "", "push"),
        ((THERE, HERE), "", "relay"),
        ((), "relay", "relay"),
        ((THERE,), "pull", ""),
        ((HERE,), "push", ""),
    ],
)
def test_the_way_that_the_daemons_can_go(world, monkeypatch, blind, asked, way):
    """What was asked for, or the first that works; the plan says which and why."""
    made = world()
    for name in blind:
        text = 'Failed to connect to LXD server "https://192.0.2.1:8443": connect: connection refused'
        made.probe[name] = {**made.probe[name], "err": text}
    relays: list[Any] = []
    monkeypatch.setattr(rendezvous, "Relay", lambda *words: relays.append(words) or contextlib.nullcontext(words))
    monkeypatch.setattr(rendezvous, "closing", lambda relay: relay)
    with host() as one:
        plan = one.plan(Request(f"{HERE}:c1", f"{THERE}:", Options(backend_args={"lxd_mode": asked} if asked else {})))
        if not way:
            assert [check.id for check in plan.refused] == ["lxd-address"] and "refused" in plan.refused[0].reason
            return
        assert not plan.refused and f"{way}: " in plan.why and plan.why.count("connection refused") == len(blind)
        assert one.move(plan).exit_code == 0
    modes = [words["source"]["mode"] for _, words in made.asks if "source" in words]
    assert modes == ["pull" if way == "pull" else "push"] and len(relays) == (way == "relay")
    if relays:
        ((nodes, urls, secrets),) = relays
        assert [node.name for node in nodes] == [HERE, THERE] and len(set(urls)) == 2 and len(secrets) == 2
        assert "target" not in made.asks[1][1]


def test_rounds_of_pre_copy_are_told_by_events(world, monkeypatch):
    """Asked for in real rounds, set as the daemon counts them, put back; what its loop does is told and judged."""
    made = world()
    pages = [("16434", "0"), ("11293", "5141"), ("16414", "20")]

    class Told(Quiet):
        def said(self, word):
            rows = pages if word == phases.PAGES else []
            return [(1.0, {"pages": written, "skipped": skipped}) for written, skipped in rows]

    monkeypatch.setattr(phases, "Events", Told)
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(Session, "emit", lambda self, kind, text="", **_: told.append((kind, text)))
    options = Options(mode=Mode.PRE_COPY, iterations=3, goal=80, given=("goal", "iterations", "mode"))
    with host() as one:
        plan = one.plan(Request(f"{HERE}:c1", f"{THERE}:", options))
        report = one.move(plan)
    assert report.exit_code == 0 and "at most 3 rounds" in plan.why, report.error
    assert {**plan.details["keys"]} == {
        KEY: "true",
        f"{KEY}.iterations": "5",
        f"{KEY}.goal": "80",
        "boot.autostart": "false",
    }
    assert made.patches[0] == (HERE, plan.details["keys"])
    assert [(one["pages_written"], one["pages_skipped_parent"]) for one in report.rounds][:3] == [
        (int(written), int(skipped)) for written, skipped in pages
    ]
    assert report.stop_reason.startswith("3 of at most 3 rounds"), report.stop_reason
    assert len([text for kind, text in told if kind == "progress" and text.startswith("round ")]) == 3
    assert len([text for kind, text in told if kind == "warning" and "round 3 wrote no less" in text]) == 1
    assert any("its pages alone" in check.reason for check in plan.checks if check.id == "unseen-lxd")
    kept = made.instances[THERE]["c1"]["config"]
    assert kept[f"{KEY}.goal"] == "55" and KEY not in kept and f"{KEY}.iterations" not in kept


def test_a_way_that_there_is_not(world):
    world()
    with pytest.raises(UsageError, match="--lxd-mode"):
        move(lxd_mode="pigeon")
