"""`reberth recover`: bring interrupted migrations to their end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from reberth.cli import common, params
from reberth.cli.facts import fact_lines
from reberth.cli.output import write, write_json
from reberth.config.names import check_name
from reberth.report.report import Report, render_text
from reberth_hooks import Exit, UsageError

DryRun = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Say what would be done, do nothing.", show_default=False)
]
Forward = Annotated[bool, typer.Option("--forward", help="Let the target run, if that is safe.", show_default=False)]
Rollback = Annotated[bool, typer.Option("--rollback", help="Let the source run, if that is safe.", show_default=False)]
SourceIsDead = Annotated[
    bool,
    typer.Option(
        "--source-is-dead",
        help="With --forward: the source never comes back. If it does, the workload runs twice.",
        show_default=False,
    ),
]
TargetIsGone = Annotated[
    bool,
    typer.Option(
        "--target-is-gone",
        help="With --rollback: the target never comes back. If a copy runs there, the workload runs twice.",
        show_default=False,
    ),
]
# Several runs, one exit code: the one that needs a person most.
WORST = (Exit.LOST, Exit.HELD_POST_COPY, Exit.HELD, Exit.BUG, Exit.CLEANUP_PENDING, Exit.DETACHED)


def command(
    run_id: params.AnyRunId = "",
    dry_run: DryRun = False,
    forward: Forward = False,
    rollback: Rollback = False,
    source_is_dead: SourceIsDead = False,
    target_is_gone: TargetIsGone = False,
    json: params.Json = False,
    quiet: params.Quiet = False,
    yes: params.Yes = False,
) -> None:
    """Bring interrupted migrations to their end.

    The journals prove what is right, and that is done; where they cannot, it says which decision is yours.

    \b
    reberth recover --dry-run
    reberth recover 20250131-120000-1f2e --rollback
    reberth recover 20250131-120000-1f2e --forward --source-is-dead
    """
    if forward and rollback:
        raise UsageError("--forward and --rollback exclude each other", hint="give one of the two")
    how = "forward" if forward else "rollback" if rollback else "auto"
    gone = _gone(run_id, how, source_is_dead, target_is_gone)
    with common.open_host(common.load_config(), yes=yes, quiet=quiet, json=json) as host:
        done = host.recover(check_name(run_id, "run id") if run_id else None, how, dry_run, gone)
    if json:
        write_json({"schema": 1, "runs": [_data(run) for run in done]})
    else:
        write([line for run in done for line in _lines(run)] or "nothing to recover")
    for run in done:
        if isinstance(run, Report):
            common.say_end(run)
    raise typer.Exit(_worst(int(_data(run).get("exit_code", 0)) for run in done))


def _gone(run_id: str, how: str, source_is_dead: bool, target_is_gone: bool) -> tuple[str, ...]:
    """Return the words about nodes that never come back; each is said of one run, beside what is wanted with it."""
    said = {"--source-is-dead": source_is_dead, "--target-is-gone": target_is_gone}
    words = [word for word, given in said.items() if given]
    if words and not run_id:
        raise UsageError(f"{words[0]} is said of one run", hint="give its id; to see the open ones: reberth status")
    wanted = {"--source-is-dead": "forward", "--target-is-gone": "rollback"}
    if len(words) == 1 and how != wanted[words[0]]:
        raise UsageError(f"{words[0]} goes with --{wanted[words[0]]}", hint="give both, or neither: --help")
    if len(words) == 2 and how != "auto":
        raise UsageError("with both nodes gone there is no direction", hint="give the two words without --" + how)
    return tuple(word[2:].replace("-", "_") for word in words)


def _data(run: Report | Mapping[str, Any]) -> Mapping[str, Any]:
    return run.to_json() if isinstance(run, Report) else run


def _lines(run: Report | Mapping[str, Any]) -> list[str]:
    return render_text(run).splitlines() if isinstance(run, Report) else list(fact_lines(run))


def _worst(codes: Iterable[int]) -> int:
    bad = [code for code in codes if code]
    return next((int(code) for code in WORST if code in bad), bad[0] if bad else 0)
