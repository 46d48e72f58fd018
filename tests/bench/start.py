"""What it costs to start: the tab key and the help, as multiples of the bare interpreter in the same run.

    python tests/bench/start.py [--tries N]

The programs take turns; medians are kept. Budgets (docs/benchmarks.md): a tab at most 4.0 times the interpreter.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = "".join(f'[nodes.node{n}]\naddress = "192.0.2.{n}"\nbackends = ["runc", "criu"]\n' for n in range(1, 11))
TAB_RATIO = 4.0


def ways(program: str) -> dict[str, list[str]]:
    """What is measured; the interpreter is the one that runs the program."""
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "reberth mo<TAB>": [program, "__complete", "mo"],
        "reberth move no<TAB>": [program, "__complete", "move", "no"],
        "reberth move node1:w<TAB>": [program, "__complete", "move", "node1:w"],
        "reberth --help": [program, "--help"],
    }


def main() -> None:
    """Measure, print a table, and say whether the budget of the tab key is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=21)
    arguments = parser.parse_args()
    program = str(Path(sys.executable).with_name("reberth"))
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        config = Path(place) / "config.toml"
        config.write_text(CONFIG, encoding="utf-8")
        names = Path(place) / "reberth/complete"
        names.mkdir(parents=True)
        (names / "node-node1").write_text("".join(f"runc\tweb{n}\trunning\n" for n in range(100)), encoding="utf-8")
        own = {"REBERTH_CONFIG": str(config), "XDG_CACHE_HOME": place, "REBERTH_COMPLETE_ASK": "0"}
        for _ in range(arguments.tries):
            for name, argv in ways(program).items():
                before = time.perf_counter()
                subprocess.run(argv, env={**os.environ, **own}, stdout=subprocess.DEVNULL, check=True)
                seconds.setdefault(name, []).append(time.perf_counter() - before)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    bare = medians["python -c pass"]
    print("| command | median | of the bare interpreter |\n|---|---|---|")
    for name, value in medians.items():
        print(f"| `{name}` | {value * 1000:.0f} ms | {value / bare:.1f} |")
    worst = max(value for name, value in medians.items() if "<TAB>" in name) / bare
    print(f"\na tab costs {worst:.1f} times the interpreter: {'within' if worst <= TAB_RATIO else 'OVER'} {TAB_RATIO}")


if __name__ == "__main__":
    main()
