"""A lab: some nodes on this machine, begun and ended together."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reberth_lab import boot, cgroups, deliver, keys, layers, links, lxd, rootfs, sysctl
from reberth_lab.locks import locked
from reberth_lab.node import Node
from reberth_lab.proc import LabError, Say, need, run, say
from reberth_lab.site import MAX_NODES, Site, node_number

TOOLS = (("ip", "iproute2"), ("nsenter", "util-linux"), ("setpriv", "util-linux"), ("ssh-keygen", "openssh-client"))
UP_WAIT_S = 1800  # another `up` may be making the root filesystem


class Lab:
    """Every method can be called at any time, also after a run that was killed; all but `status` need root."""

    def __init__(self, name: str | None = None, subnet: str | None = None, *, say: Say = say) -> None:
        self.site = Site.of(name, subnet or remembered_subnet(name))
        self._say = say

    @staticmethod
    def default() -> Lab:
        """The lab of this user's environment: `REBERTH_LAB_NAME`, else the one called lab."""
        return Lab()

    @property
    def config_path(self) -> Path:
        """The inventory (TOML) for the outer machine."""
        return self.site.config_path

    @property
    def environment(self) -> dict[str, str]:
        """What a reberth on the outer machine needs to see the nodes."""
        return {"REBERTH_CONFIG": str(self.config_path)}

    def node(self, name: str) -> Node:
        """A node by its name (`node1`), whether it is up or not."""
        return Node(self.site, name)

    def nodes(self) -> list[Node]:
        """The nodes that run."""
        base = cgroups.mount_point() / self.site.cgroup_name
        names = [path.name for path in base.glob("node*") if path.is_dir()] if base.is_dir() else []
        found = [self.node(name) for name in names]
        return sorted((node for node in found if node.alive), key=lambda node: node.number)

    def up(
        self, nodes: int = 2, *, install: bool = False, rebuild: bool = False, with_parts: Sequence[str] = ()
    ) -> None:
        """Makes sure that `nodes` nodes run and carry the present code; raises LabError and leaves `down` to clean.

        `with_parts` are names of `layers.PARTS`; a node that runs already without them cannot get them.
        """
        require_root()
        if not 1 <= nodes <= MAX_NODES:
            raise LabError(f"{nodes} nodes are not possible", f"1 to {MAX_NODES}")
        for tool, package in TOOLS:
            need(tool, package)
        layers.check(with_parts)
        cgroups.mount_point()
        root = rootfs.ensure(self.site.cache, say=self._say, install=install, rebuild=rebuild)
        above = [layers.ensure(name, self.site.cache, root, self._say) for name in with_parts]
        with locked(self.site.lock_path, wait_s=UP_WAIT_S):
            nodes_up = self._up(nodes, root, above)
            if "lxd" in with_parts:
                lxd.up(self.site, nodes_up, self._say)

    def _up(self, count: int, root: Path, above: Sequence[Path]) -> list[Node]:
        self.site.state.mkdir(mode=0o700, exist_ok=True)
        self.site.state.chmod(0o700)
        running = {node.number for node in self.nodes()}
        names = [f"node{number}" for number in sorted(running | set(range(1, count + 1)))]
        roots = rootfs.state_roots(self.site.state)
        self._remember({name: roots.get(name, "") if node_number(name) in running else str(root) for name in names})
        sysctl.raise_limit(self.site)
        keys.write_outer(self.site, names)
        links.ensure_bridge(self.site)
        every = [self.node(name) for name in names]
        for node in every:
            if node.number not in running:
                boot.start(node, root, boot.layer_bytes(len(names)), above)
            links.ensure_veth(self.site, node.number, node.pid)
            keys.write_node(self.site, names, node.name, node.root)
        self._deliver(every)
        for node in every:
            boot.release(node)
        for node in every:
            boot.wait_for_ssh(node)
        self._say(f"{len(every)} nodes are up: {', '.join(f'{node.name} {node.address}' for node in every)}")
        return every

    def refresh(self) -> None:
        """Copies the present code of reberth into the nodes that run."""
        require_root()
        with locked(self.site.lock_path, wait_s=UP_WAIT_S):
            self._deliver(self.nodes())

    def _deliver(self, nodes: Sequence[Node]) -> None:
        what = deliver.find()
        for node in nodes:
            deliver.deliver(what, node.root)

    def down(self) -> None:
        """Ends all nodes and removes every trace of the lab but the cached root filesystem."""
        require_root()
        with locked(self.site.lock_path):
            cgroups.remove(cgroups.mount_point() / self.site.cgroup_name)
            links.remove_all(self.site)
            unmount_below(self.site.state)
            shutil.rmtree(self.site.state, ignore_errors=True)
            if self.site.state.exists():
                raise LabError(f"{self.site.state} cannot be removed")
            sysctl.put_back(self.site)

    def status(self) -> dict[str, Any]:
        """What is there now: `nodes` [{name, address, pid}], `left` (traces of nodes that do not run) and versions."""
        nodes = [{"name": node.name, "address": node.address, "pid": node.pid} for node in self.nodes()]
        root = rootfs.cached(self.site.cache)
        versions = rootfs.stamp(root) if root else {}
        return {
            "name": self.site.name,
            "kind": "namespace",
            "up": bool(nodes),
            "nodes": nodes,
            "subnet": str(self.site.subnet),
            "config": str(self.config_path) if self.config_path.exists() else None,
            "root": str(root) if root else None,
            "versions": {
                name: versions[name] for name in ("criu", "runc", "python3", "redis-server") if name in versions
            },
            "left": [] if nodes else self._traces(),
        }

    def _traces(self) -> list[str]:
        """What a killed run has left: `down` removes it."""
        base = cgroups.mount_point() / self.site.cgroup_name
        paths = [str(path) for path in (self.site.state, base) if path.exists()]
        return [*paths, *links.ours(self.site), *(["fs.pipe-max-size"] if sysctl.raised_for(self.site) else [])]

    def link_down(self, name: str) -> None:
        """Unplugs a node."""
        links.set_up(self.site, self.node(name).number, False)

    def link_up(self, name: str) -> None:
        """Plugs a node in again."""
        links.set_up(self.site, self.node(name).number, True)

    def tbf(self, name: str, rate_bit_s: int | None) -> None:
        """Limits a node's link in both directions to `rate_bit_s` bits a second; None lifts the limit."""
        node = self.node(name)
        links.shape(self.site, node.number, node.pid, rate_bit_s)

    def crash(self, name: str) -> None:
        """Ends a node as a power cut does; what was on its disk is gone. `up` starts it again."""
        cgroups.remove(self.node(name).cgroup)

    def _remember(self, roots: Mapping[str, str]) -> None:
        data = {"name": self.site.name, "subnet": str(self.site.subnet), "roots": roots}
        part = self.site.state / f"{rootfs.STATE}.part"
        part.write_text(json.dumps(data) + "\n", encoding="utf-8")
        part.replace(self.site.state / rootfs.STATE)


def remembered_subnet(name: str | None) -> str | None:
    """The subnet with which the lab is up, so that each command agrees with the `up` that chose it."""
    try:
        data = json.loads((Site.of(name).state / rootfs.STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(data["subnet"])


def unmount_below(directory: Path) -> None:
    """Undoes mounts in the outer mount namespace; there are none unless somebody made some by hand."""
    for line in reversed(Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()):
        target = line.split()[4]
        if target == str(directory) or target.startswith(f"{directory}/"):
            run(["umount", "-l", "--", target], check=False)


def require_root() -> None:
    """Raises LabError for other users: namespaces, bridges and mounts need root."""
    if os.geteuid() != 0:
        raise LabError("the lab makes namespaces, links and mounts: it needs root", "sudo reberth lab ...")
