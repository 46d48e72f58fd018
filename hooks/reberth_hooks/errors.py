"""Typed errors: message, hint and exit code. The user reads what happened, where the workload is, what to do next."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line; stable, documented in docs/exit-codes.md and tested."""

    DONE = 0
    BUG = 1
    USAGE = 2
    REFUSED = 10
    BUSY = 11
    UNTRUSTED = 12
    UNREACHABLE = 13
    PLUGIN = 14
    ROLLED_BACK = 20
    ENDED = 21
    HELD = 40
    CLEANUP_PENDING = 41
    DETACHED = 42
    HELD_POST_COPY = 50
    LOST = 60
    TIMEOUT = 124


class ReberthError(Exception):
    """Base of every error that is not a bug of ours; `tail` holds the tool's own last or first error lines."""

    exit_code: Exit = Exit.ROLLED_BACK
    code = "failed"

    def __init__(self, message: str, *, hint: str = "", tail: str = "", exit_code: Exit | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.tail = tail
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(ReberthError):
    """The words of the command or the configuration are wrong; nothing was touched."""

    exit_code = Exit.USAGE
    code = "usage"


class RefusedError(ReberthError):
    """The preflight says no; nothing was touched."""

    exit_code = Exit.REFUSED
    code = "refused"


class BusyError(ReberthError):
    """Another migration of this workload is open."""

    exit_code = Exit.BUSY
    code = "busy"


class UntrustedError(ReberthError):
    """The peer did not prove who it is; nothing was sent."""

    exit_code = Exit.UNTRUSTED
    code = "untrusted"


class UnreachableError(ReberthError):
    """A node does not answer; before the freeze nothing was touched."""

    exit_code = Exit.UNREACHABLE
    code = "unreachable"


class NotStartedError(UnreachableError):
    """The login to a node works, and the helper does not start; `tail` holds what was printed instead."""

    code = "not-started"


class PluginError(ReberthError):
    """A plugin is missing, broken, not enabled on the node, or broke its contract."""

    exit_code = Exit.PLUGIN
    code = "plugin"


class EndedError(ReberthError):
    """The workload ended by itself."""

    exit_code = Exit.ENDED
    code = "ended"


class CommandError(ReberthError):
    """A tool on a node failed; `tail` holds its own words."""

    code = "command"


class ConnectionLostError(ReberthError):
    """The connection to a node broke, or its heartbeat stopped, during a run."""

    code = "connection-lost"


class HelperError(ReberthError):
    """The node helper refused or failed an operation; `kind` is its own name of the failure."""

    code = "helper"

    def __init__(self, message: str, *, kind: str = "", hint: str = "", tail: str = "") -> None:
        super().__init__(message, hint=hint, tail=tail)
        self.kind = kind
