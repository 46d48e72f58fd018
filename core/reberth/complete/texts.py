"""What `reberth completion` and `reberth shell-init` print: files of this package, for the shell to read."""

from __future__ import annotations

from pathlib import Path

SCRIPTS = {"bash": "reberth.bash", "zsh": "_reberth", "fish": "reberth.fish"}
HERE = Path(__file__).with_name("scripts")


def completion(shell: str) -> str:
    """Return the completion of reberth itself."""
    return (HERE / SCRIPTS[shell]).read_text("utf-8")


def shell_init(shell: str) -> str:
    """Return the same, with the functions `runc` and `crun` and their completion."""
    first = completion(shell)
    if shell == "zsh":  # evaluated, not autoloaded: without compinit there is nothing to register with
        body = first.partition("\n# Autoloaded")[0]
        first = f"{body}\n(( $+functions[compdef] )) && compdef _reberth reberth\n"
    return first + (HERE / f"init.{shell}").read_text("utf-8")
