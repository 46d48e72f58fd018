"""The benchmark's figures as Markdown: ratios of gaps, the project's budgets, where the time goes."""

from __future__ import annotations

from typing import Any

GAPS = (
    "workload",
    "backend",
    "link",
    "plain gap",
    "tuned gap",
    "reberth gap",
    "of plain",
    "of tuned",
    "bytes of plain",
)
BUDGETS = ("workload", "backend", "link", "downtime of bound (1.5)", "total of bound (1.3)", "controller MiB (80)")
PHAUL = ("workload", "backend", "link", "phaul gap", "phaul total", "reberth's gap of it", "total of it", "bytes of it")
LARGE_BYTES = 200 << 20  # the total of less is mostly connecting and looking


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _case(row: dict[str, Any]) -> list[str]:
    return [row["case"][key] for key in ("name", "backend", "rate")]


def _gaps(row: dict[str, Any]) -> list[str]:
    ours, plain, tuned = (row["ways"][way] for way in ("reberth", "plain", "tuned"))
    return [
        *_case(row),
        *(f"{way['gap_s']:.3f} s" for way in (plain, tuned, ours)),
        f"{ours['gap_s'] / plain['gap_s']:.2f}",
        f"{ours['gap_s'] / tuned['gap_s']:.2f}",
        f"{ours['wire_bytes'] / max(plain['wire_bytes'], 1):.2f}",
    ]


def _budgets(row: dict[str, Any]) -> list[str]:
    ours = row["ways"]["reberth"]
    large = row["least_total_s"] * row["bandwidth_bytes_s"] >= LARGE_BYTES
    return [
        *_case(row),
        f"{row['downtime_s'] / row['bound_s']:.2f}",
        f"{ours['total_s'] / row['least_total_s']:.2f}" if large else "-",
        f"{row['peak_bytes'] / (1 << 20):.0f}",
    ]


def _phaul(row: dict[str, Any]) -> list[str]:
    ours, theirs = row["ways"]["reberth"], row["ways"]["phaul"]
    shares = (f"{ours[key] / max(theirs[key], 1e-9):.2f}" for key in ("gap_s", "total_s", "wire_bytes"))
    return [*_case(row), f"{theirs['gap_s']:.3f} s", f"{theirs['total_s']:.2f} s", *shares]


def _steps(row: dict[str, Any]) -> list[str]:
    phases = row["phases_s"]
    steps = [row["frozen_s"], *(phases.get(name, 0.0) for name in ("final-transfer", "final-sync", "restore"))]
    rest = row["downtime_s"] - sum(steps)
    return [*_case(row), *(f"{value * 1000:.0f}" for value in (*steps, rest, row["downtime_s"]))]


def markdown(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """Three tables, and one of go-criu's phaul where it was measured; medians throughout."""
    words = (f"kernel {machine['kernel']}", f"{machine['cpus']} processors", f"load {machine['load']}", machine["date"])
    text = f"{', '.join(words)}, median of {machine['tries']}; `reberth --help` {machine['help_s'] * 1000:.0f} ms.\n\n"
    text += _table(GAPS, [_gaps(row) for row in rows])
    text += "\n" + _table(BUDGETS, [_budgets(row) for row in rows])
    head = (
        "workload",
        "backend",
        "link",
        "freeze to dumped",
        "transfer",
        "files",
        "restore",
        "vote to running",
        "in all, ms",
    )
    text += "\n" + _table(head, [_steps(row) for row in rows])
    beside = [_phaul(row) for row in rows if "phaul" in row["ways"]]
    return text + ("\n" + _table(PHAUL, beside) if beside else "")
