"""The three `migration.incremental.memory` keys: whose word counts, and what a daemon must be told for it; pure.

What the daemon does with them (read in its source and measured with LXD 5.0.2, 2026-11-22): unset means pre-copy, the
loop counts every round twice, and the goal must be exceeded, not reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reberth_hooks import Mode, Options

KEY = "migration.incremental.memory"
ITERATIONS, GOAL = f"{KEY}.iterations", f"{KEY}.goal"
# A daemon that starts again starts what it saw running last; of the old instance that would be a second one.
AUTOSTART = "boot.autostart"
ABLE = "pre-copy: the source can track memory"
MOST_ROUNDS = 500  # the daemon caps its own counter at 999


@dataclass(frozen=True, slots=True)
class Wanted:
    """What this move does: pre-copy or not, at most `iterations` real rounds, until `goal` percent are in sync."""

    precopy: bool
    iterations: int
    goal: int
    why: str

    def to_set(self) -> dict[str, str]:
        """Return the keys as the daemon must have them; false is said in so many words, for unset means true."""
        always = {AUTOSTART: "false"}
        if not self.precopy:
            return {KEY: "false", **always}
        return {KEY: "true", ITERATIONS: str(2 * self.iterations - 1), GOAL: str(self.goal), **always}


def wanted(options: Options, config: Mapping[str, str], soft_dirty: bool) -> Wanted:
    """Option, then the instance's own expanded keys, then the configuration, then 10 and 70 (the options' defaults).

    Without a mode asked for, the key decides: true pre-copy, false stop-and-copy, unset whatever both nodes can do.
    """
    given = set(options.given)
    iterations = _number("iterations" in given, options.iterations, config.get(ITERATIONS))
    goal = _number("goal" in given, options.goal, config.get(GOAL))
    set_to = config.get(KEY, "").lower()
    if options.mode is not Mode.AUTO:
        precopy, why = options.mode is Mode.PRE_COPY, f"{options.mode}: as asked"
    elif given & {"iterations", "goal"}:
        precopy, why = True, "pre-copy: as asked"
    elif is_true(config) and soft_dirty:
        precopy, why = True, f"pre-copy: {KEY} is {set_to}"
    elif is_true(config):
        precopy, why = False, f"stop-and-copy: {KEY} is {set_to}, but the source cannot track memory (soft-dirty)"
    elif set_to in ("false", "0", "no", "off"):
        precopy, why = False, f"stop-and-copy: {KEY} is {set_to}"
    elif soft_dirty:
        precopy, why = True, ABLE
    else:
        precopy, why = False, "stop-and-copy: the source's kernel cannot track memory (soft-dirty)"
    found = Wanted(precopy, max(1, min(iterations, MOST_ROUNDS)), goal, why)
    if precopy:
        limits = f"at most {found.iterations} rounds ({ITERATIONS}, {found.to_set()[ITERATIONS]} for the daemon)"
        return replace(found, why=f"{why}; {limits}, until more than {goal} % are in sync ({GOAL})")
    return found


def _number(given: bool, option: int, key: str | None) -> int:
    return int(key) if not given and key and key.isdecimal() else option


def is_true(config: Mapping[str, Any]) -> bool:
    """Tell whether the key asks for pre-copy, in the daemon's own words for yes."""
    return is_on(config.get(KEY))


def is_on(value: Any) -> bool:
    """Tell whether a key's value is yes, in the daemon's own words."""
    return str(value or "").lower() in ("true", "1", "yes", "on")


def saved(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the instance's own keys as they are.

    Empty for one that is not set, which is also how the daemon removes it.
    """
    return {key: str(config.get(key, "")) for key in (KEY, ITERATIONS, GOAL, AUTOSTART)}


def why_stopped(wanted: Mapping[str, Any], rounds: Sequence[tuple[int, int]]) -> str:
    """Return why the daemon's loop ended, by its own rule on pages written and skipped.

    Empty for a move without rounds.
    """
    if not rounds:
        return ""
    written, skipped = rounds[-1]
    percent = 100 - 100 * written // (written + skipped) if written + skipped else 0
    if percent > wanted["goal"]:
        return f"{percent} % in sync, more than the goal of {wanted['goal']} % ({GOAL})"
    return f"{len(rounds)} of at most {wanted['iterations']} rounds ({ITERATIONS})"
