"""The package for Fedora, as far as Debian 13 can tell: built, judged, installed with rpm into an empty folder, run."""

from __future__ import annotations

from pathlib import Path

import build
import pytest
import roots

SITE = "/scratch/usr/lib/python3.13/site-packages"
EXPECTED = {
    "/etc/reberth/config.toml",
    "/usr/bin/reberth",
    "/usr/share/reberth/vendor/pylxd/__init__.py",
    "/usr/share/reberth/vendor/ws4py/__init__.py",
    "/usr/share/bash-completion/completions/reberth",
    "/usr/share/zsh/site-functions/_reberth",
    "/usr/share/fish/vendor_completions.d/reberth.fish",
    "/usr/share/man/man1/reberth.1.gz",
    "/usr/share/man/man5/reberth.toml.5.gz",
    "/usr/share/man/man7/reberth-plugins.7.gz",
}


@pytest.mark.reproducible
def test_two_builds_give_the_same_bytes(rpms, rpms_again):
    first, second = ([path.read_bytes() for path in made] for made in (rpms, rpms_again))
    assert first == second


def test_it_installs_runs_and_goes_without_a_trace(workshop, fresh, rpms, put):
    package = next(path for path in rpms if ".noarch." in path.name)
    put(workshop, package, "/reberth.rpm")
    ask = ["rpm", "-qp", "/reberth.rpm"]
    files = workshop.inside([*ask, "--list"]).split()
    assert set(files) >= EXPECTED
    # the folder's name has the version on Debian, not on Fedora
    assert {path.rpartition("/")[2] for path in files if "/licenses/reberth" in path} >= {"LICENSE", "pylxd", "ws4py"}
    allowed = ("/usr/bin/reberth", "/usr/lib/python3.13/site-packages/reberth", "/usr/share/", "/etc/reberth")
    assert [path for path in files if not path.startswith(allowed)] == []
    assert workshop.inside([*ask, "--scripts"]).strip() == ""
    assert workshop.inside([*ask, "--configfiles"]).split() == ["/etc/reberth/config.toml"]
    needs = workshop.inside([*ask, "--requires"])
    assert "openssh-clients" in needs
    assert "criu" in workshop.inside([*ask, "--recommends"])

    workshop.inside(["rpm", "--root", "/scratch", "--initdb"])
    before = paths(workshop.root / "scratch")
    workshop.inside(["rpm", "--root", "/scratch", "--nodeps", "-i", "/reberth.rpm"])
    roots.install(fresh, roots.WANTED)
    put(fresh, workshop.root / "scratch", "/scratch")
    program = ["env", f"PYTHONPATH={SITE}", "/scratch/usr/bin/reberth"]
    assert fresh.inside([*program, "--version"]).strip() == f"reberth {build.VERSION}"
    assert "broken" not in fresh.inside([*program, "plugin", "ls"])
    workshop.inside(["rpm", "--root", "/scratch", "--nodeps", "-e", "reberth"])
    # folders of the system that nobody owns here stay; on Fedora other packages own them
    left = {path for path in paths(workshop.root / "scratch") - before if "reberth" in path}
    assert left == set()


def paths(root: Path) -> set[str]:
    """Everything below a folder."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}
