"""The host key that a node shows, fetched by ssh itself with the words of the connection: one look without a login.

So jump hosts, aliases and `Match` are what they are later. Its known-hosts file is a temporary one, and the user's own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reberth.connect.failures import Heard, by_jump_host, untrusted
from reberth.connect.process import run_local
from reberth_hooks import CommandError, Node, Route, UnreachableError, UntrustedError, UsageError

CONNECT_S = 40.0
# Of an option only the first value counts, so these go before the words of the connection. DEBUG1 tells which line of
# which file has the key; as an option it stays with this ssh, where -v would go on to that of a jump host.
LOOK = (
    *("-o", "StrictHostKeyChecking=accept-new", "-o", "PreferredAuthentications=none", "-o", "LogLevel=DEBUG1"),
    *("-o", "HashKnownHosts=no", "-o", "UpdateHostKeys=no", "-o", "CheckHostIP=no", "-o", "VerifyHostKeyDNS=no"),
)
ALONE = ("-o", "GlobalKnownHostsFile=none", "-o", "KnownHostsCommand=none")
KINDS = (
    ("ssh-ed25519", "ssh-ed25519"),
    ("ecdsa-", "ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521"),
    ("ssh-rsa", "rsa-sha2-512,rsa-sha2-256"),
)
Settings = dict[str, str]


@dataclass(frozen=True, slots=True)
class HostKey:
    """One line of a known_hosts file, its kind and fingerprint as ssh-keygen prints them, and who vouches for it.

    `known` is where the user's own ssh has it already; the line of an authority stands for the keys that it signs.
    """

    line: str
    kind: str
    fingerprint: str
    known: str = ""


def parse(line: str) -> HostKey | None:
    """Return a line of a known_hosts file; None for anything else."""
    words = line.split()
    marker = words[:1] if line.startswith("@") else []
    kind_and_key = words[len(marker) + 1 :][:2]
    if len(kind_and_key) < 2 or line.startswith("#"):
        return None
    try:
        digest = hashlib.sha256(base64.b64decode(kind_and_key[1], validate=True)).digest()
    except binascii.Error:
        return None
    fingerprint = "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
    return HostKey(" ".join(words[: len(marker) + 3]), kind_and_key[0], fingerprint)


def fetch(node: Node, route: Route, fingerprint: str = "") -> HostKey:
    """Return the key to pin: the one that the node shows, or that of this fingerprint where it has several.

    Raises UsageError for an address that ssh takes otherwise, UnreachableError when no key comes, and UntrustedError
    for another key than the user's ssh knows, or than was asked for.
    """
    if Path(route.control[0] if route.control else "").name != "ssh":
        text = f"connector {node.connector} of node {node.name} does not use ssh, so it has no host key"
        raise UsageError(text, hint=f"to see what it has: reberth node show {node.name}")
    settings = _settings(route)
    _check_address(node, settings)
    first = _first(node, route, settings, fingerprint)
    if not fingerprint or first.fingerprint == fingerprint:
        return first
    shown = [first]
    for key in _others(node, route, first.kind):
        if key.fingerprint == fingerprint:
            return key
        shown.append(key)
    raise wrong(shown, fingerprint)


def wrong(shown: Iterable[HostKey], fingerprint: str) -> UntrustedError:
    """Return the error when a node has not the key that was asked for."""
    tail = "\n".join(f"{key.fingerprint} {key.kind}" for key in shown)
    hint = "somebody may be between you and the node, or it was installed anew: ask its administrator"
    return UntrustedError(
        f"no host key of the node has the fingerprint {fingerprint!a}; it shows:", hint=hint, tail=tail
    )


def pinned(node: Node, route: Route) -> list[HostKey]:
    """Return the keys that the node's own known-hosts file has for it; `route` is the way there as it is configured."""
    path = Path(str(node.options_of(node.connector).get("known_hosts") or ""))
    if not path.is_file():
        return []
    found = _settings(route)
    host, port = found.get("hostname", node.address), found.get("port", "22")
    names = {found.get("hostkeyalias", host), host, f"[{host}]:{port}"}
    lines = (run_local(["ssh-keygen", "-F", name, "-f", str(path)]).out for name in sorted(names))
    keys = [parse(line) for text in lines for line in text.splitlines()]
    return list(dict.fromkeys(key for key in keys if key is not None))


def _settings(route: Route) -> Settings:
    """Return what ssh_config says for these words (`ssh -G`)."""
    done = run_local([route.control[0], "-G", *route.control[1:]], env=dict(route.env) or None)
    if done.code != 0:
        tail = done.err.strip()
        raise UsageError("ssh does not take its configuration, or these words", hint="see the lines above", tail=tail)
    return dict(line.split(" ", 1) for line in done.out.splitlines() if " " in line)


def _check_address(node: Node, settings: Settings) -> None:
    """UsageError for brackets or a port in the address, unless ssh_config has a Host of that very name."""
    user, at, host = (node.address or node.name).rpartition("@")
    found = re.fullmatch(r"\[([^\[\]]+)\](?::([0-9]+))?", host) or re.fullmatch(r"([^:/]+):([0-9]+)", host)
    if found is None or settings.get("hostname", host).lower() != host.lower():
        return
    better = f"reberth node add {node.name} {user}{at}{found[1]} --port {found[2] or 22}"
    raise UsageError(f"ssh takes {host!a} for the name of a host", hint=f"without brackets; --port 22: {better}")


@dataclass(frozen=True, slots=True)
class Look:
    """What a connection without a login has told: a key that ssh did not know, the log of this ssh, and other words.

    Those of a jump host's ssh are among the others, so that its keys are never taken for the node's.
    """

    key: HostKey | None
    log: str
    others: str

    @property
    def told(self) -> str:
        """Return all of it without debug lines."""
        lines = [line for line in f"{self.others}\n{self.log}".splitlines() if not re.match(r"debug\d|OpenSSH_", line)]
        return "\n".join(lines).strip()


def _first(node: Node, route: Route, settings: Settings, fingerprint: str) -> HostKey:
    """Return the key that this connection shows; where the user's ssh knows it, that line, and who vouches for it."""
    files = [name for name in settings.get("userknownhostsfile", "").split() if name != "none"]
    look = _look(route, files, [])
    if look.key is not None:
        return look.key
    if "Host key verification failed" in look.told and by_jump_host(look.told):
        raise untrusted(node, Heard(None, look.told))
    known = _known(look.log)
    if known is not None:
        return known
    vouched = _vouched(node, look, fingerprint)
    if vouched is None:
        hint = route.hint or "is sshd running there, and are address and port right?"
        raise UnreachableError(f"{node.name} shows no ssh host key", hint=hint, tail=look.told)
    again = _look(route, [], ALONE)
    if again.key is None:
        raise UnreachableError(f"{node.name} shows no ssh host key", hint=route.hint, tail=again.told)
    return HostKey(again.key.line, again.key.kind, again.key.fingerprint, vouched)


def _vouched(node: Node, look: Look, fingerprint: str) -> str | None:
    """Return who speaks for a key that has to be looked at once more: a command, or the fingerprint that was typed
    (empty).

    None where no key came at all. Raises UntrustedError for a revoked key, and for another one than ssh knows.
    """
    if "REVOKED" in look.log:
        text = f"the host key of {node.name} is revoked in your known_hosts"
        raise UntrustedError(text, hint="ask its administrator", tail=look.told)
    if re.search(r"IDENTIFICATION HAS CHANGED|Host key verification failed", look.log):
        if fingerprint:
            return ""
        hint = "ask its administrator; if it was installed anew: ssh-keygen -R HOST, or --fingerprint SHA256:..."
        raise UntrustedError(f"{node.name} shows another host key than your ssh knows", hint=hint, tail=look.told)
    return "its KnownHostsCommand" if re.search(r"Host '.*' is known and matches", look.log) else None


def _others(node: Node, route: Route, kind: str) -> Iterator[HostKey]:
    """Yield the node's keys of other kinds, each by a look of its own.

    Asked for only where a fingerprint is missing.
    """
    for name, algorithms in KINDS:
        if not kind.startswith(name):
            key = _look(route, [], [*ALONE, "-o", f"HostKeyAlgorithms={algorithms}"]).key
            if key is not None:
                yield key


def _look(route: Route, files: Sequence[str], more: Sequence[str]) -> Look:
    """Connect without a login; a key that is in none of `files` (nor the global ones) is answered."""
    with tempfile.TemporaryDirectory(prefix="reberth-") as place:
        new, log = Path(place) / "known_hosts", Path(place) / "log"
        named = " ".join(f'"{name}"' for name in (str(new), *files))
        words = ["-E", str(log), *LOOK, *more, "-o", f"UserKnownHostsFile={named}", *route.control[1:], "true"]
        try:
            done = run_local([route.control[0], *words], timeout_s=CONNECT_S, env=dict(route.env) or None)
        except CommandError as error:
            raise UnreachableError(error.message, hint=route.hint) from error
        texts = [path.read_text(encoding="utf-8", errors="replace") if path.exists() else "" for path in (new, log)]
    keys = [key for key in map(parse, texts[0].splitlines()) if key is not None]
    return Look(keys[0] if keys else None, texts[1], done.err)


def _known(log: str) -> HostKey | None:
    """Return the line of the user's files that ssh has found the key in, as one for the node's own file."""
    found = re.search(r"Found (key|CA key) in (.+):([0-9]+)\s*$", log, re.M)
    if not found or "Host key verification failed" in log:
        return None
    what, path, number = found.groups()
    try:
        line = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()[int(number) - 1]
    except (OSError, IndexError):
        return None
    key = parse(line)
    if key is None:
        return None
    blob = key.line.split()[-1]
    if what == "key":
        return HostKey(f"* {key.kind} {blob}", key.kind, key.fingerprint, f"{path}:{number}")
    shown = re.search(r"Server host certificate: (\S+) (SHA256:\S+?),", log)
    kind, fingerprint = shown.groups() if shown else (key.kind, key.fingerprint)
    return HostKey(f"@cert-authority * {key.kind} {blob}", kind, fingerprint, f"the authority in {path}:{number}")
