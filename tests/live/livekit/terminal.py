"""A shell behind a pseudo-terminal, for what the tab key does to its command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pexpect


class Shell:
    """One interactive shell; ^G makes it print its command line between marks, so that nothing waits for a time."""

    def __init__(self, argv: Sequence[str], env: dict[str, str], start: str) -> None:
        self.child = pexpect.spawn(argv[0], list(argv[1:]), env=env, encoding="utf-8", dimensions=(40, 160), timeout=30)
        self.child.delaybeforesend = None
        self.child.sendline(start + "; printf 'rea''dy\\n'")
        self.child.expect("ready\r?\n")

    def press(self, typed: str, tabs: int = 1) -> tuple[str, str]:
        """The command line after typing this and the tab key, and what the shell printed meanwhile."""
        self.child.send("\x15" + typed + "\t" * tabs + "\x07")
        self.child.expect(r"<<(.*?)>>")
        printed = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.child.before)
        return self.child.match[1], printed

    def line(self, typed: str, tabs: int = 1) -> str:
        """The command line after typing this and the tab key."""
        return self.press(typed, tabs)[0]

    def run(self, command: str) -> str:
        """What a command prints."""
        self.child.send("\x15")
        self.child.sendline(f"{command}; printf 'do''ne\\n'")
        self.child.expect("done\r?\n")
        return self.child.before

    def close(self) -> None:
        """End the shell."""
        self.child.close(force=True)
