"""The words of the command line: `[NODE:][BACKEND/]NAME`, read strictly; names are data and never more than that."""

from __future__ import annotations

from reberth.config.config import LOCAL, Config
from reberth.text import is_name as is_name  # the rule itself is standard library only, for completion
from reberth_hooks import UsageError, Workload

_RULE = "1 to 63 of the letters A-Z a-z, digits and . _ -, the first one a letter or digit"


def check_name(text: str, what: str) -> str:
    """Return the text, if it is a name; UsageError shows it escaped, and the rule."""
    if not is_name(text):
        raise UsageError(f"{text!a} is no {what}", hint=f"a {what} is {_RULE}")
    return text


def parse_source(text: str, config: Config) -> Workload:
    """Read `[NODE:][BACKEND/]NAME`; without a node the local one, without a backend an empty one.

    UsageError: a malformed word, or an unknown node (with the close names, or `BACKEND/NAME` where that is meant).
    """
    node, rest = _split_node(text)
    backend, slash, name = rest.rpartition("/")
    if slash:
        check_name(backend, "backend name")
    if not name:
        raise UsageError(f"{text!a} names no workload", hint=f"write {node or LOCAL}:NAME; to see them: reberth ls")
    check_name(name, "workload name")
    if node and node not in config.nodes and not slash and node in _plugins(config):
        raise UsageError(f"there is no node {node!a}, but a backend", hint=f"write {node}/{name}")
    return Workload(config.node(node or LOCAL).name, backend, name)


def parse_target(text: str) -> tuple[str, str]:
    """Read `[NODE:][NAME]`: the node (the local one when none is written) and the new name, empty to keep it."""
    node, name = _split_node(text)
    if "/" in name:
        last = check_name(name.rpartition("/")[2], "workload name")
        hint = f"the backend stays what it is: write {node or LOCAL}: or {node or LOCAL}:{last}"
        raise UsageError(f"{text!a}: a target has no backend", hint=hint)
    if not node and not name:
        raise UsageError("the target is empty", hint="write NODE: or NODE:NAME")
    return node or LOCAL, check_name(name, "workload name") if name else ""


def _split_node(text: str) -> tuple[str, str]:
    node, colon, rest = text.partition(":")
    if not colon:
        return "", text
    if not node or ":" in rest:
        raise UsageError(f"{text!a} is not [NODE:][BACKEND/]NAME", hint="write one node, one colon, one name: pi2:web")
    return check_name(node, "node name"), rest


def _plugins(config: Config) -> set[str]:
    return {backend for node in config.nodes.values() for backend in node.backends}
