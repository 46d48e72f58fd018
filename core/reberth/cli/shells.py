"""The argument SHELL of the commands that print something for a shell."""

from __future__ import annotations

from typing import Annotated

import typer

from reberth.complete import texts
from reberth_hooks import UsageError

Shell = Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", show_default=False)]


def checked(shell: str) -> str:
    """Return the name of a shell that we have scripts for."""
    if shell not in texts.SCRIPTS:
        raise UsageError(f"there is nothing for the shell {shell!a}", hint=f"one of: {', '.join(texts.SCRIPTS)}")
    return shell
