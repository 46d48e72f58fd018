"""Which backend, which transports and which mode: the planner's choices, and the refusals that name the remedy."""

from __future__ import annotations

from collections.abc import Sequence

from reberth.options import near
from reberth.preflight import End
from reberth.request import Request
from reberth.stage import Stage
from reberth_hooks import (
    Channel,
    CommandError,
    HelperError,
    Mode,
    Node,
    Options,
    PluginError,
    Role,
    Survey,
    UsageError,
    Workload,
)

ADDRESS = "address"  # the wrapping plugin behind `--move-address`


def _known(name: str, role: Role, stage: Stage) -> str:
    """The name of a plugin of that role; UsageError when there is none such, PluginError when it is broken."""
    installed = stage.catalog.names()
    if name not in installed:
        raise UsageError(f"there is no {role} {name!a}{near(name, installed)}", hint="see: reberth plugin ls")
    if role not in stage.catalog.get(name).declaration.roles:
        raise UsageError(f"plugin {name} is no {role}", hint="see: reberth plugin ls")
    return name


def named_backend(request: Request, wanted: Workload, stage: Stage) -> str:
    """The backend that the user named, in the source or beside it; empty when none was."""
    if wanted.backend and request.backend not in ("", wanted.backend):
        message = f"the source says backend {wanted.backend}, --backend says {request.backend}"
        raise UsageError(message, hint="name one backend")
    name = wanted.backend or request.backend
    return _known(name, Role.BACKEND, stage) if name else ""


def asked_for(backend: str, options: Options) -> list[str]:
    """The plugins that the user's own words need, which must be enabled before any node is asked for anything."""
    return [*([backend] if backend else []), *([ADDRESS] if options.move_address else [])]


def find_backend(wanted: Workload, source: End, stage: Stage) -> str:
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


def routes(asked: Sequence[str], nodes: tuple[Node, Node], stage: Stage, backend: str = "") -> dict[str, str]:
    """Which transport carries each channel: files always, memory by a named one; what is named is used or refused.

    A managed backend carries everything by itself.
    """
    if backend and stage.catalog.get(backend).declaration.managed:
        if asked:
            raise UsageError(f"{backend} carries the data by itself: --transport has no effect", hint="leave it out")
        return {Channel.FILES: backend, Channel.MEMORY: backend}
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


def mode(asked: Mode, backend: str, stage: Stage, survey: Survey | None = None) -> tuple[Mode, str]:
    """The mode, and why it is this one; a backend's survey may have chosen it where none was asked for."""
    offered = [mode for mode in Mode if mode in stage.catalog.get(backend).declaration.modes]
    if not offered:
        raise PluginError(f"plugin {backend}: it declares no mode", hint=f"reberth plugin show {backend}")
    if survey and survey.mode and asked in (Mode.AUTO, survey.mode):
        return survey.mode, survey.why
    if asked in offered:
        return asked, f"{asked}: as asked"
    if asked is not Mode.AUTO:
        raise UsageError(f"backend {backend} does not offer {asked}", hint=f"it offers {', '.join(offered)}")
    if len(offered) == 1:
        return offered[0], f"{offered[0]}: the one mode that this version of the backend offers"
    mode = Mode.STOP_AND_COPY if Mode.STOP_AND_COPY in offered else offered[0]
    return mode, f"{mode}: the plainest that the backend offers; others with --mode: {', '.join(offered)}"
