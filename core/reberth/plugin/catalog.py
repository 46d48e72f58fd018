"""The plugins: named by entry points without importing any, loaded one at a time, each judged at load.

One broken plugin never stops the rest: why it cannot be used is kept, and raised when that plugin is needed.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from reberth.config.options import near
from reberth_hooks import API, OLDEST_API, PROJECT, Channel, Declaration, Phase, PluginError, Role, specs

PHASE_HOOKS = frozenset({"reberth_sync", *(f"reberth_{phase.name.lower()}" for phase in Phase)})
_BACKEND = ("probe", "list", "survey", "prepare", "checkpoint", "restore", "commit", "rollback")
_NEEDED = {
    Role.BACKEND: _BACKEND,
    Role.CONNECTOR: ("connect",),
    Role.OBSERVER: ("event",),
    Role.COMMANDS: ("commands",),
}


@dataclass(frozen=True, slots=True)
class Plugin:
    """A loaded plugin: what it says of itself, and the distribution that it comes from."""

    name: str
    module: Any
    declaration: Declaration
    distribution: str = ""
    version: str = ""


class Catalog:
    """All plugins by name; `extra` adds modules without an entry point (tests), and wins over one of the same name.

    `REBERTH_PLUGINS` in the environment limits the entry points to a list (empty: none); `REBERTH_TRACE=1` prints
    each hook call, without its arguments (they may be secret), to stderr. `errors` says why a plugin cannot be used.
    """

    def __init__(self, extra: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> None:
        env = os.environ if environ is None else environ
        self.errors: dict[str, str] = {}
        self.pm = pluggy.PluginManager(PROJECT)
        self.pm.add_hookspecs(specs)
        if env.get("REBERTH_TRACE", "0") not in ("", "0"):
            self.pm.add_hookcall_monitoring(_before, _after)
        self._extra = dict(extra or {})
        self._plugins: dict[str, Plugin | PluginError] = {}
        self._points: dict[str, list[EntryPoint]] = {}
        only = env.get("REBERTH_PLUGINS")
        for point in entry_points(group=PROJECT):
            if only is None or point.name in only.replace(",", " ").split():
                self._points.setdefault(point.name, []).append(point)

    def names(self) -> list[str]:
        """Return every plugin whose module is installed, sorted; imports none of them."""
        return sorted({*self._extra, *(name for name, points in self._points.items() if _installed(points[0]))})

    def loaded(self) -> list[Plugin]:
        """Return the plugins that were loaded so far, in the order of loading."""
        return [plugin for plugin in self._plugins.values() if isinstance(plugin, Plugin)]

    def load_all(self) -> list[Plugin]:
        """Load whatever can be loaded; for what cannot see `errors`."""
        return [p for p in map(self._judged, self.names()) if isinstance(p, Plugin)]

    def get(self, name: str) -> Plugin:
        """Return the plugin, loaded at first use; PluginError says why it cannot be used and what to do."""
        plugin = self._judged(name)
        if isinstance(plugin, PluginError):
            raise PluginError(plugin.message, hint=plugin.hint) from plugin.__cause__
        return plugin

    def implements(self, name: str, hook: str, *, wrapper: bool = False) -> bool:
        """Tell whether a loaded plugin has a plain (or a wrapping) implementation of this hook."""
        found = getattr(self.pm.hook, hook).get_hookimpls()
        return any(i.plugin_name == name and bool(i.wrapper or i.hookwrapper) is wrapper for i in found)

    def call_one(self, name: str, hook: str, wrappers: Sequence[str] = (), /, **arguments: Any) -> Any:
        """Call a hook on one plugin, with these wrapping plugins around it and no other."""
        # a backend may be listed as a wrapper too: its plain hooks must not answer in place of the actor
        inside = {name, *(w for w in wrappers if not self.implements(w, hook))}
        others = [module for other, module in self.pm.list_name_plugin() if module is not None and other not in inside]
        return self.pm.subset_hook_caller(hook, others)(**arguments)

    def _judged(self, name: str) -> Plugin | PluginError:
        if name not in self._plugins:
            try:
                self._plugins[name] = self._load(name)
            except PluginError as error:
                if self.pm.has_plugin(name):
                    self.pm.unregister(name=name)
                error.hint = error.hint or f"mend, update or uninstall it; see: reberth plugin show {name}"
                self._plugins[name], self.errors[name] = error, error.message
        return self._plugins[name]

    def _load(self, name: str) -> Plugin:
        point = None if name in self._extra else self._point(name)
        try:
            module = point.load() if point else self._extra[name]
        except (Exception, SystemExit) as error:
            raise PluginError(f"plugin {name}: import failed: {type(error).__name__}: {error}") from error
        try:
            self.pm.register(module, name)
            self.pm.check_pending()
            said = self.call_one(name, "reberth_describe")
        except pluggy.PluginValidationError as error:
            raise PluginError(f"plugin {name}: {self._stray(module) or ' '.join(str(error).split())}") from error
        except Exception as error:
            raise PluginError(f"plugin {name}: at load: {type(error).__name__}: {error}") from error
        if fault := self._fault(name, module, said):
            raise PluginError(f"plugin {name}: {fault}")
        dist = point.dist if point else None
        return Plugin(name, module, said, dist.name if dist else "", dist.version if dist else "")

    def _point(self, name: str) -> EntryPoint:
        points = self._points.get(name)
        if not points:
            raise PluginError(f"there is no plugin {name!a}{near(name, self.names())}", hint="see: reberth plugin ls")
        owners = sorted({point.dist.name if point.dist else point.value for point in points})
        if len(owners) > 1:
            message = f"plugin {name}: {' and '.join(owners)} both offer it, so neither is used"
            raise PluginError(message, hint="uninstall one of them")
        if not _installed(points[0]):
            hint = f"install the part of {owners[0]} that has it"
            raise PluginError(f"plugin {name}: its module {points[0].module} is not installed", hint=hint)
        return points[0]

    def _stray(self, module: Any) -> str:
        """Names each hook of a plugin that no specification has, with the nearest that there is."""
        known = [caller.name for caller in vars(self.pm.hook).values() if caller.has_spec()]
        stray = [caller.name for caller in self.pm.get_hookcallers(module) or () if not caller.has_spec()]
        return "; ".join(f"there is no hook {hook}{near(hook, known)}" for hook in stray)

    def _fault(self, name: str, module: Any, said: Any) -> str:
        """Return what is wrong between what a plugin declares and what it implements; empty when nothing is."""
        if not isinstance(said, Declaration):
            return f"reberth_describe gave {said!a:.80}, not a Declaration"
        if not OLDEST_API <= said.api <= API:
            older = "reberth" if said.api > API else "the plugin"
            return f"it is written for contract {said.api}, and this reberth has {API}: update {older}"
        for word, function in inspect.getmembers(module, inspect.isroutine):
            if word.startswith("reberth_") and not hasattr(function, f"{PROJECT}_impl"):
                return f"{word} lacks @hookimpl and would never be called"
        plain = sorted(hook for hook in PHASE_HOOKS if self.implements(name, hook))
        if plain and not said.roles & {Role.BACKEND, Role.TRANSPORT}:
            return f"{', '.join(plain)} must be a wrapper: it is neither a backend nor a transport"
        needed = [hook for role in said.roles for hook in _NEEDED.get(role, ())]
        if Role.TRANSPORT in said.roles:
            needed.append("transfer" if Channel.FILES in said.carries else "receive")
        missing = sorted(f"reberth_{hook}" for hook in needed if not self.implements(name, f"reberth_{hook}"))
        return f"it declares {', '.join(sorted(said.roles))} but lacks {', '.join(missing)}" if missing else ""


def _installed(point: EntryPoint) -> bool:
    """Tell whether the module is there, by its top folder: asking for a nested one would import its parents."""
    try:
        return importlib.util.find_spec(point.module.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _before(hook_name: str, hook_impls: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    whom = ", ".join(impl.plugin_name for impl in reversed(hook_impls)) or "nobody"
    sys.stderr.write(f"reberth: trace: {hook_name}({', '.join(kwargs)}) on {whom}\n")


def _after(outcome: Any, hook_name: str, hook_impls: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    ended = f"raised {type(outcome.exception).__name__}" if outcome.exception else type(outcome.get_result()).__name__
    sys.stderr.write(f"reberth: trace: {hook_name} -> {ended}\n")
