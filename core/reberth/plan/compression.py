"""Whether trees are compressed, and by what: as asked, else where the measured link makes it pay clearly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reberth.connect.helper import HelperShell
from reberth.text import human_bytes
from reberth_hooks import Check, Level, Mode, Options

GAIN = 0.9  # of the time without; what gains less costs two processors more than it is worth
FREE = ("auto", "none")  # words that no node must know
FAST_BYTES_S = 125e6  # a link that is no slower than a gigabit a second waits for the processors, not they for it
FROM_BYTES = 64 << 20  # with less memory than this a link is not worth measuring
REMEDY = "install libzstd (Debian: libzstd1), or --compress zlib"


def look(
    options: Options, ends: Sequence[HelperShell], pid: int, measured: Mapping[str, Any], carrier: str = ""
) -> dict[str, Any]:
    """Return what is decided and on what ground: `method`, `why`, `can` (methods of both ends), `lacks` (node ->
    method).

    `ratio` and `bytes_s` are those of a sample of the workload's memory, where one was taken. `carrier` carries memory
    instead of trees, as it is; then `memory` is false. Raises what the shells raise.
    """
    wanted = options.compress
    sampled = pid if wanted != "none" and (wanted != "auto" or measured.get("link_bytes_s")) and not carrier else 0
    here, there = ends[0].call("compress_look", pid=sampled), ends[1].call("compress_look")
    can = [name for name in here["methods"] if name in there["methods"]]
    figures = {name: here["methods"][name] for name in can if here["methods"][name]}
    method, why = decide(wanted, figures, link_bytes_s(options, measured), carrier)
    said = zip(ends, (here, there), strict=True)
    lacks = [end.node.name for end, one in said if wanted not in (*one["methods"], *FREE)]
    return {"method": method, "why": why, "can": can, "lacks": lacks, "memory": not carrier, **figures.get(method, {})}


def link_bytes_s(
    options: Options, measured: Mapping[str, Any], otherwise: float = 0.0, way: str = "link_bytes_s"
) -> float:
    """Return what the link carries by a `way` within the limit that was given.

    `otherwise` where that was not measured.
    """
    link = float(measured.get(way) or otherwise)
    return min(link, options.bandwidth_bytes_s) if options.bandwidth_bytes_s else link


def decide(
    wanted: str, figures: Mapping[str, Mapping[str, float]], link_bytes_s: float, carrier: str = ""
) -> tuple[str, str]:
    """Method and reason; `figures` (method -> ratio, bytes_s) of a sample, a link of 0 was not measured.

    By `auto` a method must save a tenth of the time that a byte takes, as if nothing went on at the same time, and the
    link must be slower than a gigabit a second.
    """
    if wanted != "auto":
        more = f"; {carrier} carries memory as it is" if carrier and wanted != "none" else ""
        if wanted in figures:
            more = f"; it leaves {figures[wanted]['ratio']:.2f} of a sample of its memory"
        return wanted, f"as asked{more}"
    if carrier:
        return "none", f"{carrier} carries memory as it is"
    if not link_bytes_s or not figures:
        return "none", "no link was measured" if not link_bytes_s else "there is no sample of its memory"
    if link_bytes_s >= FAST_BYTES_S:
        return "none", f"a link of {human_bytes(link_bytes_s)}/s is fast"
    best = min(figures, key=lambda name: carried_s(link_bytes_s, figures[name]))
    one, link = figures[best], f"link {human_bytes(link_bytes_s)}/s"
    sample = f"{best} leaves {one['ratio']:.2f} of a sample of its memory at {human_bytes(one['bytes_s'])}/s"
    gain = carried_s(link_bytes_s, one) * link_bytes_s
    if gain <= GAIN:
        return best, f"{link}, {sample}"
    return "none", f"{link}, {sample}, which would gain {'too little' if gain < 1 else 'nothing'}"


def carried_s(link_bytes_s: float, figures: Mapping[str, float]) -> float:
    """Seconds for a byte of memory, compressed and then sent."""
    return 1 / figures["bytes_s"] + figures["ratio"] / link_bytes_s


def carried_bytes_s(link_bytes_s: float, measured: Mapping[str, Any]) -> float:
    """Bytes of memory that a link brings over in a second when they travel in trees, by what was decided."""
    found = measured.get("compress") or {}
    if not found.get("memory") or found.get("method", "none") == "none" or not found.get("bytes_s"):
        return link_bytes_s
    return 1 / carried_s(link_bytes_s, found)


def told(measured: Mapping[str, Any], mode: Mode) -> Mapping[str, Any]:
    """Return the same, and what of this mode is not compressed."""
    found = measured.get("compress") or {}
    if found.get("method", "none") == "none" or mode not in (Mode.POST_COPY, Mode.HYBRID):
        return measured
    return {**measured, "compress": {**found, "why": f"{found['why']}; pages that follow the copy go as they are"}}


def checks(measured: Mapping[str, Any], options: Options) -> Iterator[Check]:
    """A method that was asked for must be known to both nodes; `auto` takes only what they have."""
    found = measured.get("compress") or {}
    for node in found.get("lacks", ()):
        yield Check("compress", Level.FAIL, f"it cannot compress by {options.compress}", REMEDY, node)
