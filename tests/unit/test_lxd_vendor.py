"""Which pylxd the lxd plugin takes: the system's where it is new enough, else the one that the packages bundle."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from reberth_lxd.api import vendor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """A prefix with a bundled folder, and no pylxd on the system."""
    folder = tmp_path / "share/reberth/vendor"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def found(version):
        def answer(name):
            assert name == "pylxd"
            if version is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(importlib.metadata, "version", answer)

    found(None)
    return str(folder), found


@pytest.mark.parametrize(("version", "taken"), [(None, True), ("2.2.10", True), ("2.4.2", False), ("3.0", False)])
def test_the_bundled_one_is_for_systems_without_a_new_one(bundled, version, taken):
    folder, found = bundled
    found(version)
    vendor.enable()
    assert (folder in sys.path) is taken
    vendor.enable()
    assert sys.path.count(folder) == taken


def test_nothing_is_added_where_nothing_is_bundled(bundled, tmp_path):
    (tmp_path / "share/reberth/vendor").rmdir()
    before = list(sys.path)
    vendor.enable()
    assert sys.path == before


def test_the_package_for_fedora_names_the_versions_that_it_bundles():
    """Who looks for a vulnerable library asks for these lines."""
    bundled = re.findall(r"^(\w+)==(\S+)", (ROOT / "packaging/vendor.txt").read_text(), re.MULTILINE)
    spec = (ROOT / "packaging/rpm/reberth.spec").read_text()
    provided = re.findall(r"^Provides:\s+bundled\(python3dist\((\w+)\)\) = (\S+)$", spec, re.MULTILINE)
    assert len(bundled) == 2 and provided == bundled
