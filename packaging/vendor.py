"""What the packages bundle for the lxd plugin: libraries by the hashes of vendor.txt, unpacked without their tests."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from reberth_lab.proc import LabError, run

WANTED = Path(__file__).with_name("vendor.txt")


def wanted() -> dict[str, tuple[str, str]]:
    """Name -> (version, SHA-256 of its wheel)."""
    rows = re.findall(r"^([\w-]+)==(\S+) --hash=sha256:([0-9a-f]{64})$", WANTED.read_text("utf-8"), re.M)
    return {name: (version, digest) for name, version, digest in rows}


def wheels(cache: Path) -> list[Path]:
    """The wheels, each with the right hash; those that the cache has not are fetched by pip, which checks it too."""
    cache.mkdir(mode=0o755, parents=True, exist_ok=True)
    if _missing(cache):
        with tempfile.TemporaryDirectory(dir=cache) as work:
            argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
            run([*argv, "--require-hashes", "-r", str(WANTED), "-d", work], timeout_s=300)
            for path in Path(work).glob("*.whl"):
                path.replace(cache / path.name)
    if missing := _missing(cache):
        raise LabError(f"pip has not brought {', '.join(missing)}", f"see {WANTED.name}")
    return [_wheel(cache, name, *value) for name, value in wanted().items()]


def _wheel(cache: Path, name: str, version: str, _: str) -> Path:
    return cache / f"{name}-{version}-py3-none-any.whl"


def _missing(cache: Path) -> list[str]:
    def is_right(path: Path, digest: str) -> bool:
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest

    return [name for name, value in wanted().items() if not is_right(_wheel(cache, name, *value), value[1])]


def unpack(cache: Path, into: Path) -> None:
    """Put into a folder: `modules`, and `licenses/NAME`.

    Of the metadata only the version stays, which pylxd reads: of the rest dh_python3 would make dependencies.
    """
    modules, licenses = into / "modules", into / "licenses"
    for folder in (modules, licenses):
        folder.mkdir(parents=True)
    for path in wheels(cache):
        name = path.name.partition("-")[0]
        with zipfile.ZipFile(path) as wheel:
            for member in sorted(wheel.namelist()):
                if member.startswith(f"{name}/") and "/tests/" not in member and member.endswith(".py"):
                    wheel.extract(member, modules)
                elif member.endswith(".dist-info/METADATA"):
                    lines = wheel.read(member).decode().splitlines()
                    kept = [line for line in lines if line.startswith(("Metadata-Version:", "Name:", "Version:"))]
                    (modules / member).parent.mkdir()
                    (modules / member).write_text("\n".join(kept) + "\n", encoding="utf-8")
                elif member.endswith("/LICENSE"):
                    with wheel.open(member) as source, (licenses / name).open("wb") as target:
                        shutil.copyfileobj(source, target)
    for path in (into, *into.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
