"""The report as one page that needs nothing else: words, the phases on a line of time, and the rounds as bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from reberth.report.text import next_command, packed_line, where_now
from reberth.text import human_bytes, human_seconds, safe

if TYPE_CHECKING:
    from reberth.report.report import Report

WIDTH, LEFT, ROW, RIGHT = 960, 150, 26, 130
FROZEN = frozenset({"final-dump", "final-transfer", "final-sync", "restore"})
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #667; --paper: #fff; --line: #d5d9e0;
 --run: #4c8bf5; --still: #e0653a; --sent: #3a9d6e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa3ad; --paper: #14171b; --line: #333a43; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1000px;
 margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; } td { padding: .15rem 1.2rem .15rem 0; vertical-align: top; }
td:first-child { color: var(--soft); } pre { overflow: auto; border: 1px solid var(--line); padding: .6rem; }
svg { width: 100%; height: auto; } text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.soft { fill: var(--soft); } .grid { stroke: var(--line); }
.run { fill: var(--run); } .still { fill: var(--still); } .sent { fill: var(--sent); }
"""


def render_html(report: Report) -> str:
    """Return the page; every word of it is escaped, and it loads nothing."""
    title = f"{safe(report.source)} to {safe(report.target)}: {safe(report.outcome) or 'open'}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        _facts(report),
        *_section("Phases", _timeline(report.phases)),
        *_section("Rounds over memory", _rounds(report.rounds)),
        *_section("What went wrong", _error(report)),
        *_section("Warnings", "".join(f"<p>{escape(safe(w))}</p>" for w in report.warnings)),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _section(title: str, body: str) -> Iterator[str]:
    if body:
        yield f"<section><h2>{escape(title)}</h2>"
        yield body
        yield "</section>"


def _facts(report: Report) -> str:
    said = report.predicted
    spread = f"{human_seconds(said['downtime_low_s'])} to {human_seconds(said['downtime_high_s'])}" if said else ""
    sent = ", ".join(f"{human_bytes(size)} {safe(kind)}" for kind, size in report.bytes.items() if size)
    rows = [
        ("run", f"{safe(report.id)}, started {safe(report.started)}, exit code {report.exit_code}"),
        ("now", where_now(report)),
        ("how", f"{safe(report.mode)} by {safe(', '.join(report.transports))} ({safe(report.stop_reason)})"),
        ("downtime", human_seconds(report.downtime_s) if report.downtime_s is not None else ""),
        ("predicted", spread),
        ("total", human_seconds(report.total_s) if report.total_s is not None else ""),
        ("sent", sent),
        ("compressed", packed_line(report)),
        ("next", next_command(report)),
    ]
    cells = "".join(f"<tr><td>{name}</td><td>{escape(text)}</td></tr>" for name, text in rows if text)
    return f"<table>{cells}</table>"


def _timeline(phases: Sequence[dict[str, Any]]) -> str:
    """Draw each phase where it lies in time; those in which the workload stands still have a colour of their own."""
    if not phases:
        return ""
    end_s = max(p["start_s"] + p["seconds"] for p in phases) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / end_s
    bars = [
        (
            str(p["name"]),
            LEFT + p["start_s"] * scale,
            p["seconds"] * scale,
            "still" if p["name"] in FROZEN else "run",
            human_seconds(p["seconds"]),
        )
        for p in phases
    ]
    note = '<p><span style="color:var(--still)">\u25a0</span> it stands still &nbsp; '
    note += '<span style="color:var(--run)">\u25a0</span> it runs</p>'
    return _bars(bars) + note


def _rounds(rounds: Sequence[dict[str, Any]]) -> str:
    """Draw the bytes of each round, against those of the largest one."""
    if len(rounds) < 2:
        return ""
    most = max(int(r.get("bytes") or 0) for r in rounds) or 1
    scale = (WIDTH - LEFT - RIGHT) / most
    return _bars(
        [
            (
                f"round {number + 1}" if number + 1 < len(rounds) else "last round",
                float(LEFT),
                int(r.get("bytes") or 0) * scale,
                "still" if number + 1 == len(rounds) else "sent",
                f"{human_bytes(int(r.get('bytes') or 0))}, {human_seconds(r.get('seconds'))}",
            )
            for number, r in enumerate(rounds)
        ]
    )


def _bars(bars: Sequence[tuple[str, float, float, str, str]]) -> str:
    height = ROW * len(bars) + 8
    lines = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img">']
    lines.append(f'<line class="grid" x1="{LEFT}" y1="0" x2="{LEFT}" y2="{height}"/>')
    for number, (name, x, width, kind, text) in enumerate(bars):
        y = number * ROW + 4
        label = escape(safe(name))
        lines.append(f'<text x="{LEFT - 10}" y="{y + 15}" text-anchor="end">{label}</text>')
        lines.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{max(width, 1.5):.1f}" height="{ROW - 7}" rx="2">'
            f"<title>{label}: {escape(text)}</title></rect>"
        )
        lines.append(f'<text class="soft" x="{x + max(width, 1.5) + 6:.1f}" y="{y + 15}">{escape(text)}</text>')
    return "\n".join([*lines, "</svg>"])


def _error(report: Report) -> str:
    if report.error is None:
        return ""
    words = [str(report.error.get(key) or "") for key in ("message", "cause", "hint")]
    tail = str(report.error.get("log_tail") or "")
    told = "".join(f"<p>{escape(safe(text))}</p>" for text in words if text)
    lines = "\n".join(safe(line) for line in tail.splitlines())
    return told + (f"<pre>{escape(lines)}</pre>" if lines else "")
