"""For the fault tests: the controller ends or stops itself right before or right after a record of its journal."""

from __future__ import annotations

import os
import signal


def here(event: str, number: int, when: str = "") -> None:
    """Die without a word if REBERTH_CRASH_AT names this record, by its number or its event, and this moment.

    With `:stop` stop there instead, until SIGCONT: a test breaks something meanwhile.
    """
    wanted = os.environ.get("REBERTH_CRASH_AT")
    if wanted and wanted in (f"{number}{when}", f"{event}{when}"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif wanted == f"{number}:stop" and not when:
        os.kill(os.getpid(), signal.SIGSTOP)
