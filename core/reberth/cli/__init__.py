"""The command line, one command a file; importing this package imports typer without rich.

Typer imports rich at once where it finds it, which costs 60 to 100 ms in every command. It is hidden from that one
import only: progress and plugins import it as usual afterwards.
"""

from __future__ import annotations

import sys


def _import_typer_without_rich() -> None:
    kept = sys.modules.get("rich")
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import typer.core
        import typer.main  # noqa: F401
    finally:
        del sys.modules["rich"]
        if kept is not None:
            sys.modules["rich"] = kept


_import_typer_without_rich()
