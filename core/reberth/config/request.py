"""What the user asked for, as typed; the planner turns it into a Plan."""

from __future__ import annotations

from dataclasses import dataclass, field

from reberth_hooks import Options


@dataclass(frozen=True, slots=True)
class Request:
    """One wish: `source` and `target` are the words of the command line; empty `backend` and `transports`: choose.

    With `figures` all is measured that a prediction needs, which takes some three seconds.
    """

    source: str
    target: str
    options: Options = field(default_factory=Options)
    backend: str = ""
    transports: tuple[str, ...] = ()
    figures: bool = False
