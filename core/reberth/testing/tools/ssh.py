"""A fake `ssh` for the controller: reads its options as OpenSSH does, and runs the command here as sshd would.

sshd hands all words after the host, joined by spaces, to the login shell: so quoting is the connector's business, and
a host that looks like an option is one unless `--` stands before it.
"""

from __future__ import annotations

import os
import sys

from reberth.testing.machine import Machine, ToolError

TAKES_VALUE = "BbcDEeFIiJLlmOopQRSWw"  # ssh(1), OpenSSH 10


def main(machine: Machine, words: list[str]) -> None:
    """Find the host, then become the command."""
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "--":
        word = rest.pop(0)
        if word[1] in TAKES_VALUE and len(word) == 2:
            rest.pop(0)
        elif word.startswith("-oProxyCommand="):
            os.system(word.partition("=")[2])  # what a hostile name wants: the test looks for its trace
    if rest[:1] == ["--"]:
        rest.pop(0)
    if not rest:
        raise ToolError("usage: ssh [options] destination [command]")
    sys.stdout.flush()
    os.execv("/bin/sh", ["sh", "-c", " ".join(rest[1:])])
