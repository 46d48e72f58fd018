"""fs.pipe-max-size: raised while a lab is up, put back by the last one that goes down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reberth_lab.locks import locked
from reberth_lab.site import Site

LIMIT = Path("/proc/sys/fs/pipe-max-size")
WANTED_BYTES = 268_435_456
CAP_SYS_RESOURCE = 24
MEMORY = Path("/run/reberth-pipe-max-size.json")  # shared by all labs of the machine: {"old": bytes, "labs": [state]}
LOCK = MEMORY.with_suffix(".lock")


def may_exceed() -> bool:
    """Tell whether root has CAP_SYS_RESOURCE here.

    Without it criu's lazy dump fails at the limit ("page-pipe: tee").
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)
    return True


def raise_limit(site: Site) -> None:
    """Raises the limit for this lab, where it is needed; what it was is on disk before."""
    if may_exceed():
        return
    with locked(LOCK):
        memory = _read()
        now = int(LIMIT.read_text(encoding="ascii"))
        if now >= WANTED_BYTES and memory is None:
            return  # somebody else's setting, not ours to put back
        memory = memory or {"old": now, "labs": []}
        memory["labs"] = sorted({*memory["labs"], str(site.state)})
        _write(memory)
        LIMIT.write_text(str(max(now, WANTED_BYTES)), encoding="ascii")


def put_back(site: Site) -> None:
    """Forgets this lab and puts the old value back if no other lab is up."""
    if not MEMORY.exists():
        return
    with locked(LOCK):
        memory = _read()
        if memory is None:
            return
        memory["labs"] = [lab for lab in memory["labs"] if lab != str(site.state) and Path(lab).is_dir()]
        if memory["labs"]:
            _write(memory)
            return
        LIMIT.write_text(str(memory["old"]), encoding="ascii")
        MEMORY.unlink()


def raised_for(site: Site) -> bool:
    """Tell whether the limit is raised on behalf of this lab."""
    memory = _read()
    return memory is not None and str(site.state) in memory["labs"]


def _read() -> dict[str, Any] | None:
    try:
        data: dict[str, Any] = json.loads(MEMORY.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return data


def _write(memory: dict[str, Any]) -> None:
    part = MEMORY.with_suffix(".part")
    part.write_text(json.dumps(memory), encoding="utf-8")
    part.replace(MEMORY)
