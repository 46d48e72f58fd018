from __future__ import annotations

import io
import re
import sys

import pytest

import reberth_progress
from reberth.plugin.catalog import Catalog
from reberth.plugin.stage import Stage
from reberth_hooks import Event
from reberth_progress import plain

EVIL = "x\x1b[2J\n\u202e[red]"


@pytest.fixture
def show(monkeypatch):
    """Sends events and gives what stderr got."""
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr(reberth_progress, "_view", None)
    for name in ("REBERTH_PROGRESS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def run(*events, terminal=False, seconds=0.25):
        stream = io.StringIO()
        stream.isatty = lambda: terminal
        monkeypatch.setattr(sys, "stderr", stream)
        for event in events:
            reberth_progress.reberth_event(event)
            clock[0] += seconds
        return stream.getvalue()

    return run


def flow(n, total=0, kind="images"):
    return Event("progress", data={"bytes": n << 20, "total_bytes": total << 20, "kind": kind})


END = Event("end", data={"outcome": "moved", "exit_code": 0, "downtime_s": 0.2431})


def test_it_is_an_observer_that_the_stage_calls(capsys, monkeypatch):
    monkeypatch.setenv("REBERTH_PROGRESS", "plain")
    catalog = Catalog(extra={"progress": reberth_progress}, environ={"REBERTH_PLUGINS": ""})
    catalog.get("progress")
    Stage(catalog).event(Event("phase", "restore"))
    Stage(catalog).event(END)
    err = capsys.readouterr().err
    assert "restore" in err and "moved, downtime 243 ms" in err


def test_plain_lines_one_per_phase_and_one_a_second(show):
    events = [Event("phase", "initial-sync"), *(flow(n, 20) for n in range(20)), Event("warning", text="hot"), END]
    lines = show(*events).splitlines()
    assert [line[13:] for line in lines] == [
        "initial-sync",
        "images: 0.0 MiB of 20.0 MiB",
        "images: 4.0 MiB of 20.0 MiB, 4.0 MiB/s, 4 s left",
        "images: 8.0 MiB of 20.0 MiB, 4.0 MiB/s, 3 s left",
        "images: 12.0 MiB of 20.0 MiB, 4.0 MiB/s, 2 s left",
        "images: 16.0 MiB of 20.0 MiB, 4.0 MiB/s, 1 s left",
        "warning: hot",
        "moved, downtime 243 ms",
    ]
    assert lines[-1].startswith("[    5.50 s]")


def test_steps_are_not_for_plain_lines_and_odd_data_does_no_harm(show):
    text = show(Event("step", text="fenced"), Event("progress", data={"bytes": "x", "total_bytes": -5}), Event("other"))
    assert "fenced" not in text and "data: 0.0 MiB" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_silence(show, monkeypatch, terminal):
    assert show(Event("phase", "x", data={"quiet": True}), terminal=terminal) == ""
    monkeypatch.setenv("REBERTH_PROGRESS", "none")
    assert show(Event("phase", "x"), END, terminal=terminal) == ""


@pytest.mark.parametrize("style", ["plain", "rich"])
def test_hostile_text_is_escaped(show, monkeypatch, style):
    monkeypatch.setenv("REBERTH_PROGRESS", style)
    monkeypatch.setenv("TERM", "xterm")
    events = [Event(kind, EVIL, EVIL, {"kind": EVIL, "bytes": 1}) for kind in ("phase", "progress", "step", "warning")]
    text = show(*events, Event("end", data={"outcome": EVIL}), terminal=style == "rich")
    own = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", text)  # what rich itself writes
    assert "\x1b[2J" not in text and "\u202e" not in text
    assert "x\\x1b[2J\\n\\u202e[red]" in own and not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", own)


def test_the_bar_gives_the_cursor_back(show, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    events = [Event("phase", "final-dump"), flow(1, 4), Event("step", text="fenced"), flow(4, 4), END]
    text = show(*events, terminal=True)
    assert "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "final-dump" in text and "moved, downtime 243 ms" in text and "4.0/4.0 MiB" in text
    assert reberth_progress._view is None
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in show(Event("phase", "again"), END, terminal=True)


def test_no_color(show, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    text = show(Event("phase", "p"), flow(1, 4), Event("warning", text="w"), END, terminal=True)
    assert not re.search("\x1b\\[[0-9;]*3[0-9][0-9;]*m", text)


def test_without_rich_the_lines_are_plain(show, monkeypatch):
    monkeypatch.setenv("REBERTH_PROGRESS", "rich")
    monkeypatch.delitem(sys.modules, "reberth_progress.bar", raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert show(Event("phase", "p"), END).startswith("[")


def test_a_stream_that_breaks_is_left(show, monkeypatch):
    class Broken(plain.Lines):
        def show(self, event):
            raise OSError

    monkeypatch.setattr(reberth_progress, "_open_view", lambda: Broken(sys.stderr))
    with pytest.raises(OSError):
        show(Event("phase", "p"))
    assert reberth_progress._view is None
