"""The configuration: nodes and defaults out of TOML files and `REBERTH_*`.

Layers, later ones win key by key: /etc/reberth/config.toml, the user's file, the environment; options come after
(reberth.config.options.make_options). `$REBERTH_CONFIG` replaces both files.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reberth.config import options, paths
from reberth_hooks import Node, UsageError

LOCAL = "local"
# The local node has every bundled backend without configuration; what is not installed is passed over when planning.
BUNDLED_BACKENDS = ("criu", "runc", "lxd")
LISTS = ("backends", "transports", "wrappers")
_BECOME = ("none", "sudo", "su")
NODE_KEYS = ("address", "become", "connector", *LISTS)


@dataclass(frozen=True, slots=True)
class Config:
    """What is configured: `defaults` maps fields of Options to values; `files` were read, in this order."""

    nodes: Mapping[str, Node]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def node(self, name: str) -> Node:
        """Return the node of this name; UsageError names the closest ones and how to add it."""
        if name in self.nodes:
            return self.nodes[name]
        raise UsageError(
            f"there is no node {name!a}{options.near(name, self.nodes)}",
            hint=f"known nodes: {', '.join(sorted(self.nodes))}; add one with: reberth node add NAME ADDRESS",
        )


def load(environ: Mapping[str, str] | None = None) -> Config:
    """Read all layers; UsageError names the file, the key and the nearest known one."""
    env = os.environ if environ is None else environ
    tables: dict[str, dict[str, Any]] = {LOCAL: {}}
    defaults: dict[str, Any] = {}
    files = []
    for path in paths.config_files(env):
        try:
            nodes, more = parse(path.read_text("utf-8"), str(path))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error
        files.append(path)
        defaults |= more
        for name, table in nodes.items():
            tables[name] = _merge(tables.get(name, {}), table)
    defaults |= _environment(env)
    return Config({name: _node(name, table) for name, table in tables.items()}, defaults, tuple(files))


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _environment(env: Mapping[str, str]) -> dict[str, Any]:
    """Defaults out of `REBERTH_*`; other variables of that prefix are not ours to judge unless nearly one of ours."""
    names = {"REBERTH_" + word.upper(): word for word in options.WORDS}
    found: dict[str, Any] = {}
    for name in sorted(n for n in env if n.startswith("REBERTH_")):
        if name in names:
            found.update([options.read(names[name], env[name], name)])
        elif close := difflib.get_close_matches(name, names, n=1, cutoff=0.92):
            raise UsageError(f"environment: unknown variable {name} (did you mean {close[0]}?)")
    return found


def parse(text: str, where: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Node tables and defaults of one file, every key checked."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: not valid TOML: {error}") from error
    for key in data:
        if key not in ("nodes", "defaults"):
            raise UsageError(f"{where}: unknown key {key!a}{options.near(key, ('nodes', 'defaults'))}")
    defaults = dict(options.read(k, v, f"{where}: defaults") for k, v in _table(data, "defaults", where).items())
    nodes = _table(data, "nodes", where)
    for name in nodes:
        _check_node(name, _table(nodes, name, f"{where}: nodes"), f"{where}: nodes.{name}")
    return nodes, defaults


def _table(data: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    table = data.get(key, {})
    if not isinstance(table, dict):
        raise UsageError(f"{where}: {key} must be a table, not {table!a}")
    return table


def _check_node(name: str, table: Mapping[str, Any], where: str) -> None:
    from reberth.config.names import check_name

    check_name(name, "node name")
    for key, value in table.items():
        if key in LISTS:
            if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
                raise UsageError(f"{where}: {key} must be a list of plugin names, not {value!a}")
        elif key in NODE_KEYS:
            if not isinstance(value, str) or (key == "become" and value not in _BECOME):
                raise UsageError(
                    f"{where}: {key} must be {'none, sudo or su' if key == 'become' else 'text'}: {value!a}"
                )
        elif not isinstance(value, dict) or not _is_plugin(key, table):
            raise UsageError(f"{where}: unknown key {key!a}{options.near(key, (*NODE_KEYS, *_plugins()))}")


def _is_plugin(key: str, table: Mapping[str, Any]) -> bool:
    enabled = {table.get("connector"), *(word for part in LISTS for word in table.get(part, ()))}
    return key in enabled or key in _plugins()


def _plugins() -> list[str]:
    from reberth.plugin.catalog import Catalog  # a walk over what is installed: only when a table needs it

    return Catalog().names()


def _node(name: str, table: Mapping[str, Any]) -> Node:
    own = {"connector": "local", "backends": BUNDLED_BACKENDS} if name == LOCAL else {"connector": "ssh"}
    values: dict[str, Any] = {"transports": ("ssh",), **own, **{k: v for k, v in table.items() if k in NODE_KEYS}}
    values |= {part: tuple(dict.fromkeys(values.get(part, ()))) for part in LISTS}
    return Node(name=name, **values, options={k: v for k, v in table.items() if k not in NODE_KEYS})
