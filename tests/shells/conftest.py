"""Real shells behind a pseudo-terminal, with a small world: two nodes, their workloads in the cache, fake runtimes."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from livekit.terminal import Shell

CONFIG = """
[nodes.node1]
address = "192.0.2.1"
backends = ["runc", "criu"]
[nodes.node2]
address = "192.0.2.2"
backends = ["runc"]
"""
WORKLOADS = "runc\tweb\trunning\nrunc\tdb\trunning\ncriu\tdb\trunning\ncriu\t4711\trunning\nlxd\tc1\trunning\n"
REBERTH = """#!/bin/sh
export PYTHONPATH={path}
exec {python} -m reberth "$@"
"""
RUNTIME = """#!/bin/sh
echo "{name} itself:" "$@"
"""
BASH_PACKAGE = Path("/usr/share/bash-completion/bash_completion")
# What the packages of runc ship for bash, as far as a test can tell: a function that bash-completion loads by name.
NATIVE = """_runc() {
    case $3 in
    checkpoint) COMPREPLY=($(compgen -W '--leave-running --image-path' -- "$2")) ;;
    *) COMPREPLY=($(compgen -W 'checkpoint create list' -- "$2")) ;;
    esac
}
complete -F _runc runc
"""


def must_have(there: bool, what: str) -> None:
    """Skip where a shell is missing; fail where the tests must be complete."""
    if not there and os.environ.get("REBERTH_REQUIRE_LIVE", "0") not in ("", "0"):
        pytest.fail(f"REBERTH_REQUIRE_LIVE=1, but {what} is not installed")
    if not there:
        pytest.skip(f"{what} is not installed (scripts/install-needs test installs it)")


@pytest.fixture
def needed():
    """Skips or fails where something is missing."""
    return must_have


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """The world on disk; `bin` is first on the path."""
    top = tmp_path_factory.mktemp("shells")
    (top / "config.toml").write_text(CONFIG)
    names = top / "cache/reberth/complete"
    names.mkdir(parents=True)
    (names / "node-node1").write_text(WORKLOADS)
    (names / "node-local").write_text("runc\there\trunning\n")
    (top / "bin").mkdir()
    programs = {name: RUNTIME.format(name=name) for name in ("runc", "crun")}
    programs["reberth"] = REBERTH.format(
        path=shlex.quote(os.pathsep.join(p for p in sys.path if p)), python=shlex.quote(sys.executable)
    )
    for name, text in programs.items():
        (top / "bin" / name).write_text(text)
        (top / "bin" / name).chmod(0o755)
    (top / "completions").mkdir()
    (top / "completions/runc").write_text(NATIVE)
    return top


@pytest.fixture(scope="session")
def env(place) -> dict[str, str]:
    """The environment of a shell in that world: no node is asked in the background."""
    return {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "HOME": str(place),
        "REBERTH_CONFIG": str(place / "config.toml"),
        "XDG_CACHE_HOME": str(place / "cache"),
        "XDG_STATE_HOME": str(place / "state"),
        "BASH_COMPLETION_USER_DIR": str(place),
        "REBERTH_COMPLETE_ASK": "0",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
    }


def bash(env: dict[str, str], *, package: bool, init: bool) -> Shell:
    """A bash without start files, with or without bash-completion, with our completion or the whole of shell-init."""
    must_have(shutil.which("bash") is not None, "bash")
    if package:
        must_have(BASH_PACKAGE.exists(), "bash-completion")
    start = [
        "PS1='$ '",
        "bind 'set enable-bracketed-paste off'",
        'bind -x \'"\\C-g": printf "<<%s>>" "$READLINE_LINE"\'',
        f"source {BASH_PACKAGE}" if package else ":",
        'eval "$(reberth shell-init bash)"' if init else 'eval "$(reberth completion bash)"',
    ]
    return Shell(["bash", "--norc", "--noprofile", "-i"], env, "; ".join(start))


def zsh(env: dict[str, str], *, init: bool) -> Shell:
    """A zsh without start files; our completion is autoloaded from fpath, as the packages do it."""
    must_have(shutil.which("zsh") is not None, "zsh")
    folder = Path(env["HOME"]) / "zsh"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(Path(__file__).parents[2] / "completions/_reberth", folder / "_reberth")
    start = [
        "PS1='$ '; unsetopt prompt_sp prompt_cr; setopt no_beep",
        f"fpath=({folder} $fpath)" if not init else ":",
        "autoload -U compinit; compinit -u -D",
        'dump() { print -rn -- "<<$BUFFER>>" }; zle -N dump; bindkey "^G" dump; bindkey "^U" kill-whole-line',
        'eval "$(reberth shell-init zsh)"' if init else ":",
    ]
    return Shell(["zsh", "-f", "-i"], {**env, "TERM": "xterm"}, "; ".join(start))


class Fish(Shell):
    """As Shell; fish draws its line itself, so that what stands on it is written to a file instead."""

    def __init__(self, env: dict[str, str]) -> None:
        must_have(shutil.which("fish") is not None, "fish")
        self.seen = Path(env["HOME"]) / "fish-line"
        start = [
            f"bind \\cg 'commandline > {self.seen}; printf \\a; echo drawn'",
            "bind \\cu 'commandline -r \"\"'",
            "set -g fish_autosuggestion_enabled 0",
            "reberth shell-init fish | source",
        ]
        super().__init__(
            ["fish", "-N", "-i"], {**env, "TERM": "xterm", "XDG_CONFIG_HOME": env["HOME"]}, "; ".join(start)
        )

    def press(self, typed: str, tabs: int = 1) -> tuple[str, str]:
        """The command line after typing this and the tab key."""
        self.child.send("\x15" + typed + "\t" * tabs + "\x07")
        self.child.expect("drawn")
        return self.seen.read_text().removesuffix("\n"), self.child.before


@pytest.fixture(scope="module")
def fish(env):
    """A fish with shell-init behind a pseudo-terminal."""
    one = Fish(env)
    yield one
    one.close()


@pytest.fixture(scope="module", params=["bash", "bash with bash-completion", "zsh"])
def shell(request, env):
    """Each shell with the completion of reberth alone."""
    one = zsh(env, init=False) if request.param == "zsh" else bash(env, package="with" in request.param, init=False)
    yield one
    one.close()


@pytest.fixture(scope="module", params=["bash", "bash with bash-completion", "zsh"])
def extended(request, env):
    """Each shell with shell-init."""
    one = zsh(env, init=True) if request.param == "zsh" else bash(env, package="with" in request.param, init=True)
    one.name = request.param
    yield one
    one.close()
