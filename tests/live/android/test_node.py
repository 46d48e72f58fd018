"""A phone that has Python, criu and a su that allows it is a node as any other: a process is moved to it and away.

Live because a move to a phone's real sshd, su and criu.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from livekit import phones as phonekit
from livekit.command import Command
from livekit.phones import Adb
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of
from workloads import driver

from reberth_lab.android import Phone
from reberth_lab.node import Node

PROGRAMS = ("/usr/bin/python3.13", "/usr/sbin/criu", "/usr/sbin/nft")
FOLDERS = ("usr/lib/python3.13", "usr/lib/locale")
LEFT_OUT = shutil.ignore_patterns("test", "idlelib", "__pycache__", "EXTERNALLY*", "sitecustomize.py")


@pytest.fixture
def grown(phone: Phone, node1: Node, tmp_path: Path) -> Phone:
    """The phone with programs of a node's Debian at the same paths, and a su of our own."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed (scripts/install-needs test)")
    for folder in FOLDERS:
        shutil.copytree(node1.root / folder, phone.root / folder, symlinks=True, ignore=LEFT_OUT, dirs_exist_ok=True)
    modules = (phone.root / "usr/lib/python3.13/lib-dynload").iterdir()
    for path in (*PROGRAMS, *(f"/usr/lib/python3.13/lib-dynload/{module.name}" for module in modules)):
        libraries = re.findall(r"(/\S+) \(0x", node1.run(["ldd", path]).stdout)
        for name in (path, *libraries):
            real = node1.run(["readlink", "-f", name]).stdout.strip()
            for target in (name, real):
                place = phone.root / target.lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                if not place.exists():
                    shutil.copy2(node1.root / real.lstrip("/"), place)
    for path in node1.root.glob("usr/lib/*/gconv/gconv-modules.cache"):
        place = phone.root / path.relative_to(node1.root)
        place.parent.mkdir()
        shutil.copy2(path, place)
    (phone.root / "usr/bin/python3").symlink_to("python3.13")
    shutil.copytree(driver.HERE, phone.root / driver.INSTALLED.lstrip("/"), ignore=LEFT_OUT)
    su = phone.root / "system/bin/su"
    su.unlink()
    source = Path(phonekit.__file__).with_name("su.c")
    subprocess.run(["gcc", "-static", "-O1", "-o", str(su), str(source)], check=True, timeout=60)
    su.chmod(0o4755)
    return phone


def test_a_process_is_moved_to_the_phone_and_away(
    grown: Phone,
    adb: Adb,
    reberth: Command,
    settings: Callable[[Callable[[str], str]], dict[str, str]],
    works: Stand,
    watch: Watch,
    node1: Node,
    node2: Node,
) -> None:
    env = {**settings(lambda text: text), **adb.environment}

    def call(*words: str):
        return reberth.run(*words, env=env)

    assert call("android", "setup", "--yes").code == 0
    handle = works.raw("memory", "--mib", "8")
    refused = call("plan", word_of(node1, handle), "phone:")
    assert refused.code == 10 and "it lacks Python, root (user id 2000), criu" in refused.error, str(refused)

    config = Path(env["REBERTH_CONFIG"])
    before, _, after = config.read_text().partition("[nodes.phone]")
    after = after.replace('become = "none"', 'become = "su"')
    after = after.replace("[nodes.phone.android]", '[nodes.phone.android]\npython = "/usr/bin/python3"')
    config.write_text(f"{before}[nodes.phone]{after}")
    for words in (["phone", "criu"], ["phone", "android"], ["node1", "android"], ["node2", "android"]):
        enabled = call("node", "enable", *words)
        assert enabled.code == 0, str(enabled)
    checked = call("check", "node1", "phone")
    assert checked.code == 0 and "phone: criu-usable" in checked.stdout, str(checked)

    there = call("move", word_of(node1, handle), "phone:", "--json")
    assert (there.code, there.report["outcome"], there.report["owner"]) == (0, "moved", "target"), there.error
    assert gone(node1, handle)
    assert handle.directory in grown.shell(f"cat /proc/{handle.pid}/cmdline").stdout
    back = call("move", f"phone:criu/{handle.pid}", "node2:", "--json")
    assert (back.code, back.report["outcome"], back.report["owner"]) == (0, "moved", "target"), back.error
    healthy(node2, handle)
    works.stop(handle)
    watch.check()
