"""Which public key goes to the phone; a private one is always refused."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reberth_hooks import CommandError, Controller, UsageError

MOST_BYTES = 64 << 10
KIND = re.compile(r"(ssh|ecdsa-sha2|sk-ssh|sk-ecdsa-sha2)-[A-Za-z0-9@.-]+")
MAKE_ONE = "make one: ssh-keygen -t ed25519"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One public key; `identity` is what ssh is given to use it, empty for a key that only the agent has."""

    kind: str
    blob: str
    comment: str = ""
    identity: str = ""

    @property
    def line(self) -> str:
        """As sshd reads it (sshd(8), authorized_keys): it may log in and have a terminal, nothing else."""
        return f"restrict,pty {self.kind} {self.blob} {self.comment}".rstrip()

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen prints it."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def parse(text: str, where: str, identity: str = "") -> PublicKey:
    """Return the one public key that a text holds; UsageError says what it holds instead."""
    if "PRIVATE KEY" in text:
        raise UsageError(f"{where} is a private key, which never leaves this machine", hint="name the .pub file")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    words = lines[0].split(None, 2) if len(lines) == 1 else []
    if len(words) < 2 or not KIND.fullmatch(words[0]) or not _is_blob(words[0], words[1]):
        raise UsageError(f"{where} holds no public key of OpenSSH", hint=MAKE_ONE)
    comment = words[2].strip() if len(words) > 2 else ""
    return PublicKey(words[0], words[1], "".join(c for c in comment if c.isprintable()), identity)


def _is_blob(kind: str, word: str) -> bool:
    """Tell whether the base64 part says the same kind as the first word."""
    try:
        data = base64.b64decode(word, validate=True)
    except (binascii.Error, ValueError):
        return False
    return data[4 : 4 + int.from_bytes(data[:4])] == kind.encode()


def read(path: Path) -> PublicKey:
    """Return the key of a file that the user named."""
    try:
        text = path.read_bytes()[:MOST_BYTES].decode(errors="replace")
    except OSError as error:
        raise UsageError(f"{str(path)!a} cannot be read: {error.strerror}", hint="--key FILE.pub") from error
    return parse(text, ascii(str(path)), _identity(path))


def _identity(path: Path) -> str:
    """Return the private half beside it, or the public one, by which ssh finds the key in the agent."""
    private = path.with_suffix("") if path.suffix == ".pub" else path
    return str((private if private.is_file() else path).absolute())


def offered(controller: Controller, home: Path) -> list[PublicKey]:
    """Return the public keys of `~/.ssh` and of the agent, each once."""
    found: dict[str, PublicKey] = {}
    for path in sorted((home / ".ssh").glob("*.pub")):
        try:
            key = read(path)
        except UsageError:
            continue
        found.setdefault(key.blob, key)
    for line in _agent(controller):
        try:
            key = parse(line, "the agent")
        except UsageError:
            continue
        found.setdefault(key.blob, key)
    return list(found.values())


def _agent(controller: Controller) -> list[str]:
    """Return what the agent offers; no lines without an agent, or without the program."""
    try:
        return controller.run(["ssh-add", "-L"], check=False).out.splitlines()
    except CommandError:
        return []


def choose(
    controller: Controller, named: str, home: Path, *, yes: bool, ask: Callable[[Sequence[PublicKey]], PublicKey]
) -> PublicKey:
    """Return the named key, else the only one; among several the user is asked, and with `yes` that is an error."""
    if named:
        return read(Path(named).expanduser())
    keys = offered(controller, home)
    if not keys:
        raise UsageError(f"there is no public key in {home}/.ssh, and none in an agent", hint=MAKE_ONE)
    if len(keys) == 1:
        return keys[0]
    if yes:
        names = ", ".join(ascii(key.identity or key.comment or key.kind)[1:-1] for key in keys)
        raise UsageError(f"there are {len(keys)} public keys: {names}", hint="name one with --key FILE.pub")
    return ask(keys)
