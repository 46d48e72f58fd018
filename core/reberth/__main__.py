"""Entry point of `reberth` and of `python -m reberth`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and leave with its exit code (docs/exit-codes.md)."""
    if sys.argv[1:2] == ["__complete"]:  # before anything else is imported: it runs at every press of the tab key
        from reberth.complete.main import main as complete

        complete(sys.argv[2:])
        return
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks must not turn a report into a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.argv[1:2] == ["__runtime"]:
        from reberth.cli.runtime import main as runtime

        runtime(sys.argv[2:])
    from reberth.cli.app import root

    root.main(args=sys.argv[1:], prog_name="reberth")


def _leave_directory() -> None:
    """Take the working directory off the path, where `python -m` has put it: a plugin is never read from there."""
    try:
        here = os.getcwd()  # noqa: PTH109 (pathlib is not loaded yet: a press of the tab key comes this way too)
    except OSError:
        here = ""
    if not sys.flags.safe_path and sys.path[:1] in ([""], [here]):
        del sys.path[0]


if __name__ == "__main__":
    _leave_directory()
    main()
