"""The benchmark's figures as a table of ratios."""

from __future__ import annotations

from typing import Any

HEAD = """# Benchmarks

`make bench` moves the same workload by reberth and by two shell scripts (tests/bench/peers.py), in turns over the same
link, and keeps medians. The gap is the longest silence of the workload itself. Ratios within one run count; absolute
times are those of one shared machine. The bound of one run is: frozen until dumped, restore, the final bytes over the
link as two joined ssh connections measure it, two round trips; a straight connection (`direct`) can undercut it.

"""


def markdown(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """One row a case: gaps of all ways, and reberth's as ratios."""
    words = (f"kernel {machine['kernel']}", f"{machine['cpus']} processors", machine["date"])
    kept = f"{', '.join(words)}, median of {machine['tries']}.\n\n"
    lines = [
        "| workload | backend | link | plain gap | tuned gap | reberth gap "
        "| of plain | of tuned | of bound | bytes of plain |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        case, ways = row["case"], row["ways"]
        ours, plain, tuned = (ways[way] for way in ("reberth", "plain", "tuned"))
        cells = [
            case["name"],
            case["backend"],
            case["rate"],
            f"{plain['gap_s']:.3f} s",
            f"{tuned['gap_s']:.3f} s",
            f"{ours['gap_s']:.3f} s",
            f"{ours['gap_s'] / plain['gap_s']:.2f}",
            f"{ours['gap_s'] / tuned['gap_s']:.2f}",
            f"{ours['gap_s'] / row['bound_s']:.2f}",
            f"{ours['wire_bytes'] / max(plain['wire_bytes'], 1):.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return HEAD + kept + "\n".join(lines) + "\n"
