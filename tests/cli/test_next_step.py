"""The one line that `reberth` alone prints for those who come from runc or lxc."""

from __future__ import annotations

import pytest

from reberth.cli.next_step import next_step


@pytest.mark.parametrize(
    ("there", "shell", "said"),
    [
        (["runc"], "/bin/bash", 'eval "$(reberth shell-init bash)"'),
        (["crun"], "/usr/bin/zsh", 'eval "$(reberth shell-init zsh)"'),
        (["runc"], "/usr/bin/fish", "reberth shell-init fish | source"),
        (["runc"], "/bin/tcsh", 'eval "$(reberth shell-init bash)"'),
        (["lxc"], "/bin/bash", "for `lxc move` run: reberth lxd alias install"),
        (["incus"], "/bin/bash", "for `incus move` run: reberth lxd alias install --client incus"),
    ],
)
def test_it_fits_the_runtime_and_the_shell(tmp_path, there, shell, said):
    for name in there:
        (tmp_path / name).touch(mode=0o755)
    line = next_step({"PATH": str(tmp_path), "SHELL": shell}, {"lxd": "LXD."})
    assert line.startswith("Next: ") and said in line and "\n" not in line


def test_it_is_silent_where_nothing_fits(tmp_path):
    (tmp_path / "lxc").touch(mode=0o755)
    assert next_step({"PATH": str(tmp_path)}, {}) == ""


def test_reberth_alone_prints_it_and_help_does_not(world, tmp_path, monkeypatch):
    (tmp_path / "runc").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = world.run()
    assert result.exit_code == 2 and result.stderr.splitlines()[-1].startswith("Next: for `runc migrate")
    assert "Next:" not in world.run("--help").stdout
