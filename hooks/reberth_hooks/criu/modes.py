"""Which modes two nodes can do for one workload, and why not: shared by the backends that drive CRIU."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from reberth_hooks.criu.preflight import lazy_restore
from reberth_hooks.protocols import Move
from reberth_hooks.types import Check, Level, Mode, Round

# Since 4.2 CRIU's page messages are 32 bytes long, before that 24, and nothing tells one from the other on the wire.
NEW_HEADER, OLD_HEADER_BYTES, NEW_HEADER_BYTES = (4, 2), 24, 32
# CRIU tees whole pipes of 819 pages when it serves them; the kernel rounds that up (criu/include/page-pipe.h).
LEAST_PIPE_BYTES = 4 << 20
CAP_SYS_RESOURCE = 1 << 24
LEAST_GUARD_KERNEL = (5, 6)  # pidfd_getfd(2)


def header_bytes(criu_version: Any) -> int:
    """Return how long the head of a page message of this CRIU is."""
    return NEW_HEADER_BYTES if tuple(criu_version or ()) >= NEW_HEADER else OLD_HEADER_BYTES


def lazy_words(move: Move, backend: str) -> dict[str, Any]:
    """Return what the target's `restore` is told about pages that come when the copy runs already: all, or nothing
    lazy.

    From the source (a lazy dump), from the rounds' images on the target, which CRIU itself would read before, or from
    one whole image, which CRIU's daemon reads alone.
    """
    dump = move.recall("dump")
    rounds, follow = dump.get("rounds", 0), bool(dump.get("lazy"))
    size = move.plan.details.get("memory_bytes", 0) if rounds else dump["pages_bytes"]
    if not follow and not lazy_restore(move.plan, backend, size):
        return {"lazy": False}
    if not follow and not rounds:
        return {"lazy": True}
    header = header_bytes(criu_version(move.plan.facts, "target", backend))
    return {"lazy": True, "header_bytes": header, **({} if follow else {"follow": False})}


def parent_of(round: Round) -> str:
    """Return the images of the round before, as seen from this round's; empty for the first."""
    return f"../round-{round.index - 1}" if round.index else ""


def final_place(move: Move, round: Round) -> None:
    """Decide where the final round's images go: beside those of the rounds before it, if there were any."""
    if not round.index:
        return
    link_parent(move, round.index - 1)
    for side, shell in (("source", move.source), ("target", move.target)):
        place = f"{move.recall(f'images.{side}')}/final"
        shell.call("make_dirs", path=place, mode=0o700)
        move.note(f"images.{side}", place)


def link_parent(move: Move, index: int) -> None:
    """CRIU's link from a round's images to those before, made on the target, since links do not travel."""
    if index > 0:
        directory = f"{move.recall('images.target')}/round-{index}"
        move.target.call("parent_link", directory=directory, parent=f"../round-{index - 1}", complete=True)


def link_final(move: Move) -> None:
    """The same for the final round's images."""
    rounds = (move.recall("dump") or {}).get("rounds", 0)
    if rounds:
        move.target.call("parent_link", directory=move.recall("images.target"), parent=f"../round-{rounds - 1}")


def unfit_modes(facts: Mapping[str, Any], backend: str, tree: Mapping[str, Any], tcp: Any) -> dict[str, Check]:
    """For each mode that cannot be, the check that says why; `facts` as the planner collects them for both sides."""
    lazy = next(_lazy_checks(facts, backend, tree, tcp), None)
    found = {mode.value: lazy for mode in (Mode.POST_COPY, Mode.HYBRID) if lazy is not None}
    if not (facts["source"][backend].get("features") or {}).get("mem_dirty_track"):
        text = "the source's kernel does not track written pages (CONFIG_MEM_SOFT_DIRTY)"
        soft_dirty = _fail("soft-dirty", text, "a kernel with it (x86_64, ppc64le, s390x); or --mode post-copy")
        found |= {mode.value: soft_dirty for mode in (Mode.PRE_COPY, Mode.HYBRID)}
    return found


def criu_version(facts: Mapping[str, Any], side: str, backend: str) -> tuple[int, ...]:
    """CRIU's version as the backend's probe of that side tells it."""
    probe = facts[side].get(backend) or {}
    return tuple(probe.get("criu") or probe.get("version") or ())


def _lazy_checks(facts: Mapping[str, Any], backend: str, tree: Mapping[str, Any], tcp: Any) -> Iterator[Check]:
    """Yield what forbids that pages follow a running copy."""
    hello = {side: facts[side]["hello"] for side in ("source", "target")}
    versions = [criu_version(facts, side, backend) for side in ("source", "target")]
    for side in ("source", "target"):
        if not (facts[side][backend].get("features") or {}).get("uffd-noncoop"):
            text = f"the {side}'s kernel or criu cannot let pages follow (userfaultfd, uffd-noncoop)"
            yield _fail("userfaultfd", text, "a kernel with CONFIG_USERFAULTFD, and criu 3.5 or newer")
    if header_bytes(versions[0]) != header_bytes(versions[1]):
        both = " and ".join(".".join(map(str, v)) for v in versions)
        yield _fail("page-header", f"criu {both} write page messages of different forms", "install the same criu")
    if _kernel(hello["target"]) < LEAST_GUARD_KERNEL:
        text = f"kernel {hello['target'].get('kernel')} of the target cannot guard missing pages (pidfd_getfd)"
        yield _fail("guardian", text, "a kernel from 5.6 on")
    room = int(hello["source"].get("pipe_max_bytes") or 0)
    if room < LEAST_PIPE_BYTES and not int(hello["source"].get("cap_eff", 0)) & CAP_SYS_RESOURCE:
        text = f"fs.pipe-max-size is {room}, and this root lacks CAP_SYS_RESOURCE: criu could not serve its pages"
        yield _fail("pipe-max-size", text, f"on the source: sysctl -w fs.pipe-max-size={LEAST_PIPE_BYTES}")
    if "tcp-established" in tcp:
        text = "its TCP connections would be lost if it had to run again on the source after all"
        yield _fail("post-copy-tcp", text, "--mode stop-and-copy keeps them; --tcp-close gives them up")
    if tree.get("shared_locks"):
        text = f"it locks files on storage that both nodes share: {ascii(tree['shared_locks'][0])[1:-1]}"
        yield _fail("post-copy-locks", text, "--mode stop-and-copy, or let go of the locks")


def _kernel(hello: Mapping[str, Any]) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", str(hello.get("kernel", "")))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _fail(id: str, reason: str, remedy: str) -> Check:
    return Check(id, Level.FAIL, reason, remedy)
