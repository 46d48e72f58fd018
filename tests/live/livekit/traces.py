"""Everything on this machine that names a lab: a lab that is down must have left nothing of it."""

from __future__ import annotations

from pathlib import Path

from reberth_lab import cgroups, links, sysctl
from reberth_lab.site import Site
from reberth_lab.vm.up import scratch_directory


def traces(site: Site) -> list[str]:
    """Paths, links, cgroups, mounts in any namespace, processes; empty when there is nothing."""
    places = (site.state, site.lock_path, scratch_directory(site), cgroups.mount_point() / site.cgroup_name)
    found = [str(path) for path in places if path.exists()]
    prefixes = (f"{site.tag}-", f"{site.tag}_")
    found += [path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(prefixes)]
    found += [site.bridge] if links.exists(site.bridge) else []
    for process in Path("/proc").glob("[0-9]*"):
        if not cgroups.has_namespaces(int(process.name)):  # a zombie: it waits for the machine's init, not for the lab
            continue
        for name in ("mountinfo", "cgroup"):
            try:
                text = (process / name).read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            found += [f"{process.name}: {line}" for line in text.splitlines() if f"/{site.state.name}/" in line]
    return found + (["fs.pipe-max-size"] if sysctl.raised_for(site) else [])
