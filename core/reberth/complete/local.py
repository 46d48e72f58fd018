"""What this machine knows without asking another: inventory, runs, plugins, ssh_config. Unreadable means empty."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from reberth.complete import cache
from reberth.config.paths import config_files, home_dir, state_dir
from reberth.text import is_name

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing takes a tenth of the whole time
    from collections.abc import Iterator, Mapping
    from typing import Any

    Env = Mapping[str, str]
    Tables = dict[str, dict[str, list[str]]]  # name of a node -> backends and transports -> names
KINDS = ("backends", "transports")
LOCAL = "local"
LOCAL_BACKENDS = ("criu", "runc", "lxd")
MOST_RUNS = 30


def tables(environ: Env) -> Tables:
    """Return the nodes of the configuration with what is enabled there, later files over earlier ones.

    Reading TOML takes longer than all the rest, so what was read is kept as long as the files are the same.
    """
    files = [str(path) for path in config_files(environ)]
    stamp = "\t".join(f"{path} {_changed(path)}" for path in files)
    kept = cache.read_lines("nodes", environ)
    if kept and kept[0] == stamp:
        rows = [line.split("\t") for line in kept[1:]]
        return {name: dict(zip(KINDS, (words.split() for words in row), strict=True)) for name, *row in rows}
    found = _parsed(files)
    rows = [[name, *(" ".join(table[kind]) for kind in KINDS)] for name, table in found.items()]
    cache.write_lines("nodes", [stamp, *("\t".join(row) for row in rows)], environ)
    return found


def _changed(path: str) -> str:
    try:
        stat = os.stat(path)  # noqa: PTH116
    except OSError:
        return "-"
    return f"{stat.st_mtime_ns} {stat.st_size} {stat.st_ino}"


def _parsed(files: list[str]) -> Tables:
    import tomllib

    merged: dict[str, dict[str, Any]] = {LOCAL: {"backends": list(LOCAL_BACKENDS)}}
    for path in files:
        try:
            read = tomllib.loads(Path(path).read_text("utf-8")).get("nodes", {})
        except (OSError, ValueError):
            continue
        for name, table in read.items():
            if is_name(name) and isinstance(table, dict):
                merged.setdefault(name, {}).update(table)
    return {name: {kind: _words(table.get(kind)) for kind in KINDS} for name, table in merged.items()}


def nodes(found: Tables) -> list[str]:
    """Names of all nodes, this machine last."""
    return [*sorted(name for name in found if name != LOCAL), LOCAL]


def backends_of(found: Tables, node: str) -> list[str]:
    """Return the backends that are enabled on a node."""
    return found.get(node, {}).get("backends", [])


def enabled(found: Tables, kind: str) -> list[str]:
    """Return what is enabled on any node; `kind` is backends or transports."""
    words = {word for table in found.values() for word in table[kind]}
    return sorted(words | ({"ssh"} if kind == "transports" else set()))


def _words(value: Any) -> list[str]:
    return [word for word in value if isinstance(word, str) and is_name(word)] if isinstance(value, list) else []


def runs(environ: Env) -> list[str]:
    """Ids of the runs of this controller, newest first: an id begins with its date and time."""
    try:
        names = [entry.name for entry in (state_dir(environ) / "runs").iterdir() if is_name(entry.name)]
    except OSError:
        return []
    return sorted(names, reverse=True)[:MOST_RUNS]


def plugins() -> list[str]:
    """Names in the entry points of group `reberth`, read from the files: importlib.metadata would cost 30 ms."""
    found: set[str] = set()
    for folder in dict.fromkeys(path for path in sys.path if path):
        for path in Path(folder).glob("*.dist-info/entry_points.txt"):
            found.update(_points(path))
    return sorted(found)


def _points(path: Path) -> Iterator[str]:
    group = ""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in (line.strip() for line in lines):
        if line.startswith("["):
            group = line.strip("[]")
        elif group == "reberth" and "=" in line and is_name(line.partition("=")[0].strip()):
            yield line.partition("=")[0].strip()


def ssh_hosts(environ: Env) -> list[str]:
    """Hosts of ssh_config without patterns, of the user and of the system, files that they include as well."""
    found: set[str] = set()
    own = home_dir(environ) / ".ssh"
    for path, base in ((own / "config", own), (Path("/etc/ssh/ssh_config"), Path("/etc/ssh"))):
        found.update(_hosts(path, base, 3))
    return sorted(found)


def _hosts(path: Path, base: Path, depth: int) -> Iterator[str]:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        key, *words = line.replace("=", " ", 1).split() or [""]
        if key.lower() == "host":
            yield from (word for word in words if not set(word) & set("*?!\"'") and word.isprintable())
        elif key.lower() == "include" and depth:
            for word in words:
                pattern = Path(word).expanduser()
                folder, name = (base / pattern).parent, pattern.name
                for inner in sorted(folder.glob(name)):
                    yield from _hosts(inner, base, depth - 1)
