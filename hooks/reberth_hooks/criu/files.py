"""Files of a process tree: those that it writes travel with it, the others must be on the target already."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Any

from reberth_hooks.criu.objects import some
from reberth_hooks.protocols import Move, Shell
from reberth_hooks.types import Check, Level, Options, Tree

MUCH_WRITTEN_BYTES = 256 << 20  # some 0.3 s of a processor that hashes 1 GB/s
COMPARED = (
    "what it has open for writing does not travel with it here: let both nodes see it on storage that they share, or "
    "run it as a container (runc) with these files in its bundle, which travels"
)
NOT_THERE = "change that on the target; what is open for writing is carried to the same path (see --files)"
NO_NAME = (
    "close them in the workload: CRIU finds no name to open them by on the target (one in the same folder travels, "
    "unless --files none)"
)
MISSING = "No such file or directory"


class Files:
    """What the plan knows of a tree's files: the checks, and what travels (`path`, `size` in bytes)."""

    def __init__(self, tree: dict[str, Any], options: Options, source: Shell, target: Shell) -> None:
        self.tree, self.node, self.source_node = tree, target.node.name, source.node.name
        self.problems = target.call("compare_files", files=tree["files"])
        self.written = {one["path"]: one for one in tree.get("written", ())}
        self.takes = options.files != "none" and source.call("files_ready") and target.call("files_ready")
        wanted = [one for one in self.written.values() if not one["network"]] if self.takes else []
        there = target.call("files_there", files=wanted) if wanted else []
        self.unfit = [one for one in there if one["problem"]]
        self.replaced = [one["path"] for one in there if not one["problem"]]
        unfit = {one["path"] for one in self.unfit}
        self.carried = [{k: one[k] for k in ("path", "size")} for one in wanted if one["path"] not in unfit]
        folders = {one["path"] for one in tree["files"] if stat.S_ISDIR(one["mode"])} if self.takes else set()
        self.folders = sorted(p["path"] for p in self.problems if p["path"] in folders and p["problem"] == MISSING)

    def checks(self) -> Iterator[Check]:
        """Yield what the plan says of them."""
        lost = sorted(set(self.tree.get("linked", ())) - (set(self.tree["linked_found"]) if self.takes else set()))
        if lost:
            text = f"open files whose name was deleted while they have another: {some(lost)}"
            yield Check("link-remap", Level.FAIL, text, NO_NAME, self.source_node)
        travel = {one["path"] for one in self.carried} | set(self.folders)
        left = [p for p in self.problems if p["path"] not in travel and p not in self.unfit]
        for mine, remedy in ((False, "put the same files on the target"), (True, COMPARED)):
            named = [p for p in left if (p["path"] in self.written) is mine]
            if named:
                text = f"files differ on the target{', open for writing' if mine else ''}: {_problems(named)}"
                yield Check("files", Level.FAIL, text, remedy, self.node)
        if self.unfit:
            text = f"files that it writes cannot be carried to the target: {_problems(self.unfit)}"
            yield Check("files", Level.FAIL, text, NOT_THERE, self.node)
        if not left and not self.unfit:
            yield Check("files", Level.OK, self._good(), "", self.node)
        if self.replaced:
            text = f"other files have these names on the target and give way: {some(self.replaced)}"
            remedy = "copy them aside there if they matter: they come back only when the move goes back"
            yield Check("files-replaced", Level.WARN, text, remedy, self.node)
        shared = self.tree.get("written_outside", ())
        if shared:
            text = f"others write to the same files: {some(shared)}"
            remedy = "what they write after the freeze stays here: move them too, or end them"
            yield Check("written-outside", Level.WARN, text, remedy, self.source_node)
        total = sum(one["size"] for one in self.written.values())
        if total >= MUCH_WRITTEN_BYTES:
            text = f"{total >> 20} MiB in files open for writing are read while it is frozen"
            remedy = "let it close the large ones, or use storage of both nodes"
            yield Check("written-files", Level.WARN, text, remedy, self.node)

    def _good(self) -> str:
        travel = {one["path"] for one in self.carried} | set(self.folders)
        same = sum(one["path"] not in travel for one in self.tree["files"])
        text = f"{same} files have the same size on the target"
        if self.carried:
            named = some(f"{one['path']} ({_size(one['size'])})" for one in self.carried)
            text += f"; {len(self.carried)} that it writes travel with it: {named}"
        elif self.written:
            text += f"; {len(self.written)} of them, open for writing, are compared by content when it is frozen"
        return text + (f"; {len(self.folders)} folders are made there" if self.folders else "")

    @property
    def details(self) -> dict[str, Any]:
        """Return what the phases need: the files and folders that travel."""
        return {"files": self.carried, "folders": self.folders, "link_remap": bool(self.tree.get("linked"))}


def _problems(named: list[dict[str, str]]) -> str:
    return some(f"{one['path']}: {one['problem']}" for one in named)


def _size(size_bytes: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size_bytes >= 10 << shift:
            return f"{size_bytes >> shift} {unit}"
    return f"{size_bytes} bytes"


def files_ahead(move: Move, pid: int) -> list[Tree]:
    """Return the first pass over the files that travel, for `reberth_sync`; none when nothing does."""
    return [Tree("files", "", "", (pid,))] if _travel(move) else []


def files_left(move: Move, pid: int) -> tuple[Tree, ...]:
    """Return the pass under the freeze: what has changed since, after which each file has its name on the target."""
    return (Tree("files-delta", "", "", (pid,)),) if _travel(move) else ()


def _travel(move: Move) -> bool:
    return bool(move.plan.details.get("files") or move.plan.details.get("folders"))
