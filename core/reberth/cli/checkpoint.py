"""`reberth checkpoint`: the first half of a move, into a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reberth.cli import common, params
from reberth.config.request import Request
from reberth.run.journal import make_runs_dir

Directory = Annotated[
    Path, typer.Argument(metavar="DIR", help="A new or empty directory here, or NODE:/DIR.", show_default=False)
]


def command(
    source: params.Source,
    directory: Directory,
    backend: params.Backend = "",
    tcp_established: params.TcpEstablished = False,
    tcp_close: params.TcpClose = False,
    timeout: params.Timeout = None,
    skip: params.Skip = None,
    json: params.Json = False,
    quiet: params.Quiet = False,
    yes: params.Yes = False,
) -> None:
    """Write a workload into a directory and stop it.

    `reberth restore` starts it again from there.

    \b
    reberth checkpoint pi1:web ./web.checkpoint
    reberth checkpoint pi1:web phone:/data/local/tmp/web
    """
    config = common.load_config()
    make_runs_dir()
    options = common.options_of(
        config, tcp_established=tcp_established, tcp_close=tcp_close, timeout=timeout, skip=skip
    )
    with common.open_host(config, yes=yes, quiet=quiet, json=json) as host:
        common.finish(host.checkpoint(Request(source, "", options, backend), directory), json=json)
