"""The one place where a node's messages are read: how long, how deep and of which shape they may be.

A node is another machine, which may be broken or hostile. What it says takes no more of the controller than it has a
right to: a line of `LINE_LIMIT_BYTES` in ASCII with at most `MOST_VALUES` values stays below 200 MiB whatever it holds
(docs/security.md). A line that is no message ends the connection; an answer of another shape than its operation has
fails that one call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

from reberth_hooks import HelperError

LINE_LIMIT_BYTES = 16 << 20
MOST_VALUES = 500_000
MESSAGE_CHARS, HINT_CHARS, TAIL_CHARS = 2000, 1000, 64 << 10
# What the controller reads of an answer, by operation; what an operation may answer beside it is free.
# A key with `?` may be missing.
WORD = (str, type(None))
FACTS = {
    "role": str,
    **{f"{key}?": WORD for key in ("vote", "verdict", "ended", "cgroup")},
    **{f"{key}?": int for key in ("tasks", "running_ns")},
    **{f"{key}?": bool for key in ("froze", "held", "released", "resumed", "gone", "frozen", "holding")},
    **{f"{key}?": bool for key in ("restoring", "landed", "landing_failed", "may_have_run", "cleaned", "rebooted")},
    **{f"{key}?": bool for key in ("lazy", "filled", "fill_failed", "taken_back", "unseen", "ill")},
    **{f"{key}?": dict for key in ("stats", "fill")},
    "ailment?": str,
}
HELLO = {
    "uid": int,
    **{f"{key}?": str for key in ("hostname", "arch", "kernel", "python", "boot_id", "pid_ns", "time_ns")},
    **{f"{key}?": str for key in ("cgroup2", "direct_lacks")},
    **{f"{key}?": int for key in ("page_bytes", "clock_realtime_ns", "clock_boottime_ns", "mem_available_bytes")},
    **{f"{key}?": int for key in ("pipe_max_bytes", "cap_eff")},
    "processors?": [int],
}
SHAPES: dict[str, Any] = {
    "hello": HELLO,
    "ping": {"boot_ns": int},
    "run": {"code": int, "out": str, "err": str},
    "read": str,
    "stats": list,
    "space": {str: int},
    "open": dict,
    "socket": str,
    "adopt": {"live": bool},
    "runs": [dict],
    "workdir": {"path": str, "free_bytes": int},
    "make_dirs": bool,
    "set_aside": str,
    "end": dict,
    "leftovers": [str],
    "log_tails": {str: str},
    "vote": FACTS,
    "facts": FACTS,
    "decide": FACTS,
    "release": FACTS,
    "finish": FACTS,
    "fill": FACTS,
    "discard": FACTS,
    "look": FACTS,
    "enclose": {"cgroup": str, "pids": list},
    "dump": {
        "frozen_ns": int,
        "held_ns": int,
        "pids": list,
        "tasks?": int,
        "parent_death?": str,
        "files?": [dict],
        "attributes?": dict,
    },
    "restore": {"pid": int, "tasks": int, "cgroup": str, "lost?": [str]},
    "pre_dump": {"bytes": int, "seconds": (int, float)},
    "tree_send": {"bytes": int, "files": int, "digest": str},
    "tree_recv": {"digest": str, "files": int},
    "pages_recv": {"pages": int, "bytes": int, "digest": str},
    "verify": {"good": bool, "problem": str},
    "describe": {"tasks": [dict], "files": [dict], "uids": list, "namespaces": dict, "tcp": dict},
    "taken": {"tcp": [str], "abstract": [str], "addresses": [str], "nonlocal": [str]},
    "compare_files": [dict],
    "files_ready": bool,
    "files_there": [dict],
    "processes": [dict],
    "is_left": {"exists": bool, "left": bool},
    "plant": str,
    "cpu_dump": str,
    "cpu_check": [str],
    "dirty_rate": {"resident_bytes": int, "dirty_bytes_s": (int, float), "set_bytes": int},
    "pace": {"copy_bytes_s": (int, float)},
    "compress_look": {"methods": dict, "sample_bytes": int},
    "link_send": int,
    "link_recv": {"bytes": (int, float), "seconds": (int, float)},
    "unix_request": {"status": int, "headers": dict, "body": str},
}


class NoMessageError(Exception):
    """A line that is no message; the text says why, in words for the user."""


def read(stream: BinaryIO) -> dict[str, Any] | None:
    """Return the next message, None at the end of the connection; raise NoMessageError."""
    line = stream.readline(LINE_LIMIT_BYTES + 1)
    if not line:
        return None
    if len(line) > LINE_LIMIT_BYTES:
        raise NoMessageError(f"a line of more than {LINE_LIMIT_BYTES >> 20} MiB")
    if not line.endswith(b"\n"):
        return None  # cut off with the connection
    return parse(line)


def parse(line: bytes) -> dict[str, Any]:
    """Return the message of one line; raise NoMessageError."""
    if not line.isascii():
        raise NoMessageError("a line that is not ASCII")
    if sum(map(line.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise NoMessageError(f"a line of more than {MOST_VALUES} values")
    try:
        found = json.loads(line, parse_constant=_no_constant)
    except RecursionError:
        raise NoMessageError("a line that is nested too deep") from None
    except ValueError:
        raise NoMessageError("a line that is no JSON") from None
    if not isinstance(found, dict):
        raise NoMessageError("a line that is no JSON object")
    return found


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def settle(message: Mapping[str, Any], op: str, node: str) -> Any:
    """Return what an operation has answered; raise HelperError for its error, and for an answer of another shape."""
    if "error" in message:
        raise _error(message["error"], op, node)
    if "ok" not in message or not fits(message["ok"], SHAPES.get(op)):
        raise _told(HelperError(f"node {node} gave an answer to {op} of a shape that it never has", kind="shape"), op)
    return message["ok"]


def progress_of(message: Mapping[str, Any]) -> dict[str, int]:
    """Return what a message of progress tells: `bytes`, when it is a number."""
    told = message["progress"]
    number = told.get("bytes") if isinstance(told, dict) else None
    return {"bytes": number} if isinstance(number, int) else {}


def _error(found: Any, op: str, node: str) -> HelperError:
    words = found if isinstance(found, dict) else {}
    kind, message, hint, tail = (words.get(key) for key in ("kind", "message", "hint", "tail"))
    if not isinstance(kind, str) or not isinstance(message, str):
        return _told(HelperError(f"node {node} failed at {op} with an error that says nothing", kind="shape"), op)
    text = f"node {node}: {message[:MESSAGE_CHARS]}"
    error = HelperError(text, kind=kind[:64], hint=_text(hint)[:HINT_CHARS], tail=_text(tail)[-TAIL_CHARS:])
    return _told(error, op)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _told(error: HelperError, op: str) -> HelperError:
    error.op = op  # type: ignore[attr-defined]
    return error


def fits(value: Any, shape: Any) -> bool:
    """Return whether a value has a shape: a type, a tuple of types, `[type]`, `{str: type}`, keys with shapes, None."""
    if shape is None:
        return True
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(one, shape[0]) for one in value)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        if str in shape:
            return all(fits(one, shape[str]) for one in value.values())
        return all(_has(value, key, wanted) for key, wanted in shape.items())
    types: tuple[type, ...] = shape if isinstance(shape, tuple) else (shape,)
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _has(value: dict[str, Any], key: str, wanted: Any) -> bool:
    name = key.removesuffix("?")
    return fits(value[name], wanted) if name in value else name != key
