"""`reberth restore`: the second half of a move, from a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reberth.cli import common, params
from reberth.run.journal import make_runs_dir

Directory = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="What `reberth checkpoint` wrote, here or NODE:/DIR.", show_default=False),
]


def command(
    directory: Directory,
    target: params.Target,
    tcp_established: params.TcpEstablished = False,
    tcp_close: params.TcpClose = False,
    timeout: params.Timeout = None,
    skip: params.Skip = None,
    no_lazy_restore: params.NoLazyRestore = False,
    json: params.Json = False,
    quiet: params.Quiet = False,
    yes: params.Yes = False,
) -> None:
    """Start a workload from a directory on a node.

    \b
    reberth restore ./web.checkpoint pi2:
    reberth restore phone:/data/local/tmp/web pi2:
    """
    config = common.load_config()
    make_runs_dir()
    options = common.options_of(
        config,
        tcp_established=tcp_established,
        tcp_close=tcp_close,
        timeout=timeout,
        skip=skip,
        no_lazy_restore=no_lazy_restore,
    )
    with common.open_host(config, yes=yes, quiet=quiet, json=json) as host:
        common.finish(host.restore(directory, target, options), json=json)
