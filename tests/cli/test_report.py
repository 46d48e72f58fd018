from __future__ import annotations

import dataclasses
import json
import re
import stat
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reberth.report.html import render_html
from reberth.report.report import Report, render_text
from reberth.text import human_bytes, human_seconds, safe, table
from reberth_hooks import UsageError


def test_defaults_are_a_whole_report():
    report = Report()
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert report.started.endswith("Z") and "T" in report.started
    assert "it runs on the source, as before" in render_text(report)
    assert Report().bytes is not report.bytes


def test_save_and_load(make, tmp_path):
    make.moved.add_phase("restore", 1.0, 0.2)
    make.moved.rounds = [{"index": 0, "bytes": 5, "seconds": 0.1}, {"index": 1}]
    make.moved.save(tmp_path / "report.json")
    make.moved.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == make.moved
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]
    assert stat.S_IMODE((tmp_path / "report.json").stat().st_mode) == 0o600
    text = render_text(make.moved)
    assert "restore  1.00 s  200 ms" in text and "0      5 B    100 ms" in text


def test_a_failed_save_keeps_the_old_one(make, tmp_path):
    make.moved.save(tmp_path / "report.json")
    make.moved.versions = {"bad": object()}
    with pytest.raises(TypeError):
        make.moved.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json").outcome == "moved"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', "{", "\x00", '"x"'])
def test_what_is_no_report(tmp_path, text):
    (tmp_path / "r").write_text(text)
    with pytest.raises(UsageError):
        Report.load(tmp_path / "r")


def test_unknown_keys_of_a_later_version_are_left_out():
    assert Report.from_json({"schema": 1, "id": "a", "novelty": 1}).id == "a"


def test_the_worst_text_is_still_safe():
    evil = "\x1b[2J\r\n\u2028\x9b\udc80"
    report = Report(schema=1, exit_code=77)
    for field in dataclasses.fields(Report):
        if isinstance(getattr(report, field.name), str):
            setattr(report, field.name, evil)
    report.transports, report.warnings = [evil], [evil]
    report.checks = [{"id": evil, "level": "fail", "reason": evil, "remedy": evil}]
    report.phases = [{"name": evil}]
    report.bytes = {evil: 1}
    report.error = {"code": evil, "message": evil, "hint": evil, "log_tail": evil, "phase": evil}
    assert all(line.isprintable() for line in render_text(report).split("\n"))


@given(st.text(st.characters(codec=None)))
def test_safe_is_printable_and_leaves_the_printable_alone(text):
    assert safe(text).isprintable()
    if text.isprintable():
        assert safe(text) == text


def test_units():
    assert [human_bytes(n) for n in (0, 1023, 1024, 5 << 20, 3 << 30, 7 << 40)] == [
        *("0 B", "1023 B", "1.0 KiB", "5.0 MiB", "3.0 GiB", "7.0 TiB"),
    ]
    assert [human_seconds(s) for s in (None, 0, 0.2431, 1.5, 600)] == ["-", "0 ms", "243 ms", "1.50 s", "10.0 min"]
    assert table(("A", "B"), [("", "x")]) == ["A  B", "-  x"]


def test_a_page_with_pictures(make, tmp_path):
    make.moved.rounds = [{"index": 0, "bytes": 900, "seconds": 1.0}, {"index": 1, "bytes": 90, "seconds": 0.1}]
    make.moved.add_phase("pre-dump", 0.5, 1.0)
    make.moved.add_phase("restore", 1.5, 0.2)
    make.moved.warnings = ["<script>alert(1)</script>\x1b[31m"]
    page = render_html(make.moved)
    assert "<script" not in page and "\x1b" not in page and "&lt;script&gt;" in page
    assert page.count("<svg") == 2 and page.count("<rect") == len(make.moved.phases) + 2
    assert "http://" not in page and "https://" not in page and "src=" not in page, "it loads nothing"
    tree = ElementTree.fromstring(re.search(r"<svg.*?</svg>", page, re.S)[0])
    widths = [float(bar.get("width")) for bar in tree.iter("rect")]
    assert max(widths) == 5 * min(widths)


def test_the_rounds_are_drawn(make):
    make.moved.rounds = [{"index": 0, "bytes": 900, "seconds": 1.0}, {"index": 1, "bytes": 90, "seconds": 0.1}]
    lines = [line for line in render_text(make.moved).splitlines() if line.rstrip().endswith("#")]
    assert [line.count("#") for line in lines] == [40, 4]
