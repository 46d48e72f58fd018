"""A directory that behaves like a node: `checkpoint` moves a workload into it, `restore` moves it out again.

The engine, the protocol and every backend see a Shell as usual. What a node would do with a tool is answered from
memory here; what travels is written and read by a helper of this machine. The directory holds `images/`, `bundle/`
for a container, and `checkpoint.json`, signed with this controller's own key: images are code, so only what this
controller wrote is ever restored (docs/protocol.md).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reberth.config.paths import state_dir
from reberth.connect.helper import Asked, HelperShell
from reberth.connect.process import Finished
from reberth_hooks import HelperError, Node, RefusedError, Route, UsageError

NAME = "directory"
SIGNED = "checkpoint.json"
# What a survey asks of the source; its answers are kept, so that a restore can ask the target the same questions.
TAPED = ("describe", "read", "run", "stats", "cpu_dump")


class Tape(HelperShell):
    """A source whose answers to a survey are remembered."""

    @classmethod
    def of(cls, shell: HelperShell) -> Tape:
        """Turn a connected shell into one that remembers."""
        shell.__class__ = cls
        assert isinstance(shell, Tape)
        shell.answers = {}
        return shell

    answers: dict[str, Any]

    def begin(self, op: str, /, *, on_progress: Callable[..., None] | None = None, **args: Any) -> Asked:
        """As any shell, and keep the answer."""
        asked = super().begin(op, on_progress=on_progress, **args)
        if op in TAPED:
            key = _key(op, args)
            asked.future.add_done_callback(lambda f: f.exception() or self.answers.update({key: f.result()}))
        return asked


def _key(op: str, args: dict[str, Any]) -> str:
    return json.dumps([op, {k: v for k, v in args.items() if k not in ("timeout_s", "stdin")}], sort_keys=True)


class Directory(HelperShell):
    """One end of a run that is a directory; `kept` is what `checkpoint.json` holds, empty while it is written."""

    def __init__(
        self, path: Path, node: Node, route: Route, kept: dict[str, Any], peer: HelperShell | None = None
    ) -> None:
        self.path, self.kept, self.peer = path, kept, peer
        self.state: dict[str, Any] = {"role": "source" if kept else "target", "tasks": 0, "frozen": False}
        self.about: Callable[[], dict[str, Any]] = dict  # what is to be signed, known when the run is
        super().__init__(node, route)

    def call(self, op: str, /, *, timeout_s: float | None = 30.0, **args: Any) -> Any:
        """Answer as a node would; transfers go to this machine's helper, with their paths inside the directory."""
        answer = getattr(self, f"_op_{op}", None)
        if answer is not None:
            return answer(**args)
        if self.kept and op in TAPED:
            key = _key(op, args)
            if key not in self.kept["answers"]:
                raise HelperError(f"the checkpoint does not hold the answer to {op}", kind="missing")
            return self.kept["answers"][key]
        return super().call(op, timeout_s=timeout_s, **args)

    def begin(self, op: str, /, *, on_progress: Callable[..., None] | None = None, **args: Any) -> Asked:
        """The two ends of a transfer, in the directory's own places."""
        for word in ("path", "into"):
            if word in args and args.get("kind", "").startswith("filesystem"):
                args[word] = str(self.path / "bundle")
        return super().begin(op, on_progress=on_progress, **args)

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, check: bool = True, stdin: str = "") -> Finished:
        """No tool runs here: what the source's said when it was written; while writing, what kind it is."""
        if self.peer is not None and list(argv[1:2]) in (["--version"], ["check"]):
            return self.peer.run(argv, timeout_s=timeout_s, check=check)
        found = self.kept["answers"].get(_key("run", {"argv": list(argv)})) if self.kept else None
        return Finished(found["code"], found["out"], found["err"]) if found else Finished(0, "", "")

    # The operations of a node (docs/helper.md) as a directory has them

    def _op_runs(self) -> list[dict[str, Any]]:
        """No run is open in a directory; those of this machine are of other workloads."""
        return []

    def _op_hello(self) -> dict[str, Any]:
        facts: dict[str, Any] = dict(super().call("hello"))
        return {**facts, **self.kept.get("hello", {}), "pid_ns": NAME, "cgroup2": NAME, "uid": 0}

    def _op_open(self, **_: Any) -> dict[str, Any]:
        return {"dir": str(self.path), "socket": super().call("socket")}

    def _op_workdir(self, disk: bool = True, **_: Any) -> dict[str, Any]:
        if not disk:
            raise HelperError("a directory is no memory", kind="no-space")
        images = self.path / "images"
        images.mkdir(mode=0o700, parents=True, exist_ok=True)
        return {"path": str(images)}

    def _op_is_left(self, **_: Any) -> dict[str, bool]:
        return {"exists": False, "left": False}

    def _op_make_dirs(self, **_: Any) -> bool:
        (self.path / "bundle").mkdir(mode=0o700, parents=True, exist_ok=True)
        return True

    def _op_compare_files(self, **_: Any) -> list[Any]:
        return []

    _op_cpu_check = _op_compare_files

    def _op_files_ready(self) -> bool:
        """Return false: a checkpoint holds images and a bundle, no other file of a process."""
        return False

    def _op_compress_look(self, **_: Any) -> Any:
        return super().call("compress_look")  # of its memory there is nothing here to look at

    def _op_taken(self) -> dict[str, list[str]]:
        return {"tcp": [], "abstract": []}

    def _op_stats(self, paths: list[str]) -> list[Any]:
        answers = self.kept.get("answers", {})
        found: list[Any] = answers.get(_key("stats", {"paths": paths}), [None] * len(paths))
        return found

    def _op_space(self, paths: list[str]) -> dict[str, int]:
        return dict.fromkeys(paths, shutil.disk_usage(self.path).free)

    def _op_plant(self, directory: str) -> str:
        return f"{directory}/.reberth-shared-{secrets.token_hex(8)}"

    def _nothing(self, **_: Any) -> None:
        return None

    _op_pluck = _op_undo = _op_mark_left = _op_unmark_left = _op_note = _op_enclose = _op_end = _op_adopt = _nothing

    def _op_log_tails(self, **_: Any) -> dict[str, str]:
        return {}

    def _op_dump(self, **_: Any) -> dict[str, Any]:
        self.state.update(held=True, holding=True, froze=True, vote=None)
        return dict(self.kept["dump"])

    def _op_vote(self, value: str) -> dict[str, Any]:
        self.state["vote"] = self.state.get("vote") or value
        return self.state

    def _op_release(self, how: str, **_: Any) -> dict[str, Any]:
        self.state.update({"released" if how == "kill" else "resumed": True, "holding": False})
        return self.state

    def _op_restore(self, **_: Any) -> dict[str, Any]:
        self.state.update(holding=True, restoring=True)
        return {"pid": 0, "tasks": 0, "held_ns": 0, "started_ns": 0, "cgroup": ""}

    def _op_decide(self, value: str) -> dict[str, Any]:
        """PERMIT signs what was written, after which the source may go; ABORT removes it."""
        verdict = self.state.setdefault("verdict", value)
        if verdict == "PERMIT" and not self.state.get("landed"):
            write_signed(self.path, self.about())
            stamp = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self.state.update(landed=True, holding=False, running_ns=stamp)
        elif verdict == "ABORT":
            for name in ("images", "bundle"):
                shutil.rmtree(self.path / name, ignore_errors=True)
            self.state.update(taken_back=True, holding=False)
        return self.state

    def _op_finish(self) -> dict[str, Any]:
        self.state["cleaned"] = True
        return self.state

    def _op_facts(self) -> dict[str, Any]:
        return self.state


def node_like(node: Node) -> Node:
    """Return the directory in the words of the inventory: whatever the other end can do, by way of this machine."""
    return replace(node, name=NAME, address="", connector="local", become="none", wrappers=(), options={})


def _signing_key() -> bytes:
    path = state_dir() / "signing.key"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        beside = path.with_suffix(f".{secrets.token_hex(4)}")
        beside.touch(mode=0o600)
        beside.write_bytes(secrets.token_bytes(32))
        beside.rename(path)
    return path.read_bytes()


def _seal(text: str) -> str:
    return hmac.new(_signing_key(), text.encode(), hashlib.sha256).hexdigest()


def write_signed(directory: Path, about: dict[str, Any]) -> None:
    """Write `checkpoint.json`: what is there, and our seal over it."""
    text = json.dumps({**about, "files": digests(directory)}, sort_keys=True)
    path = directory / SIGNED
    path.touch(mode=0o600)
    path.write_text(json.dumps({"schema": 1, "seal": _seal(text), "checkpoint": text}) + "\n", encoding="utf-8")


def read_signed(directory: Path) -> dict[str, Any]:
    """Return what a directory holds; RefusedError unless this controller wrote it and every image is as it was."""
    try:
        document = (directory / SIGNED).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{str(directory)!a} is no checkpoint: {error}", hint="reberth checkpoint SOURCE DIR"
        ) from error
    about = unsealed(document, str(directory))
    if about["files"] != digests(directory):
        raise RefusedError(
            f"files in {str(directory)!a} are not as they were written", hint="restore from another copy"
        )
    return about


def unsealed(document: str, where: str) -> dict[str, Any]:
    """Return what a signed document says.

    RefusedError unless the seal is ours, UsageError when it is no such document.
    """
    try:
        read = json.loads(document)
        text, seal = str(read["checkpoint"]), str(read["seal"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where!a} is no checkpoint: {error}", hint="reberth checkpoint SOURCE DIR") from error
    if not hmac.compare_digest(seal, _seal(text)):
        reason = f"{where!a} was not written by this controller, or was changed"
        raise RefusedError(reason, hint="images are code: only what was checkpointed from here is restored")
    about: dict[str, Any] = json.loads(text)
    return about


def digests(directory: Path) -> dict[str, list[Any]]:
    """Type, mode, owner, size and SHA-256 of everything in a checkpoint but the signed document, by relative name."""
    found: dict[str, list[Any]] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if name == SIGNED:
            continue
        entry = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        size = 0 if path.is_dir() and not path.is_symlink() else entry.st_size
        found[name] = [entry.st_mode, entry.st_uid, entry.st_gid, size, content]
    return found
