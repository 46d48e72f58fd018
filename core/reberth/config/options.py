"""The words of options and defaults ("300ms", "50MiB", "70%") turned into fields of Options, once for all layers."""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from reberth_hooks import Mode, Options, UsageError

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_STEPS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)(/s)?", re.ASCII)


def near(word: str, known: Iterable[str]) -> str:
    """Return a question with the closest known words, or nothing: " (did you mean X?)"."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.55)
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def duration_s(value: Any) -> float:
    """Seconds of "300ms", "1.5s", "2m" or "0"; a number without a unit could be read two ways and is refused."""
    found = _AMOUNT.fullmatch(str(value).strip())
    if found and not found[3] and (found[2] in _SECONDS or (not found[2] and float(found[1]) == 0)):
        return float(found[1]) * _SECONDS.get(found[2], 0.0)
    raise UsageError(f"{value!a} is not a time", hint="write a number and a unit, as 300ms, 2s or 1m")


def bandwidth_bytes_s(value: Any) -> int:
    """Bytes per second of "50MiB", "6MB/s", "100Mbit" or "0" (no limit)."""
    found = _AMOUNT.fullmatch(str(value).strip())
    unit = re.fullmatch(r"([kmgt]?)(ib|b|bit)", found[2].lower()) if found else None
    if found and unit:
        base = 1024 if unit[2] == "ib" else 1000
        return int(float(found[1]) * float(base ** _STEPS[unit[1]]) / (8 if unit[2] == "bit" else 1))
    if found and not found[2] and float(found[1]) == 0:
        return 0
    raise UsageError(f"{value!a} is not a bandwidth", hint="write a number and a unit, as 50MiB, 6MB/s or 100Mbit")


def _whole(low: int, high: int, suffix: str = "") -> Callable[[Any], int]:
    def read(value: Any) -> int:
        text = str(value).strip().removesuffix(suffix)
        if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not low <= int(text) <= high:
            raise UsageError(f"{value!a} is not a whole number from {low} to {high}")
        return int(text)

    return read


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise UsageError(f"{value!a} is none of {', '.join(words)}{near(str(value), words)}")
        return str(value)

    return read


def _flag(value: Any) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if str(value).lower() not in words:
        raise UsageError(f"{value!a} is neither true nor false")
    return words[str(value).lower()]


def address(value: Any) -> str:
    """Return an address as it is written canonically, with the length of its prefix if one was given; "" of "none"."""
    if value in ("none", ""):
        return ""
    words = str(value).partition("/")
    try:
        found = ipaddress.ip_interface(str(value))
    except ValueError:
        found = None
    if found is None or found.ip.is_multicast or found.ip.is_loopback or found.ip.is_unspecified:
        raise UsageError(f"{value!a} is no address that can move", hint="write ADDRESS or ADDRESS/PREFIX")
    if found.is_link_local or not words[0]:
        raise UsageError(f"{value!a} means something on one link only", hint="move an address of a subnet")
    return f"{found.ip}/{found.network.prefixlen}" if words[1] else str(found.ip)


def _words(value: Any) -> tuple[str, ...]:
    words = re.split(r"[, ]+", value.strip()) if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(w, str) for w in words):
        raise UsageError(f"{value!a} is not a list of words")
    return tuple(w for w in words if w)


def _probes(value: Any) -> tuple[str, ...]:
    """Probes have blanks of their own: a text is one of them, a list several."""
    from reberth.run.verify import parse_probe

    probes = (value,) if isinstance(value, str) else value
    if not isinstance(probes, (list, tuple)) or not all(isinstance(p, str) for p in probes):
        raise UsageError(f"{value!a} is not a list of probes")
    for probe in probes:
        parse_probe(probe)
    return tuple(probes)


# word of the user -> field of Options and its reader. The plugin's own `backend_args` come from its commands only.
WORDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "mode": ("mode", lambda value: Mode(_one_of(*Mode)(value))),
    "policy": ("policy", _one_of("downtime", "lxd", "fixed")),
    "max_downtime": ("max_downtime_s", duration_s),
    "iterations": ("iterations", _whole(1, 999)),
    "goal": ("goal", _whole(0, 100, "%")),
    "bandwidth": ("bandwidth_bytes_s", bandwidth_bytes_s),
    "compress": ("compress", _one_of("auto", "zstd", "zlib", "none")),
    "tcp_established": ("tcp_established", _flag),
    "tcp_close": ("tcp_close", _flag),
    "timeout": ("timeout_s", duration_s),
    "keep_images": ("keep_images", _flag),
    "lazy_restore": ("lazy_restore", _flag),
    "memory_ahead": ("memory_ahead", _flag),
    "files": ("files", _one_of("auto", "none")),
    "on_failure": ("on_failure", _one_of("hold", "rollback")),
    "skip": ("skip", _words),
    "verify": ("verify", _probes),
    "move_address": ("move_address", address),
    "unit": ("unit", _flag),
}


def read(word: str, value: Any, where: str) -> tuple[str, Any]:
    """Field and value of one word; UsageError names `where` it stood, the word, and what would be right."""
    if word not in WORDS:
        raise UsageError(f"{where}: unknown key {word!a}{near(word, WORDS)}", hint="known: " + ", ".join(sorted(WORDS)))
    field, reader = WORDS[word]
    try:
        return field, reader(value)
    except UsageError as error:
        raise UsageError(f"{where}: {word}: {error.message}", hint=error.hint) from None


def make_options(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Options:
    """Defaults (field -> value, `Config.defaults`) under what the command line gave (word -> value; None: not given).

    `goal` belongs to the lxd policy: it selects it, and beside another given policy it is refused, never ignored.
    """
    words = {word: value for word, value in given.items() if value is not None}
    fields = dict(defaults) | dict(read(word, value, "--" + word.replace("_", "-")) for word, value in words.items())
    if "goal" in words and words.get("policy", "lxd") != "lxd":
        raise UsageError(f"--goal is the measure of --policy lxd, not of {words['policy']}", hint="give one of the two")
    if "goal" in words:
        fields["policy"] = "lxd"
    if fields.get("tcp_established") and fields.get("tcp_close"):
        raise UsageError("--tcp-established keeps connections and --tcp-close cuts them", hint="give one of the two")
    return dataclasses.replace(Options(), **fields, given=tuple(sorted(words)))
