"""Arguments and options that several commands share, each with one wording."""

from __future__ import annotations

from typing import Annotated

import typer

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="[NODE:][BACKEND/]NAME", show_default=False)]
Target = Annotated[str, typer.Argument(metavar="TARGET", help="NODE: or NODE:NEWNAME", show_default=False)]
RunId = Annotated[str, typer.Argument(metavar="ID", help="The id of the run.", show_default=False)]
AnyRunId = Annotated[str, typer.Argument(metavar="ID", help="The id of one run; all without it.", show_default=False)]

ModeName = Annotated[
    str | None,
    typer.Option("--mode", metavar="MODE", help="auto, or one mode that the backend offers.", show_default=False),
]
Policy = Annotated[
    str | None,
    typer.Option("--policy", metavar="NAME", help="When pre-copy ends: downtime, lxd or fixed.", show_default=False),
]
MaxDowntime = Annotated[
    str | None,
    typer.Option(
        "--max-downtime", metavar="TIME", help="What the workload may stand still: 300ms.", show_default=False
    ),
]
Iterations = Annotated[
    str | None,
    typer.Option("--iterations", metavar="N", help="At most so many rounds before the last one.", show_default=False),
]
Goal = Annotated[
    str | None,
    typer.Option(
        "--goal",
        metavar="PERCENT",
        help="--policy lxd: end a round after more than this is copied.",
        show_default=False,
    ),
]
Bandwidth = Annotated[
    str | None,
    typer.Option(
        "--bandwidth", metavar="RATE", help="Send at most this per second: 50MiB, 100Mbit.", show_default=False
    ),
]
Compress = Annotated[
    str | None,
    typer.Option(
        "--compress",
        metavar="HOW",
        help="auto (where the measured link makes it pay), zstd, zlib or none.",
        show_default=False,
    ),
]
Files = Annotated[
    str | None,
    typer.Option(
        "--files",
        metavar="WHICH",
        help="Carry the files that a process tree writes: auto, or none (they are compared).",
        show_default=False,
    ),
]
Backend = Annotated[
    str,
    typer.Option("--backend", metavar="NAME", help="The backend, if the name alone is not clear.", show_default=False),
]
Transports = Annotated[
    list[str] | None,
    typer.Option("--transport", metavar="NAME", help="Carry the data by this; may be repeated.", show_default=False),
]
TcpEstablished = Annotated[
    bool, typer.Option("--tcp-established", help="Keep open TCP connections.", show_default=False)
]
TcpClose = Annotated[
    bool, typer.Option("--tcp-close", help="Restore open TCP connections as closed.", show_default=False)
]
MoveAddress = Annotated[
    str | None,
    typer.Option(
        "--move-address", metavar="ADDR", help="Take this address along, ADDR or ADDR/PREFIX.", show_default=False
    ),
]
Unit = Annotated[
    bool,
    typer.Option("--unit", help="It is a systemd unit: keep that from starting it again here.", show_default=False),
]
Timeout = Annotated[
    str | None,
    typer.Option("--timeout", metavar="TIME", help="Roll back if not decided by then: 90s, 5m.", show_default=False),
]
KeepImages = Annotated[bool, typer.Option("--keep-images", help="Keep the images after success.", show_default=False)]
Skip = Annotated[
    list[str] | None,
    typer.Option("--skip", metavar="CHECK", help="Go on though this check fails; may be repeated.", show_default=False),
]
Verify = Annotated[
    list[str] | None,
    typer.Option(
        "--verify",
        metavar="PROBE",
        help="Give the source up only if this succeeds on the target: exec:CMD, tcp:PORT, http://..., processes.",
        show_default=False,
    ),
]
OnFailure = Annotated[
    str | None,
    typer.Option(
        "--on-failure",
        metavar="HOW",
        help="hold or rollback: what to do when the copy failed after it was permitted to run.",
        show_default=False,
    ),
]
NoLazyRestore = Annotated[
    bool, typer.Option("--no-lazy-restore", help="Read all memory before the copy runs.", show_default=False)
]
KeepSource = Annotated[
    bool, typer.Option("--keep-source", help="lxd: keep the old instance, stopped.", show_default=False)
]
ForceStop = Annotated[
    bool,
    typer.Option("--force-stop", help="lxd, near-live: end it by force if it does not shut down.", show_default=False),
]
SnapshotFirst = Annotated[
    bool,
    typer.Option("--snapshot-first", help="lxd: take a stateful snapshot before the move.", show_default=False),
]
LxdMode = Annotated[
    str,
    typer.Option(
        "--lxd-mode", metavar="WAY", help="lxd: which daemon connects: pull, push or relay.", show_default=False
    ),
]
LxdPool = Annotated[
    str,
    typer.Option("--lxd-pool", metavar="NAME", help="lxd: another storage pool on the target.", show_default=False),
]
Remotes = Annotated[
    str,
    typer.Option(
        "--remotes",
        metavar="PROGRAM",
        help="SOURCE and TARGET are remotes of lxc or incus, over HTTPS alone.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.", show_default=False)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No plan and no progress on stderr.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", help="Agree to losses that were announced.", show_default=False)]
