"""`make help` tells the truth, and the scripts behind the targets are sound."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Makefile").read_text("utf-8")
TARGETS = re.search(r"^\.PHONY: (.+)$", TEXT, re.M)[1].split()
SCRIPTS = [*sorted((ROOT / "scripts").iterdir()), ROOT / ".ci/run"]

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, env=clean)


@needs_make
def test_help_lists_every_target():
    done = make()
    assert done.returncode == 0
    shown = [line.split()[1] for line in done.stdout.splitlines()]
    assert shown == TARGETS
    assert all(len(line.split()) > 3 for line in done.stdout.splitlines())


def test_every_rule_is_a_target_with_help_in_one_line():
    rules = re.findall(r"^([a-z]+):(.*)$", TEXT, re.M)
    assert [name for name, _ in rules] == TARGETS
    assert [name for name, rest in rules if "## " not in rest] == []
    assert not re.search(r"^\t.*\n\t", TEXT, re.M)


@needs_make
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_knows_what_to_do(target):
    assert make("-n", target).returncode == 0


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_and_parse(path):
    assert os.access(path, os.X_OK)
    first = path.read_text("utf-8").splitlines()[0]
    assert first in ("#!/bin/sh", "#!/bin/bash")
    subprocess.run([first[2:], "-n", str(path)], check=True, timeout=30)
    if path.name != "find-python":
        assert re.search(r"^set -eu$", path.read_text("utf-8"), re.M)


def test_continuous_integration_calls_make_test():
    assert re.search(r"make test$", (ROOT / ".ci/run").read_text("utf-8"), re.M)
    assert "REBERTH_REQUIRE_LIVE=1" in (ROOT / ".ci/run").read_text("utf-8")


def test_every_folder_of_tests_is_run_once():
    quick, nodes = (re.search(rf"^{name} := (.+)$", TEXT, re.M)[1].split() for name in ("QUICK", "NODES"))
    named = [word for word in [*quick, *nodes, "tests/vm"] if word.startswith("tests/")]
    folders = {path.relative_to(ROOT).parts[1] for path in (ROOT / "tests").glob("*/**/test_*.py")}
    assert sorted(named) == sorted(f"tests/{name}" for name in folders)
    assert re.search(r"^\t.*pytest \$\(QUICK\) && .*pytest tests/vm -m sample && .*pytest \$\(NODES\)", TEXT, re.M)


def demo(os_release: Path) -> subprocess.CompletedProcess[str]:
    # Nothing of this machine is reached: no program but these is on the path, and it must not ask for others.
    env = {"PATH": "/usr/bin:/bin", "OS_RELEASE": str(os_release)}
    return subprocess.run(["scripts/demo"], cwd=ROOT, capture_output=True, text=True, timeout=60, env=env)


@pytest.mark.parametrize("text", ['ID=gentoo\nPRETTY_NAME="Gentoo"\n', "ID=debian\nVERSION_ID=11\n", ""])
def test_the_demo_stops_where_it_was_never_tried(tmp_path, text):
    (tmp_path / "os-release").write_text(text)
    done = demo(tmp_path / "os-release")
    assert done.returncode == 1
    assert "never tried on this system" in done.stdout
    assert "FORCE=1" in done.stderr
    assert "installs" not in done.stdout


LAB = {"debootstrap", "iproute2", "util-linux", "mount", "openssh-client"}
VM = {"qemu-system-x86", "qemu-system-arm", "kmod", "e2fsprogs"}
TEST = LAB | VM | {"adb", "gcc", "openssl", "zsh", "fish", "tcsh", "ksh", "mksh", "busybox"}
NEEDS = [("lab", LAB), ("vm", VM), ("test", TEST if os.geteuid() == 0 else set())]


@pytest.mark.parametrize(("target", "wanted"), NEEDS, ids=[target for target, _ in NEEDS])
def test_what_is_missing_is_named_by_its_package(tmp_path, target, wanted):
    """On a path with a handful of programs everything else is missing."""
    for name in ("sh", "id", "tr", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name))
    text = (ROOT / "scripts/install-needs").read_text("utf-8").replace("PATH=$PATH:/usr/sbin:/sbin", "PATH=$PATH")
    (tmp_path / "install-needs").write_text(text)
    argv = [shutil.which("sh"), str(tmp_path / "install-needs"), "--list", target]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, env={"PATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) - {"debian-archive-keyring", "bash-completion", "libc6-dev"} == wanted
