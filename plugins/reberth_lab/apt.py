"""Which Debian mirror and which keyring this machine uses, read from its own apt sources."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reberth_lab.proc import LabError

DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEBIAN_SUITES = frozenset(
    ("bullseye", "bookworm", "trixie", "forky", "duke", "sid", "oldoldstable", "oldstable", "stable", "testing")
)
MIRROR_HINT = "set REBERTH_LAB_MIRROR to the address of a Debian mirror (http://.../debian)"


@dataclass(frozen=True)
class Mirror:
    """A Debian archive and the keyring (a file of this machine) that vouches for it."""

    uri: str
    keyring: Path


@dataclass(frozen=True)
class Entry:
    """One source as apt knows it, of either file format."""

    types: tuple[str, ...]
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str


def find_mirror(apt_dir: Path = Path("/etc/apt")) -> Mirror:
    """`REBERTH_LAB_MIRROR` if set, else the first Debian archive in the apt sources; raises LabError without one."""
    chosen = os.environ.get("REBERTH_LAB_MIRROR")
    if chosen:
        return Mirror(chosen.rstrip("/"), _keyring(""))
    for entry in entries(apt_dir):
        if "deb" in entry.types and "main" in entry.components and DEBIAN_SUITES.intersection(entry.suites):
            for uri in _addresses(entry.uris):
                return Mirror(uri.rstrip("/"), _keyring(entry.signed_by))
    raise LabError("the apt sources of this machine name no Debian mirror", MIRROR_HINT)


def entries(apt_dir: Path) -> Iterator[Entry]:
    """Yield all enabled sources below `apt_dir`."""
    files = [apt_dir / "sources.list", *sorted((apt_dir / "sources.list.d").glob("*"))]
    for path in files:
        if not path.is_file() or path.suffix not in (".list", ".sources"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        yield from parse_deb822(text) if path.suffix == ".sources" else parse_one_line(text)


def parse_one_line(text: str) -> Iterator[Entry]:
    """`deb [signed-by=...] URI SUITE COMPONENT...`, one per line (sources.list(5))."""
    for line in text.splitlines():
        match = re.fullmatch(r"(deb|deb-src)\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s*(.*)", line.partition("#")[0].strip())
        if match:
            kind, options, uri, suite, components = match.groups()
            signed = re.search(r"signed-by=(\S+)", options or "", re.IGNORECASE)
            yield Entry((kind,), (uri,), (suite,), tuple(components.split()), signed[1] if signed else "")


def parse_deb822(text: str) -> Iterator[Entry]:
    """Stanzas of `Field: value` lines with continuation lines (sources.list(5), deb822 style)."""
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        last = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace():
                fields[last] = fields.get(last, "") + "\n" + line.strip()
            elif ":" in line:
                last, _, value = line.partition(":")
                last = last.strip().lower()
                fields[last] = value.strip()
        if fields.get("enabled", "yes").lower() not in ("no", "false", "0") and "uris" in fields:
            yield Entry(
                tuple(fields.get("types", "").split()),
                tuple(fields["uris"].split()),
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", ""),
            )


def _addresses(uris: tuple[str, ...]) -> Iterator[str]:
    """Yield the http(s) addresses among `uris`; cloud images point to a file that lists them (mirror+file:)."""
    for uri in uris:
        if uri.startswith(("http://", "https://")):
            yield uri
        elif uri.startswith("mirror+file:"):
            listed = Path("/" + uri.removeprefix("mirror+file:").lstrip("/"))
            if listed.is_file():
                words = [line.split()[0] for line in listed.read_text(encoding="utf-8").splitlines() if line.split()]
                yield from (word for word in words if word.startswith(("http://", "https://")))


def _keyring(signed_by: str) -> Path:
    """Return the keyring of a source, or Debian's own where the source names none or holds the key itself."""
    named = Path(signed_by.split()[0]) if signed_by.startswith("/") else DEBIAN_KEYRING
    if not named.is_file():
        raise LabError(f"{named} is missing", "install it: apt-get install debian-archive-keyring")
    return named
