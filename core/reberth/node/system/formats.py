"""The formats of journals: one of an older version is read by a table of its own, one of a newer version is refused.

A record may get new keys, and there may be new events, without a new format: a reader leaves alone what it does not
know. The number goes up when an older reader would decide wrongly; what it was gets a reader here, and a journal of it
is kept in tests/fixtures/journals.
"""

from __future__ import annotations

from typing import Any, Callable

from reberth.node.errors import OpError

FORMAT = 1
Records = list[dict[str, Any]]
# Format -> what makes its records those of the next one.
READERS: dict[int, Callable[[Records], Records]] = {}


def translated(records: Records, run_id: str) -> Records:
    """Return the records as this version means them.

    Raises OpError `newer-format` for a journal that only a later version understands, and for one without a reader.
    """
    found = records[0].get("format", FORMAT) if records else FORMAT
    if not isinstance(found, int) or found > FORMAT:
        writer = str(records[0].get("version") or "a later version")
        text = f"the journal of run {run_id} is of format {found}, written by reberth {writer}"
        raise OpError("newer-format", text, hint=f"end that run with reberth {writer}; here format {FORMAT} is known")
    for number in range(found, FORMAT):
        if number not in READERS:
            raise OpError("newer-format", f"the journal of run {run_id} is of format {found}, which nothing reads")
        records = READERS[number](records)
    return records
