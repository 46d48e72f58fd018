"""Puts the running reberth into the nodes, with generated metadata, so that their Python finds its entry points."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOME = "usr/local/lib/reberth"
SITE_PACKAGES = "usr/local/lib/python3.13/dist-packages"
GROUP = "reberth"
PROGRAM = """\
#!/usr/bin/python3
import sys

from reberth.__main__ import main

sys.exit(main())
"""


@dataclass(frozen=True)
class Distribution:
    """What is delivered: version, entry points (name -> module) and the folders of the import packages."""

    version: str
    entry_points: Mapping[str, str]
    packages: Mapping[str, Path]


def find() -> Distribution:
    """Return the installed distribution, else the checkout that this file belongs to."""
    try:
        installed = importlib.metadata.distribution("reberth")
    except importlib.metadata.PackageNotFoundError:
        return _checkout(Path(__file__).resolve().parents[2])
    points = {point.name: point.value for point in installed.entry_points if point.group == GROUP}
    return Distribution(installed.version, points, _folders(points))


def _checkout(top: Path) -> Distribution:
    version, points = "0", {}
    if (top / "pyproject.toml").is_file():
        project = tomllib.loads((top / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        version, points = project["version"], project["entry-points"][GROUP]
    folders = [top / "core/reberth", top / "hooks/reberth_hooks", *sorted((top / "plugins").glob("reberth_*"))]
    return Distribution(version, points, {path.name: path for path in folders if path.is_dir()})


def _folders(points: Mapping[str, str]) -> dict[str, Path]:
    """Folders of reberth, its contract and every bundled plugin, wherever an (editable) install keeps them."""
    found: dict[str, Path] = {}
    for name in ("reberth", "reberth_hooks", *(value.partition(":")[0].partition(".")[0] for value in points.values())):
        spec = importlib.util.find_spec(name)
        if spec and spec.submodule_search_locations:
            found[name] = Path(next(iter(spec.submodule_search_locations)))
    return found


def deliver(what: Distribution, root: Path) -> None:
    """Replaces the copy below `root`, a node's root; what runs there keeps its open files."""
    home = root / HOME
    fresh, old = home.with_name("reberth.new"), home.with_name("reberth.old")
    for path in (fresh, old):
        shutil.rmtree(path, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, folder in what.packages.items():
        shutil.copytree(folder, fresh / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    _write_metadata(what, fresh)
    if home.exists():
        home.rename(old)
    fresh.rename(home)
    shutil.rmtree(old, ignore_errors=True)
    site = root / SITE_PACKAGES
    site.mkdir(parents=True, exist_ok=True)
    (site / "reberth.pth").write_text(f"/{HOME}\n", encoding="utf-8")
    program = root / "usr/local/bin/reberth"
    program.write_text(PROGRAM, encoding="utf-8")
    program.chmod(0o755)


def _write_metadata(what: Distribution, into: Path) -> None:
    info = into / f"reberth-{what.version}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: reberth\nVersion: {what.version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in what.entry_points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (info / "INSTALLER").write_text("reberth-lab\n", encoding="utf-8")
