"""Every way in which a command can fail, in one place: text or JSON for the user, and the exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import typer

from reberth.cli.output import note, write_json
from reberth.report.text import TAIL_LINES, UNTOUCHED
from reberth.text import safe, safe_lines
from reberth_hooks import Exit, ReberthError

INTERRUPTED = 130  # 128 + SIGINT; inside a move the session answers the signal and the report has the code
# Root of typer's own usage errors, found this way because typer carries its own copy of click from 0.26 on.
PARSER_ERROR: type[Exception] = next(c for c in reversed(typer.BadParameter.__mro__) if hasattr(c, "show"))


def guarded(call: Callable[[], Any], words: Sequence[str]) -> int:
    """Run a command and give its exit code; no exception but SystemExit gets through."""
    as_json, debug = "--json" in words, "--debug" in words
    try:
        code = call()
    except ReberthError as error:
        if debug:
            traceback.print_exc()
        return show_error(error, as_json=as_json)
    except PARSER_ERROR as error:
        return _show_parser_error(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        note("reberth: interrupted")
        return INTERRUPTED
    except Exception as error:
        return _show_crash(error, as_json=as_json, debug=debug)
    return code if isinstance(code, int) else 0


def show_error(error: ReberthError, *, as_json: bool) -> int:
    """Print an error that we foresaw and give its exit code."""
    if as_json:
        _error_document(error.code, error.message, error.hint, error.exit_code)
        return int(error.exit_code)
    note(f"reberth: {'; '.join(safe_lines(error.message))}")
    for line in safe_lines(error.hint):
        note(f"  hint: {line}")
    for line in safe_lines(error.tail)[-TAIL_LINES:]:
        note(f"  | {line}")
    if error.exit_code in UNTOUCHED:
        note("  nothing was touched")
    else:
        note("  `reberth status` tells which migrations are open and where their workloads are")
    return int(error.exit_code)


def _show_parser_error(error: Any, *, as_json: bool) -> int:
    message = " ".join(safe_lines(error.format_message()))
    ctx = getattr(error, "ctx", None)
    path = safe(ctx.command_path) if ctx is not None else "reberth"
    hint = f"`{path} --help` tells more"
    if as_json:
        _error_document("usage", message, hint, Exit.USAGE)
    else:
        note(f"reberth: {message}\n  hint: {hint}\n  nothing was touched")
    return int(Exit.USAGE)


def _show_crash(error: Exception, *, as_json: bool, debug: bool) -> int:
    """A bug of ours: keep the traceback in a private file and tell where."""
    if debug:
        traceback.print_exc()
    message = f"a bug in reberth: {type(error).__name__}: {safe(error)}"
    kept = _keep_traceback()
    hint = f"the traceback is in {safe(kept)}; please report it" if kept else "run it again with --debug"
    if as_json:
        _error_document("bug", message, hint, Exit.BUG)
    else:
        note(f"reberth: {message}\n  {hint}\n  `reberth status` tells which migrations are open")
    return int(Exit.BUG)


def _keep_traceback() -> str:
    """Write the traceback that is being handled; the empty word when that fails too."""
    import os
    import tempfile

    try:
        from reberth.config.paths import state_dir

        directory = state_dir()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="crash-", suffix=".log", dir=directory)  # mkstemp gives mode 0600
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"python {sys.version}\n{traceback.format_exc()}")
    except Exception:
        return ""
    return name


def _error_document(code: str, message: str, hint: str, exit_code: Exit) -> None:
    error = {"code": code, "message": message, "hint": hint, "exit_code": int(exit_code)}
    write_json({"schema": 1, "error": error})
