"""A log of criu, runc or LXD in plain words: its first real error line, the cause, the object by name, the remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice

from reberth.report.explain_rules import RULES

# In nearly every log of criu, and never the reason of a failure.
NOISE = re.compile(r"rlimit: Can't setup RLIMIT_NOFILE|cgroupd: recv req error|Warn\s|\bWarn\b.*:")
ERROR = re.compile(r"\bError\b|level=error|\bERRO\[|\bfatal\b|^[Ee]rror:|\bFAILED\b|(?:^|\s)error[:\s]|Incorrect Usage")
# What criu says after the reason.
AFTERMATH = re.compile(
    r"(?:Dumping|Restoring|Pre-dumping) FAILED|exited, status=|failed with -\d+$|criu failed: type|"
    r"container (?:still running|not destroyed)"
)
PID = re.compile(r"\(pid: (\d+)\)|^\s*(?:\([\d.]+\)\s*)?(?:pie:\s*)?(\d+): Error")
STAMP = re.compile(r"^\(\d+\.\d+\)\s*")
MOST_BYTES = 32 << 20
# A log is the work of strangers: no more than this of it is searched with patterns.
MOST_LINES, MOST_CHARACTERS = 300, 600
_COMPILED = tuple((rule, re.compile(rule.pattern)) for rule in RULES)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a log says: `rule` is empty when the message is not known; `pid` 0 when no process is named.

    `first_error` is the first line that is an error and no noise, empty when there is none. `cause` and `remedy` are
    words for people, empty without a rule.
    """

    first_error: str = ""
    rule: str = ""
    cause: str = ""
    remedy: str = ""
    pid: int = 0


def explain(text: str) -> Explanation:
    """Explain a log, or the tail of one; the first line that a rule knows tells the cause."""
    lines = error_lines(text)
    pid = next((int(found[1] or found[2]) for line in lines if (found := PID.search(line))), 0)
    first = STAMP.sub("", lines[0]).strip() if lines else ""
    for line in lines:
        for rule, pattern in _COMPILED:
            found = pattern.search(line)
            if found:
                words = {key: value or "" for key, value in found.groupdict().items()}
                named = int(words["pid"]) if words.get("pid", "").isdigit() else 0
                cause, remedy = (_fill(part, words) for part in (rule.cause, rule.remedy))
                return Explanation(first, rule.id, cause, remedy, named or pid)
    return Explanation(first, pid=pid)


def error_lines(text: str) -> list[str]:
    """Return the lines that are errors, those first that are a reason and not the mere report that something failed."""
    lines = (line[:MOST_CHARACTERS] for line in text.splitlines())
    found = list(islice((line for line in lines if ERROR.search(line) and not NOISE.search(line)), MOST_LINES))
    return [line for line in found if not AFTERMATH.search(line)] + [line for line in found if AFTERMATH.search(line)]


def _fill(text: str, words: dict[str, str]) -> str:
    """Put names in their places; they come from the workload and may hold anything, braces too."""
    return re.sub(r"\{(\w+)\}", lambda found: words.get(found[1], ""), text)
