"""`reberth move`: the main job."""

from __future__ import annotations

from typing import Annotated

import typer

from reberth.cli import common, params
from reberth.cli.output import note, write, write_json
from reberth.cli.plan_text import plan_document, plan_lines, refusal
from reberth.config.request import Request
from reberth.run.journal import make_runs_dir
from reberth_hooks import Exit, Plan

DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="As `reberth plan`.", show_default=False)]


def command(
    source: params.Source,
    target: params.Target,
    mode: params.ModeName = None,
    policy: params.Policy = None,
    max_downtime: params.MaxDowntime = None,
    iterations: params.Iterations = None,
    goal: params.Goal = None,
    bandwidth: params.Bandwidth = None,
    compress: params.Compress = None,
    files: params.Files = None,
    backend: params.Backend = "",
    transport: params.Transports = None,
    tcp_established: params.TcpEstablished = False,
    tcp_close: params.TcpClose = False,
    move_address: params.MoveAddress = None,
    unit: params.Unit = False,
    timeout: params.Timeout = None,
    keep_images: params.KeepImages = False,
    skip: params.Skip = None,
    verify: params.Verify = None,
    on_failure: params.OnFailure = None,
    no_lazy_restore: params.NoLazyRestore = False,
    keep_source: params.KeepSource = False,
    snapshot_first: params.SnapshotFirst = False,
    force_stop: params.ForceStop = False,
    lxd_mode: params.LxdMode = "",
    lxd_pool: params.LxdPool = "",
    remotes: params.Remotes = "",
    dry_run: DryRun = False,
    json: params.Json = False,
    quiet: params.Quiet = False,
    yes: params.Yes = False,
) -> None:
    """Move a running workload to another node.

    It runs on one of the two at every end of this command, or the report says where it is held and what decides.

    \b
    reberth move web pi2:
    reberth move pi1:runc/web pi2:web2 --tcp-established
    reberth move criu/4711 pi2: --dry-run
    """
    config = common.load_config(remotes)
    options = common.options_of(
        config,
        mode=mode,
        policy=policy,
        max_downtime=max_downtime,
        iterations=iterations,
        goal=goal,
        bandwidth=bandwidth,
        compress=compress,
        files=files,
        tcp_established=tcp_established,
        tcp_close=tcp_close,
        move_address=move_address,
        unit=unit,
        timeout=timeout,
        keep_images=keep_images,
        skip=skip,
        verify=verify,
        on_failure=on_failure,
        no_lazy_restore=no_lazy_restore,
        keep_source=keep_source,
        snapshot_first=snapshot_first,
        force_stop=force_stop,
        lxd_mode=lxd_mode,
        lxd_pool=lxd_pool,
    )
    if not dry_run:
        make_runs_dir()  # where nothing can be journaled nothing begins, and no node is asked for it
    request = Request(source, target, options, backend, tuple(transport or ()), figures=dry_run)
    with common.open_host(config, yes=yes, quiet=quiet, json=json) as host:
        plan = host.plan(request)
        if dry_run:
            show_plan(plan, json=json)
        if not quiet and not json:
            note("\n".join(plan_lines(plan)))
        common.finish(refusal(plan) if plan.refused else host.move(plan), json=json)


def show_plan(plan: Plan, *, json: bool) -> None:
    """Print the plan as data and leave: 0 when the move would be done, 10 when it would be refused."""
    if json:
        write_json(plan_document(plan))
    else:
        write([*plan_lines(plan), "refused: nothing was touched" if plan.refused else "nothing was touched"])
    raise typer.Exit(int(Exit.REFUSED if plan.refused else Exit.DONE))
