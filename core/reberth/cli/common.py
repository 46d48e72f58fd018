"""What the commands share: configuration, the host, options and how a run ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from reberth.cli.output import note, write, write_json
from reberth.config import config as configuration
from reberth.config.config import Config
from reberth.config.options import make_options
from reberth.report.report import Report, render_text
from reberth.report.text import where_now
from reberth.text import safe
from reberth_hooks import Options, ReberthError

if TYPE_CHECKING:
    from reberth.host import Host


def load_config(remotes: str = "") -> Config:
    """Return every layer of the configuration; with `remotes` (lxc, incus) that client's remotes are the nodes."""
    config = configuration.load()
    if not remotes:
        return config
    from reberth import lxdremotes

    return replace(config, nodes=lxdremotes.nodes(remotes))


def make_host(config: Config, *, yes: bool = False, quiet: bool = False, json: bool = False) -> Host:
    """Return the host behind every command that reaches a node; imported here because it brings the whole engine."""
    from reberth.host import Host

    return Host(config, yes=yes, quiet=quiet, json=json)


@contextmanager
def open_host(config: Config, *, yes: bool = False, quiet: bool = False, json: bool = False) -> Iterator[Host]:
    """A host that is closed at the end; trouble in closing is a warning, since it must not hide how a run ended."""
    host = make_host(config, yes=yes, quiet=quiet, json=json)
    try:
        yield host
    finally:
        try:
            host.close()
        except (ReberthError, OSError) as error:
            note(f"warning: while closing the connections: {safe(error)}")


def options_of(config: Config, **given: Any) -> Options:
    """Options from the configuration's defaults under what was given; False, None and empty lists are not given."""
    lazy = {"lazy_restore": False} if given.pop("no_lazy_restore", False) else {}
    own_words = ("force_stop", "keep_source", "lxd_mode", "lxd_pool", "snapshot_first")
    own = {word: given.pop(word) for word in own_words if given.get(word)}
    words: Mapping[str, Any] = {word: value for word, value in given.items() if value} | lazy
    return replace(make_options(config.defaults, words), backend_args=own)


def finish(report: Report, *, json: bool) -> None:
    """Print the report of a run and leave with its exit code."""
    if json:
        write_json(report.to_json())
    else:
        write(render_text(report))
    say_end(report)
    raise typer.Exit(report.exit_code)


def say_end(report: Report) -> None:
    """The last line of stderr of every run: where the workload is and the exit code, whatever became of the rest."""
    owner = safe(report.owner or "nobody")
    note(f"reberth: {safe(report.outcome or 'open')}: {where_now(report)}; owner {owner}, exit code {report.exit_code}")
