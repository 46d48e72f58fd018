"""`reberth set`: change an open migration."""

from __future__ import annotations

from typing import Annotated

import typer

from reberth.cli import common, params
from reberth.cli.facts import fact_lines
from reberth.cli.output import write, write_json
from reberth.config.names import check_name
from reberth.config.options import read
from reberth_hooks import Mode, UsageError

Changes = Annotated[
    list[str], typer.Argument(metavar="KEY=VALUE...", help="bandwidth=RATE, compress=HOW, mode=post-copy.")
]
KEYS = ("bandwidth", "compress", "mode")
MODES = (Mode.POST_COPY, Mode.STOP_AND_COPY)


def command(run_id: params.RunId, changes: Changes, json: params.Json = False) -> None:
    """Change an open migration while it runs.

    A limit and a compression hold from the next piece of data on. A mode ends the rounds of a pre-copy: the next one
    is the last, with the pages left behind (post-copy) or not (stop-and-copy).

    \b
    reberth set 20250131-120000-1f2e bandwidth=20MiB
    reberth set 20250131-120000-1f2e compress=zstd
    reberth set 20250131-120000-1f2e mode=post-copy
    """
    wanted = dict(_change(word) for word in changes)
    with common.open_host(common.load_config(), json=json) as host:
        answer = host.change(check_name(run_id, "run id"), wanted)
    if json:
        write_json({"schema": 1, **answer})
    else:
        write(fact_lines(answer))


def _change(word: str) -> tuple[str, object]:
    key, equals, value = word.partition("=")
    if not equals or key not in KEYS:
        raise UsageError(f"{word!a} cannot be set", hint=f"KEY=VALUE, with a KEY of {', '.join(KEYS)}")
    field, got = read(key, value, "set")
    if key == "mode" and got not in MODES:
        raise UsageError(f"a run cannot become {got}", hint=f"mode={' or mode='.join(MODES)}")
    return field, got.value if isinstance(got, Mode) else got
