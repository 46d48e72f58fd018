"""The line of shell-init in a start file, and taken out again: neither shell nor home keeps anything of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SHELLS = {  # name -> (start file below the home, the line, arguments, what prints all that could be ours)
    "bash": (
        ".bashrc",
        'eval "$(reberth shell-init bash)"',
        ["bash", "-i", "-c"],
        "declare -F; declare -p; complete -p; alias; type -t runc crun",
    ),
    "zsh": (
        ".zshrc",
        'autoload -U compinit; compinit -u -D; eval "$(reberth shell-init zsh)"',
        ["zsh", "-i", "-c"],
        "functions; typeset; alias; print -l ${(kv)_comps}; whence -w runc crun",
    ),
    "fish": (
        ".config/fish/config.fish",
        "reberth shell-init fish | source",
        ["fish", "-i", "-c"],
        "functions --all; set --names; complete; type -t runc crun",
    ),
}
OF_THE_SHELL = (".zcompdump", ".config/fish", ".local/share/fish", ".cache/fish")


def files(home: Path) -> dict[str, bytes]:
    """What a home has, without what the shell itself keeps there."""
    found = {str(path.relative_to(home)): path for path in home.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(OF_THE_SHELL)}


@pytest.mark.parametrize("name", SHELLS)
def test_taking_the_line_out_leaves_no_trace(name, env, place, needed, tmp_path):
    needed(shutil.which(name) is not None, name)
    rc, line, argv, show = SHELLS[name]
    own = {**env, "HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / ".config")}
    own["BASH_COMPLETION_USER_DIR"] = str(tmp_path)
    # A clone is called reberth, and its path may stand in PATH and PWD: neither is a trace of ours.
    own["PATH"] = f"{place / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    (tmp_path / rc).parent.mkdir(parents=True, exist_ok=True)

    def shown() -> str:
        # a session of its own: an interactive shell would take the terminal of the test run
        done = subprocess.run(
            [*argv, show], env=own, cwd=tmp_path, capture_output=True, text=True, timeout=60, start_new_session=True
        )
        lines = done.stdout.replace(str(place), "").replace(str(tmp_path), "").splitlines()
        return "\n".join(text for text in lines if "REBERTH_" not in text)

    (tmp_path / rc).write_text("")
    before, kept = shown(), files(tmp_path)
    assert "reberth" not in before
    (tmp_path / rc).write_text(f"{line}\n")
    assert "__reberth_runtime" in shown()
    (tmp_path / rc).write_text("")
    after = shown()
    assert "reberth" not in after
    assert len(after.splitlines()) == len(before.splitlines())
    assert files(tmp_path) == kept
    assert os.listdir(env["XDG_CACHE_HOME"]) == ["reberth"]
