"""A look at a node's data connection: what a login does to it is found before anything is frozen."""

from __future__ import annotations

import contextlib
import io
import tempfile
import threading

from reberth.connect import boot, process
from reberth.connect.failures import Heard, exit_status, not_started
from reberth.connect.greeting import Greeting
from reberth.connect.helper import CONNECT_TIMEOUT_S, HelperShell
from reberth_hooks import ReberthError

SAMPLE = bytes(range(256)) * 64
WHAT = "its data connection does not work"


def look(shell: HelperShell) -> None:
    """Open a data connection and send a little both ways; NotStartedError with what was printed when it fails."""
    greeting = Greeting()
    argv = process.route_argv(shell.route, boot.bulk_argv(shell.call("socket"), "probe"), bulk=True)
    with tempfile.TemporaryFile() as words:
        opened = process.connect(argv, stderr=words, env=dict(shell.route.env) or None)
        assert opened.stdin is not None and opened.stdout is not None
        output = io.BufferedReader(opened.stdout)  # type: ignore[type-var]
        reader = threading.Thread(target=greeting.read, args=(output,), daemon=True)
        reader.start()
        try:
            with contextlib.suppress(OSError):
                opened.stdin.write(boot.MARK + SAMPLE)
            opened.stdin.close()
            works = greeting.over.wait(CONNECT_TIMEOUT_S) and greeting.started and _arrives(shell)
        finally:
            code = exit_status(opened, 0.5)
            with contextlib.suppress(ProcessLookupError):
                opened.terminate()
            process.end(opened)
            reader.join(1.0)
            output.close()
        words.seek(0)
        said = words.read(4096).decode(errors="replace").strip()
    if not works:
        raise not_started(shell.node, shell.route, Heard(code, said, greeting.printed, greeting.started), what=WHAT)


def _arrives(shell: HelperShell) -> bool:
    """Tell whether the helper has got the sample."""
    with contextlib.suppress(ReberthError):
        return bool(shell.call("link_recv", timeout_s=CONNECT_TIMEOUT_S)["bytes"] > 0)
    return False
