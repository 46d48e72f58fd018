"""The one error that travels back to the controller."""

from __future__ import annotations


class OpError(Exception):
    """An operation was refused or failed; `kind` is a stable word, `tail` the tool's own lines."""

    def __init__(self, kind: str, message: str, *, hint: str = "", tail: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint
        self.tail = tail
