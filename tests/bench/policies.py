"""Rules of when to stop the rounds, side by side on one engine: LXD's, p.haul's, QEMU's and ours.

    python tests/bench/policies.py [--links RATE...]

A model, not a measurement: no page moves. `reberth.run.rounds` walks as in a move, and each round costs what the
figures say (memory M, written set W, dirty rate D, link B): all of it first, then what was written while the round
before travelled. The same figures are behind the predictions of `reberth plan` (core/reberth/plan/predict.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from reberth.plan.predict import FIXED_S, ROUND_S, dirty_bytes
from reberth.run import rounds
from reberth_hooks import Iteration, Mode, Options

PAGE, MIB = 4096, 1 << 20
MAX_DOWNTIME_S = 0.3  # QEMU's default, and ours
PHAUL_PAGES, PHAUL_GROWTH, PHAUL_LAST = 64, 0.10, 8  # p.haul, phaul/iters.py
LXD_ROUNDS = 6  # of iterations = 10, which LXD counts by two
FOR_EVER = 30  # QEMU has no limit of its own


def phaul(options: Options, history: Sequence[Iteration]) -> str:
    """p.haul's rule: few pages, growth against the round before, or the ninth round."""
    last = history[-1]
    if last.pages_written <= PHAUL_PAGES:
        return "few"
    if len(history) > 1 and last.pages_written > (1 + PHAUL_GROWTH) * history[-2].pages_written:
        return "growth"
    return "iterations" if last.index >= PHAUL_LAST else ""


def qemu(options: Options, history: Sequence[Iteration]) -> str:
    """QEMU's rule: what is left now would take no longer than the limit at the rate seen last."""
    last = history[-1]
    left = last.pages_skipped_parent * PAGE  # the model puts here what was written while this round travelled
    rate = last.bytes / (last.seconds - ROUND_S)  # of the link alone: QEMU's rounds begin and end for nothing
    return "max-downtime" if left <= rate * options.max_downtime_s else ""


# QEMU knows what is dirty after a round; the others learn it only from the next one.
RULES = {
    "lxd": Options(policy="lxd", iterations=LXD_ROUNDS),
    "p.haul": Options(policy="p.haul", iterations=FOR_EVER),
    "QEMU": Options(policy="QEMU", iterations=FOR_EVER, max_downtime_s=MAX_DOWNTIME_S),
    "ours": Options(policy="downtime", max_downtime_s=MAX_DOWNTIME_S),
}


@dataclass(frozen=True)
class Load:
    """What is moved, in bytes, and the link in bytes a second."""

    memory: float
    written: float
    rate: float
    link: float


@dataclass(frozen=True)
class Walk:
    """What a rule made of it: rounds before the last one, the last one's seconds, all bytes as a share of memory."""

    rounds: int
    downtime_s: float
    share: float
    why: str


def walk(rule: str, load: Load) -> Walk:
    """One rule on one load."""
    options, known = RULES[rule], dict(rounds._POLICIES)
    rounds._POLICIES.update({"p.haul": phaul, "QEMU": qemu})
    history: list[Iteration] = []
    amount, sent = load.memory, 0.0
    try:
        for step in rounds.rounds(Mode.PRE_COPY, options, history):
            if step.final:
                break
            seconds = amount / load.link + ROUND_S
            sent += amount
            left = dirty_bytes(seconds, load.rate, load.written)
            written = int(amount / PAGE)
            skipped = int((left if rule == "QEMU" else load.memory - amount) / PAGE)
            history.append(Iteration(step.index, 0, written, skipped, 0, int(amount), seconds))
            amount = left
        why = rounds.why_stop(options, history)
    finally:
        rounds._POLICIES.clear()
        rounds._POLICIES.update(known)
    return Walk(len(history), FIXED_S["criu"] + amount / load.link, (sent + amount) / load.memory, why)


LOADS = (  # MiB, MiB, MiB/s: memory, written set, dirty rate
    ("quiet", 256, 16, 1),
    ("a small set", 256, 64, 20),
    ("all of it, slowly", 1024, 512, 60),
    ("a small set, fast", 1024, 32, 400),
    ("faster than the link", 1024, 1024, 400),
)
LINKS = {"1 Gbit/s": 117e6, "100 Mbit/s": 11.7e6}


def table(links: Sequence[str]) -> str:
    """A row for each load and link: downtime, bytes as a share of memory, rounds, why it stopped."""
    lines = [f"| load: memory, written set, rate | link | {' | '.join(RULES)} |", "|---" * (2 + len(RULES)) + "|"]
    for name, memory, written, rate in LOADS:
        for link in links:
            load = Load(memory * MIB, written * MIB, rate * MIB, LINKS[link])
            cells = [f"{name}: {memory} MiB, {written} MiB, {rate} MiB/s", link]
            for rule in RULES:
                one = walk(rule, load)
                cells.append(f"{one.downtime_s:.2f} s, {one.share:.2f}, {one.rounds} ({one.why})")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--links", nargs="*", choices=LINKS, default=list(LINKS))
    print(table(parser.parse_args().links))


if __name__ == "__main__":
    main()
