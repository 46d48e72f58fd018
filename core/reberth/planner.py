"""From a Request to a Plan: who, where to, by what, and whether it is allowed; nothing is touched on the way."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

from reberth import names, preflight
from reberth.config import Config
from reberth.options import near
from reberth.preflight import End
from reberth.request import Request
from reberth.stage import Stage
from reberth_hooks import (
    Channel,
    CommandError,
    ConnectionLostError,
    Exit,
    HelperError,
    Mode,
    Node,
    Plan,
    PluginError,
    Role,
    Shell,
    UnreachableError,
    UsageError,
    Workload,
)


def run_id() -> str:
    """A new id of a run: local date and time, and four random hexadecimal digits."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def make_plan(
    request: Request, config: Config, stage: Stage, shells: Callable[[str], Shell], new_id: Callable[[], str] = run_id
) -> Plan:
    """Decide everything before anything is touched.

    `facts` of the plan: side ("source", "target") -> "hello" and each plugin's name -> what it said. A plan that its
    checks forbid is returned all the same: `Plan.refused` says why. Raises UsageError (the words are wrong),
    PluginError (missing, broken, not enabled) and what the shells raise (unreachable, untrusted); the exit code of
    every error says that nothing was touched.
    """
    try:
        return _make_plan(request, config, stage, shells, new_id)
    except ConnectionLostError as error:
        raise UnreachableError(error.message, hint=error.hint, tail=error.tail) from error
    except (CommandError, HelperError) as error:
        error.exit_code = Exit.REFUSED
        raise


def _make_plan(
    request: Request, config: Config, stage: Stage, shells: Callable[[str], Shell], new_id: Callable[[], str]
) -> Plan:
    wanted = names.parse_source(request.source, config)
    target_node, new_name = names.parse_target(request.target)
    nodes = config.node(wanted.node), config.node(target_node)
    if nodes[0] is nodes[1]:
        hint = f"to move to node {new_name} write {new_name}:" if new_name in config.nodes else "name another node"
        raise UsageError(f"source and target are the same node, {target_node}", hint=hint)
    named = _named_backend(request, wanted, stage)
    if named:
        stage.require(named, *nodes)
    routes = _routes(request.transports, nodes, stage)
    source, target = (preflight.greet(node, shells(node.name)) for node in nodes)
    if preflight.same_machine(source, target):
        both = f"{source.node.name} and {target.node.name}"
        raise UsageError(f"{both} are two names of the same machine", hint="name another node")
    workload = Workload(wanted.node, named or _find_backend(wanted, source, stage), wanted.name)
    mode, why = _mode(request.options.mode, workload.backend, stage)
    plugins = tuple(dict.fromkeys((workload.backend, *routes.values())))
    facts: dict[str, object] = {
        side: {"hello": end.hello, **{name: stage.probe(name, end.node, end.shell) for name in plugins}}
        for side, end in (("source", source), ("target", target))
    }
    name = new_name or workload.name
    survey = stage.survey(workload.backend, workload, name, source.shell, target.shell, facts, request.options)
    checks = (*preflight.host_checks(source, target), *preflight.usable_checks(facts, plugins, *nodes), *survey.checks)
    return Plan(
        id=names.check_name(new_id(), "run id"),
        workload=workload,
        source=source.node,
        target=target.node,
        target_name=name,
        mode=mode,
        why=why,
        options=request.options,
        routes=routes,
        checks=preflight.skip(checks, request.options.skip),
        facts=facts,
        details=survey.details,
    )


def _known(name: str, role: Role, stage: Stage) -> str:
    """The name of a plugin of that role; UsageError when there is none such, PluginError when it is broken."""
    installed = stage.catalog.names()
    if name not in installed:
        raise UsageError(f"there is no {role} {name!a}{near(name, installed)}", hint="see: reberth plugin ls")
    if role not in stage.catalog.get(name).declaration.roles:
        raise UsageError(f"plugin {name} is no {role}", hint="see: reberth plugin ls")
    return name


def _named_backend(request: Request, wanted: Workload, stage: Stage) -> str:
    """The backend that the user named, in the source or beside it; empty when none was."""
    if wanted.backend and request.backend not in ("", wanted.backend):
        message = f"the source says backend {wanted.backend}, --backend says {request.backend}"
        raise UsageError(message, hint="name one backend")
    name = wanted.backend or request.backend
    return _known(name, Role.BACKEND, stage) if name else ""


def _find_backend(wanted: Workload, source: End, stage: Stage) -> str:
    """The one backend of the source that has this workload; a name all of digits may also be a process of criu."""
    owners: list[str] = []
    seen: list[str] = []
    silent = ""
    for backend in (b for b in source.node.backends if b in stage.catalog.names()):
        if backend == "criu" and wanted.name.isdecimal():
            owners.append(backend)
            continue
        try:
            found = [entry.name for entry in stage.list(backend, source.node, source.shell)]
        except (CommandError, HelperError, PluginError) as error:
            silent += f"; {backend} could not be asked: {error.message}"
            continue
        owners += [backend] if wanted.name in found else []
        seen += found
    node = source.node.name
    if not owners:
        message = f"there is no workload {wanted.name} on node {node}{near(wanted.name, seen)}{silent}"
        raise UsageError(message, hint=f"to see them: reberth ls {node}")
    if len(owners) > 1:
        words = " or ".join(f"{node}:{backend}/{wanted.name}" for backend in owners)
        raise UsageError(f"{' and '.join(owners)} both have {wanted.name} on node {node}", hint=f"write {words}")
    return owners[0]


def _routes(asked: Sequence[str], nodes: tuple[Node, Node], stage: Stage) -> dict[str, str]:
    """Which transport carries each channel: files always, memory by a named one; what is named is used or refused."""
    for name in asked:
        stage.require(_known(name, Role.TRANSPORT, stage), *nodes)
    routes: dict[str, str] = {}
    for name in dict.fromkeys(asked):
        free = sorted(stage.catalog.get(name).declaration.carries - routes.keys())
        if not free:
            raise UsageError(f"transport {name} would carry nothing beside {' and '.join(routes.values())}")
        routes.update(dict.fromkeys(free, name))
    return routes if Channel.FILES in routes else {Channel.FILES: _carrier(nodes, stage), **routes}


def _carrier(nodes: tuple[Node, Node], stage: Stage) -> str:
    """The first transport enabled on both nodes that carries files."""
    fault = "no transport that carries files is enabled on both nodes"
    for name in (t for t in nodes[0].transports if t in nodes[1].transports):
        try:
            if Channel.FILES in stage.catalog.get(name).declaration.carries:
                return name
        except PluginError as error:
            fault += f"; {error.message}"
    lacking = next((n for n in nodes if "ssh" not in n.transports), nodes[0])
    raise PluginError(f"{fault} ({nodes[0].name}, {nodes[1].name})", hint=f"reberth node enable {lacking.name} ssh")


def _mode(asked: Mode, backend: str, stage: Stage) -> tuple[Mode, str]:
    """The mode, and why it is this one."""
    offered = [mode for mode in Mode if mode in stage.catalog.get(backend).declaration.modes]
    if not offered:
        raise PluginError(f"plugin {backend}: it declares no mode", hint=f"reberth plugin show {backend}")
    if asked in offered:
        return asked, f"{asked}: as asked"
    if asked is not Mode.AUTO:
        raise UsageError(f"backend {backend} does not offer {asked}", hint=f"it offers {', '.join(offered)}")
    if len(offered) == 1:
        return offered[0], f"{offered[0]}: the one mode that this version of the backend offers"
    mode = Mode.STOP_AND_COPY if Mode.STOP_AND_COPY in offered else offered[0]
    return mode, f"{mode}: the plainest that the backend offers; others with --mode: {', '.join(offered)}"
