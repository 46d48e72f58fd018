"""Plant small faults into the protocol, and count those that no quick test notices: tests/mutants/run.py [FILE...].

mutmut needs modules whose path is their name, so it works on a copy with `reberth` and `reberth_hooks` at the top. The
copy is kept: what was judged before is not judged again. REBERTH_MUTANTS names another place for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path(os.environ.get("REBERTH_MUTANTS") or ROOT / "build/mutants")
# The file, and the quick tests that are to notice a fault in it.
FILES = {
    "reberth/run/decide.py": ("test_protocol.py", "test_protocol_alone.py"),
    "reberth/node/runs/source.py": (
        "test_order.py",
        "test_adopted.py",
        "test_line.py",
        "test_address.py",
        "test_jobs.py",
    ),
    "reberth/node/runs/target.py": (
        "test_order.py",
        "test_adopted.py",
        "test_line.py",
        "test_address.py",
        "test_jobs.py",
    ),
}
CONFIG = """
[tool.mutmut]
source_paths = ["reberth"]
only_mutate = ["{file}"]
also_copy = ["reberth_hooks", "tests"]
pytest_add_cli_args_test_selection = [{tests}]
use_git_change_detection = false
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "no:xdist", "--import-mode=importlib"]

[tool.pytest.ini_options]
markers = ["slow: as in the project"]
"""


def prepare(place: Path, file: str, tests: tuple[str, ...]) -> None:
    """Lay the copy out anew, but for what mutmut has judged."""
    place.mkdir(parents=True, exist_ok=True)
    for source, name in (("core/reberth", "reberth"), ("hooks/reberth_hooks", "reberth_hooks")):
        shutil.copytree(ROOT / source, place / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    unit = place / "tests/unit"
    shutil.copytree(ROOT / "tests/unit", unit, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    words = ", ".join(f'"tests/unit/{name}"' for name in tests)
    (place / "pyproject.toml").write_text(CONFIG.format(file=file, tests=words), "utf-8")


def main() -> int:
    """Judge each file, or those that are named, or of all only what a pattern of names says (`*.x__aborted*`)."""
    code = 0
    patterns = [word for word in sys.argv[1:] if "*" in word]
    for file in [word for word in sys.argv[1:] if "*" not in word] or FILES:
        place = PLACE / Path(file).stem
        prepare(place, file, FILES[file])
        mutmut = [sys.executable, "-m", "mutmut"]
        code = (
            subprocess.run([*mutmut, "run", "--max-children", "2", *patterns], cwd=place, check=False).returncode
            or code
        )
        print(f"{file}: survivors, if any; `mutmut show NAME` in {place} shows one", flush=True)
        subprocess.run([*mutmut, "results"], cwd=place, check=False)
    return code


if __name__ == "__main__":
    sys.exit(main())
