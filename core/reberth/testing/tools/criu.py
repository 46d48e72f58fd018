"""A fake `criu`: `dump`, `restore`, `check` and `--version`, with the options that decide who lives and who is held."""

from __future__ import annotations

from reberth.testing.machine import Machine, ToolError, option, script_of


def main(machine: Machine, words: list[str]) -> None:
    """Do one command."""
    command = next((w for w in words if not w.startswith("-")), "")
    if "--version" in words:
        machine.say("Version: 4.2")
    elif command == "dump":
        machine.dump(int(option(words, "--tree")), option(words, "--images-dir"), script_of(words))
    elif command == "restore":
        machine.restore(option(words, "--images-dir"), script_of(words), machine.cgroup_of_tool())
    elif command != "check":
        raise ToolError(f"Error: this fake criu has no {command!r}")
