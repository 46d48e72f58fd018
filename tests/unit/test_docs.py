"""The documents say what the code has: lists are compared, links and paths exist, no text names a machine of ours."""

from __future__ import annotations

import configparser
import dataclasses
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reberth.cli.app import COMMANDS, OF_PLUGINS
from reberth.config import options
from reberth.node.operations import table as ops
from reberth.node.runs.source import Source
from reberth.node.runs.target import Target
from reberth_hooks import Node, Options, specs

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def signature(name: str, function: Callable[..., Any], *hidden: str) -> str:
    """Name and arguments with their defaults, without annotations: `read(path, limit_bytes=8388608)`."""
    words = []
    for word, parameter in inspect.signature(function).parameters.items():
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        words += [] if word in hidden else [stars + word + default]
    return f"{name}({', '.join(words)})"


def differences(page: str, code: list[str]) -> dict[str, list[str]]:
    """What the page's headings lack and what they have too much; both empty when it says what the code has."""
    said = re.findall(r"^#### `(.+)`$", read(page), re.M)
    return {"missing": sorted(set(code) - set(said)), "stale": sorted(set(said) - set(code))}


NONE: dict[str, list[str]] = {"missing": [], "stale": []}


def test_every_operation_of_the_helper_is_documented():
    found = []
    for name, function in ops.OPS.items():
        ends = [end for end in (Source, Target) if name in vars(end)]
        if function.__name__ == "<lambda>":  # passes everything on to a method of one end
            assert len(ends) == 1, name
            found.append(signature(name, getattr(ends[0], name), "self"))
            continue
        if function.__module__ == ops.__name__ and function.__closure__:  # loads the module of the function first
            module = importlib.import_module("reberth.node.net.tls")
            function = getattr(module, inspect.getclosurevars(function).nonlocals["name"])
        found.append(signature(name, function, "daemon", "progress"))
    assert differences("docs/helper.md", found) == NONE


def test_every_undo_is_documented():
    from reberth.node.runs.run import OCCASIONS, UNDO

    text = read("docs/helper.md").partition("#### `undo(")[2].partition("####")[0]
    assert set(re.findall(r"`(\w+)`", text)) == {*UNDO, *OCCASIONS, "on", "do"}


def test_every_hook_is_documented():
    hooks = {n: f for n, f in inspect.getmembers(specs, inspect.isfunction) if n.startswith("reberth_")}
    assert differences("docs/hooks.md", [signature(name, hook) for name, hook in hooks.items()]) == NONE


def test_what_a_role_must_have_is_documented():
    from reberth.plugin.catalog import _NEEDED

    table = {row[0]: row[1] for row in rows("docs/hooks.md", "role")}
    for role, needed in _NEEDED.items():
        assert set(re.findall(r"`(\w+)`", table[role])) == set(needed)


def rows(name: str, first: str) -> list[list[str]]:
    """The cells of the tables whose head begins with this word, backticks around a whole first cell removed."""
    found, inside = [], False
    for line in read(name).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            inside = False
        elif cells[0] == first:
            inside = True
        elif inside and not cells[0].startswith("---"):
            found.append([cells[0].strip("`"), *cells[1:]])
    return found


def test_every_key_of_the_configuration_is_documented():
    keys = {row[0] for row in rows("docs/configuration.md", "key")}
    assert keys == {*(field.name for field in dataclasses.fields(Node)), *options.WORDS} - {"name", "options"}
    documented = {(row[0], row[1].strip("`")) for row in rows("docs/configuration.md", "plugin")}
    declared = {
        (name, key)
        for name, module in PROJECT["entry-points"]["reberth"].items()
        for key in pkgutil.resolve_name(module).reberth_describe().options
    }
    assert documented == declared


def test_documented_defaults_are_those_of_the_code():
    for key, default, _ in rows("docs/configuration.md", "key"):
        if key not in options.WORDS:
            continue
        field, reader = options.WORDS[key]
        words = re.findall(r"`([^`]+)`", default)
        assert (reader(words[0]) if words else ()) == getattr(Options(), field), key


def test_each_word_of_move_is_looked_at():
    """An option that is only read and checked would be a promise without an effect."""
    hidden = {ROOT / "core/reberth/config/options.py", ROOT / "hooks/reberth_hooks/types.py"}
    sources = [p for f in ("core", "plugins", "hooks") for p in (ROOT / f).rglob("*.py") if p not in hidden]
    text = "\n".join(p.read_text("utf-8") for p in sources if p.parent != ROOT / "core/reberth/cli")
    names = {field.name for field in dataclasses.fields(Options)}
    for key, *_ in rows("docs/configuration.md", "key"):
        if key in options.WORDS:
            field = options.WORDS[key][0]
            assert field in names
            assert re.search(rf"\boptions\.{field}\b", text), key


def test_every_variable_of_the_environment_is_documented():
    sources = [p for folder in ("core", "plugins", "hooks") for p in (ROOT / folder).rglob("*.py")]
    found = {word for p in sources for word in re.findall(r"\bREBERTH_[A-Z_]*[A-Z]\b", p.read_text("utf-8"))}
    documented = {row[0] for row in rows("docs/configuration.md", "variable")}
    assert documented == found - {"REBERTH_" + word.upper() for word in options.WORDS}


def test_the_readme_names_the_floors_of_the_code():
    table = {row[0]: " ".join(row[1:]) for row in rows("README.md", "")}
    criu, oci = importlib.import_module("reberth_criu.survey"), importlib.import_module("reberth_hooks.criu.oci")
    tasks = importlib.import_module("reberth_hooks.criu.preflight")
    assert f"{dotted(criu.LEAST)} to" in table["criu"] and f"below {dotted(tasks.LEAST_SOCKETS)}" in table["criu"]
    assert criu.LEAST == oci.LEAST_CRIU
    assert f"kernel {dotted(tasks.KERNEL_SOCKETS)}" in table["criu"]
    assert f"{dotted(oci.OciBackend.least)} and later" in table["runc"]
    assert PROJECT["requires-python"] == ">=3.11" and "Python 3.11 and later" in table["controller"]


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text("utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    paths = re.findall(r"`((?:core|hooks|plugins|tests|docs|scripts)/[\w./-]+)`", text)
    assert [path for path in paths if not (ROOT / path).exists() and not re.search("NAME|ID", path)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_shown_exist(page):
    """tests/live/test_readme.py runs them; this looks at their first words, everywhere."""
    for block in re.findall(r"^```console\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
        assert [line for line in block.splitlines() if not line.startswith("$ ")] == []
    shown = re.findall(r"(?:^\$ |`)(?:sudo )?(?:\.venv/bin/)?reberth ([a-z][a-z-]*)", page.read_text("utf-8"), re.M)
    assert [word for word in shown if word not in {**COMMANDS, **OF_PLUGINS}] == []


def test_the_picture_of_the_architecture_shows_what_is_there():
    picture = read("docs/architecture.md").partition("```text")[2].partition("```")[0]
    words = set(re.findall(r"[a-z]+(?:[_-][a-z]+)*", picture))
    assert set(PROJECT["entry-points"]["reberth"]) <= words
    modules = re.findall(r"│ ([a-z]+(?:, [a-z]+)*)  ", picture.replace("│   │", "│"))
    here = {path.stem for path in ROOT.glob("core/reberth/**/*")} | {path.stem for path in ROOT.glob("hooks/*/*.py")}
    here |= {"backends", "transport", "connectors", "wrapper", *PROJECT["entry-points"]["reberth"]}
    assert {word for names in modules for word in names.split(", ")} <= here


def test_decisions_are_numbered_and_short():
    pages = sorted((ROOT / "docs/decisions").iterdir())
    assert [page.name[:4] for page in pages] == [f"{number:03}-" for number in range(1, len(pages) + 1)]
    for page in pages:
        lines = page.read_text("utf-8").splitlines()
        assert lines[0].startswith(f"# {page.name[:3]}: ")
        assert len(lines) <= 40, page.name
        assert [line for line in lines if line.startswith("## ")] == ["## Context", "## Choice", "## Price"]


def tracked() -> list[Path]:
    """What is or would be in the repository; without git everything but the usual litter."""
    argv = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, check=True, timeout=60)
        names = [name for name in done.stdout.decode().split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if not LITTER & set(p.relative_to(ROOT).parts)]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


LITTER = {".git", ".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}


def of_this_machine() -> Iterator[str]:
    """Words that no committed text may hold: where this checkout, this Python and this machine's packages are from."""
    if len(ROOT.parts) > 2:
        yield str(ROOT)
    if str(ROOT.parent) not in ("/", "/tmp", "/var/tmp", "/root", "/home", "/srv", "/opt", "/mnt"):
        yield f"{ROOT.parent}/"
    for prefix in (sys.base_prefix, os.path.realpath(sys.executable)):
        yield from () if prefix.startswith("/usr") else (prefix,)
    yield from hosts(
        "\n".join(text_of(p) for p in Path("/etc/apt").glob("**/*.*") if p.suffix in (".list", ".sources"))
    )
    places = ("/etc/pip.conf", "~/.config/pip/pip.conf", "~/.pip/pip.conf")
    settings = "\n".join(text_of(Path(place).expanduser()) for place in places)
    settings += "\n".join(value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_")))
    yield from hosts(settings)
    yield from local_folders(settings)
    yield from ("pypi." + "org", "pythonhosted." + "org")


def text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def hosts(text: str) -> Iterator[str]:
    """Host names with a dot in them; the machine itself is no secret."""
    for host in re.findall(r"[a-z+]+://(?:[^/@\s]*@)?([A-Za-z0-9.-]+)", text):
        if "." in host and not host.startswith("127."):
            yield host


def local_folders(text: str) -> Iterator[str]:
    for path in re.findall(r"(?:file://|[=\s])(/[\w./-]+)", text):
        if not path.startswith(("/etc/", "/usr/", "/tmp/")):
            yield path


def test_the_search_for_hosts_and_folders_finds_them():
    parser = configparser.ConfigParser()
    parser["global"] = {"index-url": "https://me:secret@pip.example.net/simple", "find-links": "/srv/wheels"}
    text = "\n".join(f"{key} = {value}" for key, value in parser["global"].items())
    assert list(hosts(text)) == ["pip.example.net"]
    assert list(local_folders(text)) == ["/srv/wheels"]


def test_no_text_names_a_machine_of_ours():
    words = sorted({word for word in of_this_machine() if len(word) > 4})
    assert len(words) >= 2
    found = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", "replace")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in words if word in text]
    assert found == []


def test_every_line_of_the_security_list_has_its_tests():
    lines = {row[0] for row in rows("docs/security.md", "line")}
    assert lines == {f"S{number}" for number in range(1, 16)}
    found = {path.name[5:8].upper() for path in (ROOT / "tests/unit/security").glob("test_s*.py")}
    assert found == {f"S{int(line[1:]):02}" for line in lines}
