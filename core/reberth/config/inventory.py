"""Nodes written back into the user's own configuration file, its comments kept."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reberth.config import options, paths
from reberth.config.config import LISTS, NODE_KEYS, Config, parse
from reberth_hooks import Node, UsageError


def add_node(node: Node, environ: Mapping[str, str] | None = None) -> Path:
    """Write a node into the user's own file, over one of the same name there; returns the file."""

    def edit(nodes: Any) -> None:
        table = nodes.setdefault(node.name, {})
        for key in NODE_KEYS:
            value = getattr(node, key)
            table[key] = list(value) if key in LISTS else value
        for plugin, values in node.options.items():
            table[plugin] = dict(values)

    return _rewrite(edit, environ)


def remove_node(name: str, environ: Mapping[str, str] | None = None) -> Path:
    """Take a node out of the user's own file; UsageError when it is not written there."""

    def edit(nodes: Any) -> None:
        if name not in nodes:
            raise UsageError(f"{paths.own_config_file(environ)} has no node {name!a}{options.near(name, nodes)}")
        del nodes[name]

    return _rewrite(edit, environ)


def set_enabled(
    config: Config, name: str, kind: str, plugin: str, enabled: bool, environ: Mapping[str, str] | None = None
) -> Path:
    """Enable or disable a plugin on a node; `kind` is backends, transports or wrappers. Idempotent."""
    have: tuple[str, ...] = getattr(config.node(name), kind)
    want = [word for word in have if word != plugin] + [plugin] * enabled

    def edit(nodes: Any) -> None:
        nodes.setdefault(name, {})[kind] = list(have) if enabled and plugin in have else want

    return _rewrite(edit, environ)


def _rewrite(edit: Callable[[Any], None], environ: Mapping[str, str] | None) -> Path:
    """Change the nodes of the user's own file in one atomic step; what would not load is never written."""
    import tomlkit

    path = paths.own_config_file(environ).resolve()
    document = tomlkit.parse(path.read_text("utf-8") if path.exists() else "")
    edit(document.setdefault("nodes", tomlkit.table(is_super_table=True)))
    text = tomlkit.dumps(document)
    parse(text, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".config-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            os.fchmod(stream.fileno(), 0o644)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
