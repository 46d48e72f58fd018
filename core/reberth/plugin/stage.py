"""The stage: the only place that knows how hooks are called, and the typed face of every plugin.

A call reaches one plugin, the actor, and the wrapping plugins enabled on every node that it concerns; no other.
The actor must be enabled there too, its answer must have the promised type, and whatever it raises that is no
ReberthError becomes a PluginError that names plugin and hook.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from reberth.config.options import near
from reberth.plugin.catalog import Catalog, Plugin
from reberth_hooks import Move, Node, Options, PluginError, ReberthError, Role, Shell, UsageError, Workload
from reberth_hooks.types import Checkpoint, Event, Found, Receipt, Restored, Round, Route, Survey, Tree

if TYPE_CHECKING:
    import typer

_log = logging.getLogger("reberth")
_T = TypeVar("_T")
_LIST = list  # the class has a method of this name
_Facts = dict[str, object]


class Stage:
    """Every hook as a typed method; raises PluginError (exit 14) and whatever ReberthError the plugin raises."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def connect(self, node: Node) -> Route:
        """Return how the node is reached."""
        return self._ask(Route, node.connector, "connect", (node,), node=node)

    def answer(self, at: Any, op: str, args: _Facts) -> _Facts:
        """Answer an operation of the protocol, by the plugin that speaks for this end."""
        return self._ask(dict, at.speaker, "answer", (at.node,), node=at.node, op=op, args=args, move=at.move)

    def probe(self, plugin: str, node: Node, shell: Shell) -> _Facts:
        """Facts about a plugin's tools on a node; none from a plugin that does not probe."""
        self.require(plugin, node)
        if not self.catalog.implements(plugin, "reberth_probe"):
            return {}
        return self._ask(dict, plugin, "probe", (node,), node=node, shell=shell)

    def list(self, plugin: str, node: Node, shell: Shell) -> list[Found]:
        """Return the workloads that a backend sees on a node."""
        found = self._ask(_LIST, plugin, "list", (node,), node=node, shell=shell)
        return [_typed(entry, Found, plugin, "reberth_list") for entry in found]

    def survey(
        self, backend: str, workload: Workload, name: str, source: Shell, target: Shell, facts: _Facts, options: Options
    ) -> Survey:
        """Return the backend's preflight of one move; `name` is the workload's name on the target."""
        words = {"workload": workload, "target_name": name, "facts": facts, "options": options}
        nodes = (source.node, target.node)
        return self._ask(Survey, backend, "survey", nodes, source=source, target=target, **words)

    def prepare(self, move: Move) -> bool:
        """Make both nodes ready while the workload runs."""
        return self._phase(bool, _backend(move), "prepare", move)

    def receive(self, move: Move, round: Round) -> bool:
        """Open the way for data on each transport of the plan that has one to open; False when one of them says no."""
        answers = []
        for transport in dict.fromkeys(move.plan.routes.values()):
            self.require(transport, move.plan.source, move.plan.target)
            if self.catalog.implements(transport, "reberth_receive"):
                answers.append(self._phase(bool, transport, "receive", move, round=round))
        return all(answers)

    def sync(self, move: Move) -> Sequence[Tree]:
        """Trees to carry before the freeze; none from a backend without a filesystem of its own."""
        backend = _backend(move)
        self.require(backend, move.plan.source, move.plan.target)
        if not self.catalog.implements(backend, "reberth_sync"):
            return []
        return [_typed(tree, Tree, backend, "reberth_sync") for tree in self._phase(_LIST, backend, "sync", move)]

    def checkpoint(self, move: Move, round: Round) -> Checkpoint:
        """One round; the final one leaves the workload frozen, complete on disk and fenced."""
        return self._phase(Checkpoint, _backend(move), "checkpoint", move, round=round)

    def transfer(self, move: Move, parcel: Tree) -> Receipt:
        """Carry one parcel by the transport routed for its channel."""
        transport = move.plan.routes.get(parcel.channel)
        if transport is None:
            raise PluginError(f"plugin {_backend(move)}: no transport of the plan carries its {parcel.channel} parcel")
        return self._phase(Receipt, transport, "transfer", move, parcel=parcel)

    def restore(self, move: Move, receipts: tuple[Receipt, ...]) -> Restored:
        """Build the copy on the target and hold it."""
        return self._phase(Restored, _backend(move), "restore", move, receipts=receipts)

    def commit(self, move: Move) -> bool:
        """Give up the source."""
        return self._phase(bool, _backend(move), "commit", move)

    def rollback(self, move: Move) -> bool:
        """Revive the source."""
        return self._phase(bool, _backend(move), "rollback", move)

    def event(self, event: Event) -> None:
        """Tell each loaded observer; what it raises is logged and dropped, so that none can stop a move."""
        for plugin in self.catalog.loaded():
            if Role.OBSERVER in plugin.declaration.roles:
                try:
                    self.catalog.call_one(plugin.name, "reberth_event", event=event)
                except Exception as error:
                    _log.warning("plugin %s: reberth_event failed: %r", plugin.name, error)

    def commands(self, app: typer.Typer, names: Iterable[str] | None = None, controller: Any = None) -> None:
        """Let plugins (all, or these) add their commands; a broken one is logged and the others still come."""
        for name in self.catalog.names() if names is None else names:
            try:
                if Role.COMMANDS in self.catalog.get(name).declaration.roles:
                    self._ask(object, name, "commands", (), app=app, controller=controller)
            except ReberthError as error:
                _log.warning("%s", error)

    def require(self, plugin: str, *nodes: Node) -> Plugin:
        """Return the plugin, loaded, if it is enabled on all these nodes and knows its options there."""
        for node in nodes:
            if plugin not in node.plugins:
                hint = f"reberth node enable {node.name} {plugin}"
                raise PluginError(f"plugin {plugin} is not enabled on node {node.name}", hint=hint)
        loaded = self.catalog.get(plugin)
        known = loaded.declaration.options
        for node in nodes:
            for key in node.options_of(plugin).keys() - known:
                raise UsageError(f"node {node.name}: plugin {plugin} has no option {key!a}{near(key, known)}")
        return loaded

    def _phase(self, want: type[_T], actor: str, phase: str, move: Move, **arguments: Any) -> _T:
        return self._ask(want, actor, phase, (move.plan.source, move.plan.target), move=move, **arguments)

    def _ask(self, want: type[_T], actor: str, phase: str, nodes: tuple[Node, ...], **arguments: Any) -> _T:
        hook = f"reberth_{phase}"
        self.require(actor, *nodes)
        common = frozenset.intersection(*(frozenset(node.wrappers) for node in nodes)) if nodes else frozenset()
        inside = {name: self.catalog.get(name).module for name in (*sorted(common), actor)}
        if not self.catalog.implements(actor, hook):
            raise PluginError(f"plugin {actor}: it has no {hook}", hint=f"reberth plugin show {actor}")
        try:
            answer = self.catalog.call_one(actor, hook, sorted(common), **arguments)
        except ReberthError:
            raise
        except Exception as error:
            culprit = _culprit(error, inside, actor)
            what = f"plugin {culprit}: {hook} failed: {type(error).__name__}: {error}"
            raise PluginError(what, hint=f"a bug of that plugin; see: reberth plugin show {culprit}") from error
        around = ", ".join(w for w in sorted(common) if self.catalog.implements(w, hook, wrapper=True))
        return _typed(answer, want, actor, hook + (f" (wrapped by {around})" if around else ""))


def _backend(move: Move) -> str:
    return move.plan.workload.backend


def _typed(answer: Any, want: type[_T], plugin: str, hook: str) -> _T:
    """Return the answer, if it has the promised type."""
    if isinstance(answer, want):
        return answer
    raise PluginError(f"plugin {plugin}: {hook} gave {answer!a:.80}, not {want.__name__}")


def _culprit(error: Exception, inside: Mapping[str, Any], actor: str) -> str:
    """Return whose code raised: the plugin of the innermost frame, since a wrapper's frames lie around the actor's."""
    found, trace = actor, error.__traceback__
    while trace is not None:
        where = f"{trace.tb_frame.f_globals.get('__name__')}."
        found = next((n for n, plugin in inside.items() if where.startswith(_modules(plugin, n))), found)
        trace = trace.tb_next
    return found


def _modules(plugin: Any, name: str) -> tuple[str, ...]:
    """Return the names of the modules that a plugin's code is in, each with a dot; an object's are its classes'."""
    if hasattr(plugin, "__name__"):
        return (f"{plugin.__name__}.",)
    classes = [kind.__module__ for kind in type(plugin).__mro__ if kind.__module__ not in ("builtins", "types")]
    return tuple(f"{module}." for module in classes or [name])
