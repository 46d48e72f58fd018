"""Data to stdout, messages to stderr; a reader that went away changes no exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from reberth_hooks import plain


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text + "\n")
        stream.flush()
    except OSError as error:
        # The exit code of a move must survive `| head` and a full disk; what is still buffered goes to nowhere, also at
        # exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            note(f"warning: the output could not be written: {error.strerror or error}")


def write(lines: str | Iterable[str]) -> None:
    """Print data; the caller has made it safe for a terminal."""
    _write(sys.stdout, lines.rstrip("\n") if isinstance(lines, str) else "\n".join(lines))


def write_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document; all that is not ASCII is escaped, so nothing in it can steer a terminal."""
    _write(sys.stdout, json.dumps(plain(document), indent=1))


def note(text: str) -> None:
    """Print a message for people."""
    _write(sys.stderr, text)
