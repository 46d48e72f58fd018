"""The file system model's own judgement, where a move may fall between two of its looks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from workloads import fsmodel
from workloads.base import Checks
from workloads.fsmodel import Inode, Model


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A held file and a pair of hard links."""
    model = Model(str(tmp_path))
    for name in ("held", "one"):
        (tmp_path / name).write_bytes(b"x")
        model.names[name] = Inode(bytearray(b"x"))
    os.link(tmp_path / "one", tmp_path / "two")
    model.names["two"] = model.names["one"]
    model.names["held"].number = os.open(tmp_path / "held", os.O_RDONLY)
    for name in model.names:
        model.learn(name)
    return model


def other_numbers(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let the looks by name answer another inode number, as before a move, this many times."""
    honest = os.lstat
    left = times

    def lstat(path: str) -> os.stat_result:
        nonlocal left
        found = list(honest(path))
        if left:
            left -= 1
            found[1] += 1_000_000
        return os.stat_result(found)

    monkeypatch.setattr(fsmodel.os, "lstat", lstat)


def problems(model: Model, look: str) -> list[str]:
    checks = Checks()
    if look == "descriptor":
        checks.expect(fsmodel._is_one_file(model.names["held"].number, model.path("held")), "another file")
    else:
        model._check_groups(checks, ["one", "two"])
    return checks.problems


@pytest.mark.parametrize("look", ["descriptor", "groups"])
def test_a_move_between_two_looks_is_no_loss(look: str, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    other_numbers(monkeypatch, 1)
    assert problems(model, look) == []


def test_another_file_stays_another_file(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    other_numbers(monkeypatch, 100)
    assert problems(model, "descriptor") == ["another file"]


def test_a_broken_link_stays_broken(model: Model, tmp_path: Path) -> None:
    (tmp_path / "two").unlink()
    (tmp_path / "two").write_bytes(b"x")
    assert problems(model, "groups") == ["not linked as they were: ['one', 'two']"]
