"""From a Request to a Plan: who, where to, by what, and whether it is allowed; nothing is touched on the way."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from reberth.config import names
from reberth.config.config import Config
from reberth.config.request import Request
from reberth.plan import choose, preflight
from reberth.plan.busy import name_of_a_run, refuse_busy
from reberth.plugin.stage import Stage
from reberth_hooks import (
    CommandError,
    ConnectionLostError,
    Exit,
    HelperError,
    Plan,
    Shell,
    UnreachableError,
    UsageError,
    Workload,
)


def run_id() -> str:
    """Return a new id of a run: local date and time, and four random hexadecimal digits."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def make_plan(
    request: Request, config: Config, stage: Stage, shells: Callable[[str], Shell], new_id: Callable[[], str] = run_id
) -> Plan:
    """Decide everything before anything is touched.

    `facts` of the plan: side ("source", "target") -> "hello" and each plugin's name -> what it said. A plan that its
    checks forbid is returned all the same: `Plan.refused` says why. Raises UsageError (the words are wrong),
    PluginError (missing, broken, not enabled) and what the shells raise (unreachable, untrusted); the exit code of
    every error says that nothing was touched. Raises BusyError for what an open run holds: what else could be said of
    it (it is frozen, its name is taken) is that run's doing.
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
    named = choose.named_backend(request, wanted, stage)
    for plugin in choose.asked_for(named, request.options):
        stage.require(plugin, *nodes)
    routes = choose.routes(request.transports, nodes, stage, named)
    source, target = (preflight.greet(node, shells(node.name)) for node in nodes)
    if preflight.same_machine(source, target):
        both = f"{source.node.name} and {target.node.name}"
        raise UsageError(f"{both} are two names of the same machine", hint="name another node")
    workload = Workload(wanted.node, named or choose.find_backend(wanted, source, stage), wanted.name)
    refuse_busy(source.shell, "source", f"{workload.backend}/{workload.name}")
    routes = choose.routes(request.transports, nodes, stage, workload.backend)
    plugins = tuple(dict.fromkeys((workload.backend, *routes.values())))
    facts: dict[str, object] = {
        side: {"hello": end.hello, **{name: stage.probe(name, end.node, end.shell) for name in plugins}}
        for side, end in (("source", source), ("target", target))
    }
    name = new_name or workload.name
    survey = stage.survey(workload.backend, workload, name, source.shell, target.shell, facts, request.options)
    wanted_there = f"{workload.backend}/{name}"
    refuse_busy(target.shell, "target", wanted_there, int(survey.details.get("start_ticks") or 0))
    choice = choose.mode(request, workload.backend, stage, survey, source.shell, target.shell, routes)
    usable = (*preflight.usable_checks(facts, plugins, *nodes), *preflight.unit_checks(request.options, survey))
    checks = (*preflight.host_checks(source, target), *usable, *survey.checks, *choice.checks)
    return Plan(
        id=names.check_name(new_id(), "run id"),
        workload=workload,
        source=source.node,
        target=target.node,
        target_name=name,
        mode=choice.mode,
        why=choice.why,
        options=request.options,
        routes=choice.routes,
        checks=preflight.skip(name_of_a_run(checks, target.node.name, wanted_there), request.options.skip),
        facts=facts | choice.facts(),
        details=survey.details,
        managed=stage.catalog.get(workload.backend).declaration.managed,
    )
