"""The tree of commands as data: what the completion table is made of and what the man pages are compared with.

    python completions/tree.py > core/reberth/complete/table.py

Only attributes that every typer since 0.15.2 has are used.
"""

from __future__ import annotations

import sys
from pprint import pformat
from typing import Any

from reberth.cli.app import root

HEAD = '''"""Every command with its arguments and options; made by `make completions`, compared by a test. Do not edit.

Path of the command -> (help, words of the arguments, {option: (word of its value or empty, repeatable, help)}). An
argument that may be missing stands in brackets, one that takes many values ends in `...`; a group has none.

Reason for its length: it has a line for every option of every command.
"""

from __future__ import annotations

Command = tuple[str, tuple[str, ...], dict[str, tuple[str, bool, str]]]
'''


def commands(group: Any = root, path: str = "") -> dict[str, Any]:
    """Path -> (help, arguments, options) of a command and of all below it."""
    found = {path: (_first_line(group.help), _arguments(group), _options(group))}
    names = group.list_commands(None) if hasattr(group, "list_commands") else []
    for name in names:
        below = group.get_command(None, name)
        if not below.hidden:
            found.update(commands(below, f"{path} {name}".strip()))
    return found


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _arguments(command: Any) -> tuple[str, ...]:
    words = []
    for param in command.params:
        if param.param_type_name == "argument":
            word = (param.metavar or param.name).upper().strip("[]")
            word = f"{word}..." if param.nargs == -1 else word
            words.append(word if param.required else f"[{word}]")
    return tuple(words)


def _options(command: Any) -> dict[str, Any]:
    found = {}
    for param in command.params:
        if param.param_type_name == "option" and not param.hidden:
            word = "" if param.is_flag else (param.metavar or param.name).upper()
            for option in (*param.opts, *param.secondary_opts):
                found[option] = (word, bool(param.multiple), _first_line(param.help))
    return {**found, "--help": ("", False, "Show the help.")}


def text() -> str:
    """The source of the table's module."""
    lines = pformat(commands(), width=116, sort_dicts=False)
    return f"{HEAD}COMMANDS: dict[str, Command] = {lines}\n"


if __name__ == "__main__":
    sys.stdout.write(text())
