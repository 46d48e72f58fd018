"""What past runs keep on disk, and taking it away: reports, journals and logs here, images on the nodes."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reberth.run import journal as journals
from reberth.run.journal import Journal
from reberth.run.outcome import is_unfinished
from reberth_hooks import ReberthError

if TYPE_CHECKING:
    from reberth.host import Host

DAY_S = 86400.0
# All logs together; the oldest go first, reports and journals stay.
LOGS_LIMIT_BYTES = 256 << 20
IMAGES = re.compile(r"/(?:dev/shm|run|var/lib)/reberth-(?P<id>[A-Za-z0-9][A-Za-z0-9._-]{0,62})-images-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Past:
    """One ended run: `age_s` since its journal was last written, `images` as (node, path) that were kept."""

    id: str
    age_s: float
    size_bytes: int
    images: tuple[tuple[str, str], ...]


def past_runs() -> list[Past]:
    """Return every run that has an end, newest first; open and held ones are none of these."""
    return [_past(journal) for name in journals.runs() if not is_unfinished(journal := Journal(name))]


def _past(journal: Journal) -> Past:
    age_s = time.time() - (journal.dir / "journal.jsonl").stat().st_mtime
    return Past(journal.dir.name, age_s, size_of(journal.dir), tuple(_images(journal)))


def _images(journal: Journal) -> Iterable[tuple[str, str]]:
    plan = (journal.last("plan") or {}).get("plan") or {}
    if not (plan.get("options") or {}).get("keep_images"):
        return
    for record in journal.records:
        word = str(record.get("key", "")).partition(".")[2]
        found = IMAGES.fullmatch(str(record.get("value", "")))
        if record["event"] == "note" and word in ("source", "target") and found and found["id"] == journal.dir.name:
            yield str(plan[word]["name"]), found[0]


def size_of(directory: Path) -> int:
    """Bytes of all regular files below."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def chosen(past: list[Past], keep: int, older_than_s: float) -> list[Past]:
    """Return those to remove: beyond the newest `keep`, and older than so many seconds."""
    return [one for one in past[keep:] if one.age_s >= older_than_s]


def remove(host: Host, runs: Iterable[Past]) -> list[str]:
    """Remove these runs, first their images on the nodes; returns what could not be removed, and keeps that run."""
    failed = []
    for one in runs:
        problems = [problem for node, path in one.images if (problem := _remove_images(host, node, path))]
        failed += problems
        if not problems:
            shutil.rmtree(journals.run_dir(one.id))
    return failed


def _remove_images(host: Host, node: str, path: str) -> str:
    try:
        host.shell(node).run(["rm", "-rf", "--", path])
    except ReberthError as error:
        return f"{path} on {node}: {error.message}"
    return ""


def limit_logs(limit_bytes: int = LOGS_LIMIT_BYTES) -> list[str]:
    """Remove the oldest runs' logs until all together are within the limit; answers whose."""
    total, gone = 0, []
    for name in journals.runs():
        place = journals.runs_dir() / name / "logs"
        if not place.is_dir() or place.is_symlink():
            continue
        total += size_of(place)
        if total > limit_bytes:
            with contextlib.suppress(OSError):
                shutil.rmtree(place)
                gone.append(name)
    return gone
