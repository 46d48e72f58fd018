"""Behind the client's alias: a live move that we can do better is ours, all else is the native client, unchanged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from reberth_hooks import UsageError
from reberth_lxd.api import identity
from reberth_lxd.api.client import RUNNING
from reberth_lxd.api.keys import is_true
from reberth_lxd.client.native import RELAY, Words, parse, split

QUERY_S = 20
DEFAULT_PROJECT = "default"
SWITCH = "the same project at both ends: lxc project switch REMOTE:PROJECT; or --native, which leaves it to lxc"
OVERRIDE = {"incus": "INCUS_PROJECT"}  # the client of LXD looks at no such variable (5.0.2, 6.5)
GUARD = {"lxc": "LXC_ALIASES", "incus": "INCUS_ALIASES"}
Run = Callable[[Sequence[str]], str]
Known = Callable[[], Collection[str] | None]


def decide(client: str, words: Sequence[str], run: Run, known: Known = lambda: None) -> list[str] | None:
    """Return the command line of `reberth move` that does it, or None: the native client does.

    `known` answers the names of the inventory; where it lacks one of both ends, the client's own remotes are taken.
    UsageError when one of our options stands beside one that we cannot honour; nothing was touched then.
    """
    found = parse(words)
    if beside := [f"--{name}" for name in found.ours if name != "native" and "native" in found.ours]:
        raise UsageError(f"{', '.join(beside)} beside --native: the native client has no such option")
    if found.wants_native or len(found.places) != 2:
        return None
    remotes = json.loads(run([client, "remote", "list", "--format", "json"]))
    projects = _projects(client, found, remotes, run)
    if not found.ours and not _key_is_true(client, found, projects[0], run):
        return None
    if cannot := _cannot(found):
        if not found.ours:
            return None  # only the key asks for us, and the user wants what only the native client has
        raise UsageError(cannot, hint="--native leaves it to the client")
    if {*projects} != {DEFAULT_PROJECT}:
        _elsewhere(found, projects)
        return None
    (source, name), (target, _) = (split(place) for place in found.places)
    ends = [_node(remote or _default_remote(client, run), remotes) for remote in (source, target)]
    inventory = known()
    lacking = not {*ends} <= {*inventory} if inventory is not None else False
    # Only without ssh this machine can pass the data on, and what is asked for is done.
    beside = ["--remotes", client] if lacking or found.native.get("mode") == RELAY else []
    aloud = ["--debug"] if "debug" in found.native else []
    return [*aloud, "move", *_options(found), *beside, "--backend", "lxd", "--", f"{ends[0]}:{name}", f"{ends[1]}:"]


def _cannot(found: Words) -> str:
    """Return why a live move of ours is not what was said, in words; empty when it is."""
    if refused := found.refused():
        return f"not beside a live move by reberth: {'; '.join(refused)}"
    (_, name), (target, new_name) = (split(place) for place in found.places)
    if "/" in name or not target or (new_name and new_name != name):
        return (
            f"not by a live move: {'a snapshot' if '/' in name else 'no other remote' if not target else 'a new name'}"
        )
    return ""


def _elsewhere(found: Words, projects: tuple[str, str]) -> None:
    """Leave to the client what is in other projects than the default one; it says so, or refuses by UsageError.

    From one project to another LXD 5.0.2 cannot move what runs: it looks for mounts by the old name (2026-12-01).
    """
    source, target = projects
    text = f"{split(found.places[0])[1]} is in the client's project {source}, for the target that is {target}"
    if source != target:
        raise UsageError(f"{text}: no running container moves from one project to another", hint=SWITCH)
    if found.ours:
        text = f"{text}, and reberth moves in the project {DEFAULT_PROJECT} alone"
        raise UsageError(text, hint="--native leaves it to the client, which moves in its projects")
    sys.stderr.write(f"reberth: {text}; left to the client\n")


def _projects(client: str, found: Words, remotes: Mapping[str, Any], run: Run) -> tuple[str, str]:
    """Return the projects that the client means by both ends.

    `--project` counts, then the environment, then what `project switch` has set, for each remote by itself.
    """
    override = found.native.get("project") or os.environ.get(OVERRIDE.get(client, ""), "")

    def of(place: str) -> str:
        table = remotes.get(split(place)[0] or _default_remote(client, run)) or {}
        return override or str(table.get("Project") or table.get("project") or "") or DEFAULT_PROJECT

    return of(found.places[0]), of(found.places[1])


def _key_is_true(client: str, found: Words, project: str, run: Run) -> bool:
    """Tell whether it is a container that runs and has the key set; what cannot be found out is left to the client."""
    remote, name = split(found.places[0])
    if not name or "/" in name:
        return False
    place = f"/1.0/instances/{quote(name, safe='')}?project={quote(project, safe='')}"
    try:
        instance: dict[str, Any] = json.loads(run([client, "query", f"{remote}:{place}" if remote else place]))
    except (OSError, ValueError, subprocess.SubprocessError):
        return False
    running = instance.get("type") == "container" and instance.get("status_code") == RUNNING
    return bool(running and is_true(instance.get("expanded_config") or {}))


def daemons(client: str, ours: Sequence[str], run: Run) -> dict[str, str]:
    """Return the fingerprints of the daemons that the client means by both ends.

    Raise UsageError where one does not answer.
    """
    found = {}
    for place in ours[-2:]:
        remote = place.partition(":")[0]
        try:
            said = json.loads(run([client, "query", f"{remote}:/1.0"]))
            found[remote] = str(said["environment"]["certificate_fingerprint"])
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            text = f"the client cannot say which daemon its remote {remote} is: {error}"
            hint = f"by the inventory alone: reberth move --backend lxd {' '.join(ours[-2:])}"
            raise UsageError(text, hint=hint) from error
    return found


def _default_remote(client: str, run: Run) -> str:
    """Return the remote that a place without one means.

    What `lxc remote switch` has set, else this machine's daemon.
    """
    try:
        return run([client, "remote", "get-default"]).strip() or "local"
    except (OSError, subprocess.SubprocessError):
        return "local"


def _node(remote: str, remotes: Mapping[str, Any]) -> str:
    """Return the node of a remote: of the same name in the inventory; this machine for its own daemon."""
    if remote == "local":
        return "local"
    if remote not in remotes:
        raise UsageError(f"the client has no remote {remote!a}", hint="lxc remote list")
    return remote


def _options(found: Words) -> list[str]:
    words = ["--quiet"] if "quiet" in found.native else []
    for name in ("iterations", "goal"):
        words += [f"--{name}", found.ours[name]] if name in found.ours else []
    words += ["--lxd-mode", found.native["mode"]] if "mode" in found.native else []
    words += ["--lxd-pool", found.native["storage"]] if "storage" in found.native else []
    return words + (["--mode", "pre-copy"] if "incremental-memory" in found.ours else [])


def run_client(argv: Sequence[str]) -> str:
    """Output of the native client, past any alias; raises CalledProcessError."""
    env = {**os.environ, **dict.fromkeys(GUARD.values(), "1")}
    done = subprocess.run(
        list(argv), check=True, capture_output=True, text=True, timeout=QUERY_S, env=env, stdin=subprocess.DEVNULL
    )
    return done.stdout


def become(client: str, words: Sequence[str], known: Known = lambda: None) -> None:
    """Do what the alias does: become `reberth move`, or the native client with the words as they were."""
    ours = decide(client, words, run_client, known)
    if ours is None:
        os.environ.update(dict.fromkeys(GUARD.values(), "1"))
        native = [word for word in words if word != "--native"]
        os.execvp(client, [client, "move", *native])
    if "--remotes" not in ours:
        os.environ[identity.VARIABLE] = identity.handed_over(daemons(client, ours, run_client))
    os.execv(sys.executable, [sys.executable, "-P", "-m", "reberth", *ours])
