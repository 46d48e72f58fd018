"""Builds the man pages: python3 packaging/man.py DIRECTORY [PAGE...]

The pages in docs/man are reStructuredText. What the code or another document lists is not written again there but
taken from it, by lines of their own:

    .. commands::                  every command with its help
    .. options:: move              usage and options of a command, out of the table of commands
    .. rows:: exit-codes.md code   a table of docs/exit-codes.md whose head begins with `code`, as a list
    .. headings:: hooks.md         each `#### \\`...\\`` heading of a page with the paragraph below it

Needs docutils; of reberth only the table, which is standard library only.
"""

from __future__ import annotations

import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "core"))

from reberth.complete.table import COMMANDS  # noqa: E402

PAGES = ROOT / "docs/man"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def pages() -> list[Path]:
    """The sources: `reberth-move.1.rst` becomes `reberth-move.1`."""
    return sorted(PAGES.glob("*.rst"))


def source(path: Path) -> str:
    """A page's whole text, every list filled in."""
    makers = {"commands": _commands, "options": _options, "rows": _rows, "headings": _headings}
    lines: list[str] = []
    for line in path.read_text("utf-8").splitlines():
        asked = re.fullmatch(r"\.\. (commands|options|rows|headings)::\s*(.*)", line)
        lines += list(makers[asked[1]](asked[2])) if asked else [line.replace("|version|", VERSION)]
    return "\n".join(lines) + "\n"


def documented(path: Path) -> list[str]:
    """The commands whose options a page describes."""
    return re.findall(r"^\.\. options:: *(.*)$", path.read_text("utf-8"), re.M)


def _entry(term: str, text: str) -> Iterator[str]:
    yield term
    yield from textwrap.wrap(text or "-", 110, initial_indent="   ", subsequent_indent="   ", break_on_hyphens=False)
    yield ""


def _commands(_: str) -> Iterator[str]:
    for path, (help_text, arguments, _options) in COMMANDS.items():
        group = any(other.startswith(f"{path} ") for other in COMMANDS)
        if path and not group:
            yield from _entry(f"**reberth {path}** {_words(arguments)}", _inline(help_text))


def _words(arguments: tuple[str, ...]) -> str:
    """`NODE [NODE]` with the words as the parts that the user replaces."""
    return " ".join(re.sub(r"([A-Z]+)(\.*)", r"*\1*\2", word) for word in arguments)


def _options(path: str) -> Iterator[str]:
    path = path.strip()
    help_text, arguments, options = COMMANDS[path]
    name = f"reberth {path}".strip()
    if path:
        yield from (f"**{name}** [*OPTION*]... {_words(arguments)}".rstrip(), "", _inline(help_text), "")
    same: dict[tuple[str, str], list[str]] = {}
    for option, (value, _, text) in options.items():
        same.setdefault((value, text), []).append(option)
    for (value, text), names in same.items():
        term = ", ".join(f"**{option}**" for option in names)
        yield from _entry(f"{term} *{value}*" if value else term, _inline(text))


def _inline(text: str) -> str:
    """Markdown inside a line as reStructuredText."""
    text = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text)
    text = re.sub(r"`([^`]+)`(\w?)", lambda found: f"``{found[1]}``" + (f"\\ {found[2]}" if found[2] else ""), text)
    return re.sub(r"(?<![`*\w])\|", r"\\|", text)


def _rows(words: str) -> Iterator[str]:
    page, head = words.split()
    inside = False
    for line in (ROOT / "docs" / page).read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            inside = False
        elif cells[0] == head:
            inside, names = True, cells
        elif inside and not cells[0].startswith("---"):
            terms = 2 if names[1] == "key" else 1  # a plugin's key belongs to its plugin
            said = [_inline(cell) for cell in cells[terms:]]
            yield from _entry(" ".join(map(_inline, cells[:terms])), "; ".join(said))


def _headings(page: str) -> Iterator[str]:
    text = (ROOT / "docs" / page.strip()).read_text("utf-8")
    for heading, body in re.findall(r"^#### `([^\n]+)`\n(.+?)(?:\n\n|\Z)", text, re.M | re.S):
        yield from _entry(f"``{heading}``", _inline(" ".join(body.split())))


def build(into: Path, names: list[str]) -> list[Path]:
    """Write the pages, all or those named; a fault in one ends the build."""
    from docutils.core import publish_string
    from docutils.writers import manpage

    into.mkdir(parents=True, exist_ok=True)
    settings = {"halt_level": 2, "report_level": 2, "datestamp": None, "generator": None}
    made = []
    for path in pages():
        if not names or path.stem in names:
            out = publish_string(source(path), str(path), writer=manpage.Writer(), settings_overrides=settings)
            (into / path.stem).write_bytes(out)
            made.append(into / path.stem)
    return made


if __name__ == "__main__":
    build(Path(sys.argv[1]), sys.argv[2:])
