"""`reberth plan`: what `reberth move` would do."""

from __future__ import annotations

from reberth.cli import move, params


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
    json: params.Json = False,
    quiet: params.Quiet = False,
    yes: params.Yes = False,
) -> None:
    """Say whether and how a move would work, and touch nothing.

    Exit code 0: it would be done; 10: it would be refused, and the checks say why.

    \b
    reberth plan web pi2:
    reberth plan pi1:runc/web pi2: --json
    """
    move.command(**locals(), dry_run=True)  # the same options, none more and none fewer
