"""Which backend, which transports and which mode: the planner's choices, and the refusals that name the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reberth.config.options import WORDS, near
from reberth.config.request import Request
from reberth.plan import compression, measure, predict
from reberth.plan.preflight import End
from reberth.plugin.stage import Stage
from reberth_hooks import (
    Channel,
    Check,
    CommandError,
    HelperError,
    Level,
    Mode,
    Node,
    Options,
    PluginError,
    Role,
    Shell,
    Survey,
    UsageError,
    Workload,
)

ORDER = (Mode.PRE_COPY, Mode.HYBRID, Mode.POST_COPY)  # the safest first: pages that follow need both nodes to the end
MUCH_SHORTER = 0.7
ADDRESS = "address"  # the wrapping plugin behind `--move-address`


def _known(name: str, role: Role, stage: Stage) -> str:
    """Return the name of a plugin of that role; UsageError when there is none such, PluginError when it is broken."""
    installed = stage.catalog.names()
    if name not in installed:
        raise UsageError(f"there is no {role} {name!a}{near(name, installed)}", hint="see: reberth plugin ls")
    if role not in stage.catalog.get(name).declaration.roles:
        raise UsageError(f"plugin {name} is no {role}", hint="see: reberth plugin ls")
    return name


def named_backend(request: Request, wanted: Workload, stage: Stage) -> str:
    """Return the backend that the user named, in the source or beside it; empty when none was."""
    if wanted.backend and request.backend not in ("", wanted.backend):
        message = f"the source says backend {wanted.backend}, --backend says {request.backend}"
        raise UsageError(message, hint="name one backend")
    name = wanted.backend or request.backend
    if not name:
        return ""
    list(unheard(_known(name, Role.BACKEND, stage), request.options, stage))
    return name


def unheard(backend: str, options: Options, stage: Stage) -> Iterator[Check]:
    """Yield what the configuration wants and the backend ignores; UsageError for such a word of the command line."""
    said = stage.catalog.get(backend).declaration
    idle = [word for word in options.given if word in said.ignores]
    idle += [word for word in options.backend_args if word not in said.knows]
    if idle:
        flags = ", ".join(f"--{'no-' * (word == 'lazy_restore')}{word.replace('_', '-')}" for word in idle)
        raise UsageError(f"backend {backend} does not know {flags}", hint=f"leave {flags} out")
    for word in sorted(said.ignores - set(options.given)):
        field_name = WORDS[word][0]
        if getattr(options, field_name) != getattr(Options(), field_name):
            text = f"{word} of the configuration has no effect: backend {backend} does not know it"
            yield Check("default-ignored", Level.WARN, text, "none is needed, if the move may go without it")


def asked_for(backend: str, options: Options) -> list[str]:
    """Return the plugins that the user's own words need, which must be enabled before any node is asked for
    anything.
    """
    return [*([backend] if backend else []), *([ADDRESS] if options.move_address else [])]


def find_backend(wanted: Workload, source: End, stage: Stage) -> str:
    """Return the one backend of the source that has this workload.

    A name all of digits may also be a process of criu.
    """
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
    """Return which transport carries each channel: files always, memory by a named one; what is named is used or
    refused.

    A managed backend carries everything by itself.
    """
    if not backend and len(nodes[0].backends) == 1 and not nodes[0].transports:
        backend = nodes[0].backends[0]  # there is no other, and none but its own daemons could carry anything
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
    if Channel.FILES in routes:
        return routes
    carrier, before = _carrier(nodes, stage)
    return {Channel.FILES: carrier, **({Channel.MEMORY: before} if before and not asked else {}), **routes}


def _carrier(nodes: tuple[Node, Node], stage: Stage) -> tuple[str, str]:
    """Return the first transport enabled on both nodes that carries files, and one before it that carries
    memory, if any.
    """
    memory = ""
    fault = "no transport that carries files is enabled on both nodes"
    for name in (t for t in nodes[0].transports if t in nodes[1].transports):
        try:
            carries = stage.catalog.get(name).declaration.carries
            if Channel.FILES in carries:
                return name, memory
            memory = memory or (name if Channel.MEMORY in carries else "")
        except PluginError as error:
            fault += f"; {error.message}"
    lacking = next((n for n in nodes if "ssh" not in n.transports), nodes[0])
    raise PluginError(f"{fault} ({nodes[0].name}, {nodes[1].name})", hint=f"reberth node enable {lacking.name} ssh")


@dataclass(frozen=True, slots=True)
class Choice:
    """The mode and routes of a plan, and why; the check that forbids the mode asked for; what each would cost."""

    mode: Mode
    why: str
    checks: tuple[Check, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    predicted: Mapping[str, predict.Prediction] = field(default_factory=dict)
    unfit: tuple[str, ...] = ()
    routes: Mapping[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return what the plan keeps of it."""
        return {
            "unfit": list(self.unfit),
            "measured": dict(self.measured),
            "predicted": {k: p.document() for k, p in self.predicted.items()},
        }


def mode(
    request: Request,
    backend: str,
    stage: Stage,
    survey: Survey,
    source: Shell,
    target: Shell,
    routes: Mapping[str, str],
) -> Choice:
    """Return the mode: the one that was asked for, else by what the nodes can do, the measured link and the workload.

    Its `routes` are the given ones without one for memory that the backend has no pages for, or that does not do this
    mode; where it is there, the run cannot become another mode that it does not do either.
    """
    memory = routes.get(Channel.MEMORY)
    carrier = None if stage.catalog.get(backend).declaration.managed else memory or ""
    found = _mode(request, backend, stage, survey, source, target, carrier)
    packed = compression.checks(found.measured, request.options)
    found = replace(
        found,
        measured=compression.told(found.measured, found.mode),
        checks=(*found.checks, *packed, *unheard(backend, request.options, stage)),
    )
    if memory is None:
        return replace(found, routes=routes)
    gives, can = stage.catalog.get(backend).declaration.carries, stage.catalog.get(memory).declaration.modes
    if Channel.MEMORY not in gives or (can and found.mode not in can):
        if memory in request.transports:
            raise UsageError(f"backend {backend} gives no pages to transport {memory} in mode {found.mode}")
        return replace(found, routes={c: name for c, name in routes.items() if c != Channel.MEMORY})
    unfit = dict.fromkeys([*found.unfit, *(m.value for m in Mode if can and m not in can)])
    return replace(found, routes=routes, unfit=tuple(unfit))


def _mode(
    request: Request, backend: str, stage: Stage, survey: Survey, source: Shell, target: Shell, carrier: str | None
) -> Choice:
    offered = [mode for mode in Mode if mode in stage.catalog.get(backend).declaration.modes]
    for name in request.transports:  # one that says nothing of modes does them all
        can = stage.catalog.get(name).declaration.modes
        offered = [mode for mode in offered if mode in can or not can]
    if not offered:
        raise PluginError(f"plugin {backend}: it declares no mode", hint=f"reberth plugin show {backend}")
    options = request.options
    asked = options.mode
    if asked not in (*offered, Mode.AUTO):
        by = f" by transport {', '.join(request.transports)}" if request.transports else ""
        raise UsageError(f"backend {backend} does not offer {asked}{by}", hint=f"it offers {', '.join(offered)}")
    fit = [m for m in offered if m.value not in survey.unfit]
    measured = measure.look(request, source, target, survey, fit, carrier)
    if any(check.id == "userfaultfd" for check in survey.unfit.values()):
        options = replace(options, lazy_restore=False)
    predicted = predict.table(fit, backend, survey.details, measured, options)
    if survey.mode and asked in (Mode.AUTO, survey.mode):
        return Choice(survey.mode, survey.why, (), measured, predicted, tuple(survey.unfit))
    if asked is not Mode.AUTO:
        checks = tuple(check for word, check in survey.unfit.items() if word == asked)
        return Choice(asked, f"{asked}: as asked", checks, measured, predicted, tuple(survey.unfit))
    chosen, why = _auto(options, fit, offered, survey, predicted)
    return Choice(chosen, f"{chosen}: {why}", (), measured, predicted, tuple(survey.unfit))


def _auto(
    options: Options,
    fit: Sequence[Mode],
    offered: Sequence[Mode],
    survey: Survey,
    predicted: Mapping[str, predict.Prediction],
) -> tuple[Mode, str]:
    """Return the plainest mode where it is short enough or no other is much shorter, then pre-copy, then pages
    that follow.
    """
    plain = Mode.STOP_AND_COPY if Mode.STOP_AND_COPY in fit else (fit or offered)[0]
    if len(offered) == 1:
        return plain, "the one mode that this version of the backend offers"
    first = predicted.get(plain.value)
    if first is None:
        return plain, "the plainest that the backend offers"
    most_s = options.max_downtime_s
    said = f"about {first.downtime_s:.2g} s of downtime"
    if first.downtime_s <= most_s:
        return plain, f"{said}, within {most_s:g} s of --max-downtime"
    gains = [m for m in ORDER if m in fit and predicted[m.value].downtime_s < MUCH_SHORTER * first.downtime_s]
    lacks = dict.fromkeys(f"no {m}: {survey.unfit[m.value].reason}" for m in offered if m.value in survey.unfit)
    reasons = "; ".join([f"{plain} would take {said}, more than {most_s:g} s of --max-downtime", *lacks])
    if not gains:
        return plain, f"{reasons}; no other mode is much shorter"
    early = predicted.get(Mode.PRE_COPY.value)
    if Mode.PRE_COPY in gains and early is not None and (early.downtime_s <= most_s or gains == [Mode.PRE_COPY]):
        return Mode.PRE_COPY, f"{reasons}; about {early.downtime_s:.2g} s after {early.rounds} rounds while it runs"
    return next(m for m in gains if m is not Mode.PRE_COPY), reasons
