"""The Debian package: built, installed, upgraded, removed and purged in a fresh Debian 13, and used from there."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import build
import pytest
import roots
from livekit import tier

from reberth_lab import demo_bundle
from reberth_lab.lab import Lab

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = (ROOT / "packaging/debian/changelog").read_text("utf-8")
APT = ["apt-get", "-y", "-q", "-o", "Dpkg::Use-Pty=0"]
# Not ours: what apt, dpkg and the triggers of other packages write.
OTHERS = ("/var/log/", "/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/", "/etc/ld.so.cache", "/usr/share/mime")
TAB = """
source /usr/share/bash-completion/completions/reberth
COMP_LINE=$1 COMP_POINT=${#1}
__reberth_complete reberth
printf '%s\\n' "${COMPREPLY[@]}"
"""


def files(root: Path) -> set[str]:
    """Every path of a root but those that others write."""
    found = set()
    for folder, names, others in os.walk(root):
        names[:] = [name for name in names if name not in ("proc", "sys", "dev", "tmp", "__pycache__")]
        found.update(f"/{os.path.relpath(os.path.join(folder, name), root)}" for name in names + others)
    return {path for path in found if not path.startswith(OTHERS) and not path.endswith(".pyc")}


def tab(chroot, line: str) -> list[str]:
    """What the tab key would offer in bash."""
    return chroot.inside(["bash", "-c", TAB, "bash", line]).split()


def newer(chroot, path: str) -> str:
    """The same package with a higher version and another default configuration."""
    chroot.inside(["dpkg-deb", "-R", path, "/newer"])
    control = chroot.root / "newer/DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*$", "Version: 99", control.read_text(), flags=re.M))
    with (chroot.root / "newer/etc/reberth/config.toml").open("a") as file:
        file.write("# of version 99\n")
    chroot.inside(["dpkg-deb", "--root-owner-group", "-b", "/newer", "/newer.deb"])
    return "/newer.deb"


def test_versions_and_times_agree():
    version = build.VERSION.replace(".dev", "~dev")
    assert CHANGELOG.startswith(f"reberth ({version}) ")
    spec = (ROOT / "packaging/rpm/reberth.spec").read_text("utf-8")
    assert f"Version:        {version}\n" in spec and spec.count(build.NAME) == 2
    assert f"reberth-{build.VERSION}.dist-info" in (ROOT / "packaging/rpm/macros").read_text("utf-8")
    from email.utils import parsedate_to_datetime

    stamp = CHANGELOG.rpartition("  ")[2].strip()
    assert parsedate_to_datetime(stamp).timestamp() == int(build.EPOCH)


def test_the_floors_of_the_package_are_those_of_the_project():
    project = build.tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    control = (ROOT / "packaging/debian/control").read_text("utf-8")
    for name, floor in (word.split(">=") for word in [*project["dependencies"], "python" + project["requires-python"]]):
        package = "python3" if name == "python" else f"python3-{name}"
        assert f" {package} (>= {floor}),\n" in control


@pytest.mark.reproducible
def test_two_builds_give_the_same_bytes(deb, deb_again):
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (deb, deb_again))
    assert first == second


def test_the_life_of_the_package(fresh, deb, put):
    """Installed: program, plugins, completion, man page. Then what an upgrade, removal and purge leave."""
    roots.install(fresh, [*roots.WANTED, *roots.BESIDE])
    before = files(fresh.root)
    said = roots.install(fresh, [put(fresh, deb, "/reberth.deb")])
    assert "Setting up reberth" in said
    after = said.partition("Setting up reberth")[2].splitlines()[1:]
    assert all(line.startswith("Processing triggers") for line in after), "the installation prints nothing of its own"

    assert fresh.inside(["reberth", "--version"]).strip() == f"reberth {build.VERSION}"
    plugins = json.loads(fresh.inside(["reberth", "plugin", "ls", "--json"]))
    entry_points = build.tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    assert plugins["broken"] == [] and {p["name"] for p in plugins["plugins"]} == set(entry_points["reberth"])
    assert {plugin["version"] for plugin in plugins["plugins"]} == {build.VERSION}
    config = fresh.root / "etc/reberth/config.toml"
    with config.open("a") as file:
        file.write('[nodes.pi2]\naddress = "192.0.2.2"\n')
    assert tab(fresh, "reberth mo") == ["move"]
    assert tab(fresh, "reberth move pi") == ["pi2:"]
    for page in sorted((ROOT / "docs/man").glob("*.rst")):
        name, section = page.stem.rsplit(".", 1)
        assert fresh.inside(["man", "-w", section, name]).strip().endswith(f"{page.stem}.gz")
    assert "NAME" in fresh.inside(["man", "reberth"]).upper()
    for path in ("zsh/vendor-completions/_reberth", "fish/vendor_completions.d/reberth.fish"):
        assert (fresh.root / "usr/share" / path).is_file()

    options = ["-o", "Dpkg::Options::=--force-confold"]
    fresh.inside([*APT, *options, "install", newer(fresh, "/reberth.deb")])
    assert "Version: 99" in fresh.inside(["dpkg", "-s", "reberth"])
    assert "[nodes.pi2]" in config.read_text() and "of version 99" not in config.read_text()

    fresh.inside([*APT, "remove", "reberth"])
    left = files(fresh.root) - before
    assert left <= {path for path in left if path.startswith(("/etc/reberth", "/newer", "/reberth.deb"))}
    assert "[nodes.pi2]" in config.read_text()

    held = fresh.root / "var/lib/reberth/runs/20250131-120000-1f2e"
    held.mkdir(parents=True)
    (held / "journal.jsonl").write_text('{"event": "plan"}\n')
    assert (fresh.root / "var/cache/reberth/complete").is_dir()  # the tab key has left something there
    fresh.inside([*APT, "purge", "reberth"])
    assert (held / "journal.jsonl").exists(), "what a held workload needs was purged"
    roots.install(fresh, ["/reberth.deb"])
    with (held / "journal.jsonl").open("a") as file:
        file.write('{"event": "end"}\n')
    fresh.inside([*APT, "purge", "reberth"])
    left = {path for path in files(fresh.root) - before if not path.startswith(("/newer", "/reberth.deb"))}
    assert left == set()
    assert not (fresh.root / "var/cache/reberth").exists()


def test_the_installed_program_moves_a_container(fresh, deb, put):
    """From a root with nothing but the package and what it depends on, between two nodes of a lab."""
    roots.install(fresh, [put(fresh, deb, "/reberth.deb")])
    lab = Lab(tier.lab_name("p"), say=lambda _: None)
    try:
        lab.up(2)
        for name in ("config.toml", "id_ed25519", "known_hosts"):
            put(fresh, lab.site.state / name, str(lab.site.state / name))
        (fresh.root / str(lab.site.state).lstrip("/") / "id_ed25519").chmod(0o600)
        node1, node2 = lab.node("node1"), lab.node("node2")
        demo_bundle.build(node1)
        node1.run(["sh", "-c", 'exec runc run -d -b "$0" web </dev/null >/dev/null 2>&1', demo_bundle.BUNDLE])
        reberth = ["env", f"REBERTH_CONFIG={lab.config_path}", "reberth"]
        report = json.loads(fresh.inside([*reberth, "move", "node1:web", "node2:", "--json"]))
        assert (report["outcome"], report["owner"]) == ("moved", "target")
        assert json.loads(node2.run(["runc", "state", "web"]).stdout)["status"] == "running"
        assert node1.run(["runc", "state", "web"], check=False).returncode != 0
        fresh.inside([*reberth, "ls", "node2"])
        assert tab_in(fresh, lab, "reberth move node2:w") == ["node2:web"]
    finally:
        lab.down()


def tab_in(chroot, lab, line: str) -> list[str]:
    """The tab key with the lab's inventory; the part up to the colon stays on the line, so it is put before."""
    argv = ["env", f"REBERTH_CONFIG={lab.config_path}", "REBERTH_COMPLETE_ASK=0", "bash", "-c", TAB, "bash", line]
    return [f"node2:{word.removeprefix('node2:')}" for word in chroot.inside(argv).split()]


def test_every_command_of_the_page_about_installing(fresh, deb, put):
    page = (ROOT / "docs/how-to/install.md").read_text("utf-8")
    blocks = re.findall(r"^```console\n(.*?)^```", page, re.M | re.S)
    todo = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    assert {"make deb", "pipx install ."} <= set(todo)  # the fixtures build it; tests/live/test_readme.py runs pipx
    put(fresh, deb, f"/root/dist/{deb.name}")
    roots.install(fresh, ["man-db"])
    for command in todo:
        if command.startswith(("make ", "pipx ")):
            continue
        words = command.replace("apt-get ", "apt-get -y -q --no-install-recommends ")
        fresh.inside(["env", "-C", "/root", "sh", "-c", words])
        if command.startswith("reberth completion bash"):
            text = (fresh.root / "root/.local/share/bash-completion/completions/reberth").read_text()
            assert "__reberth_complete" in text
    assert not (fresh.root / "usr/bin/reberth").exists()
