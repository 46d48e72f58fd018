"""A lab: some nodes on this machine, begun and ended together."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from reberth_lab import android, boot, cgroups, deliver, keys, layers, links, lxd, rootfs, sysctl
from reberth_lab.locks import locked
from reberth_lab.node import Node
from reberth_lab.node_namespace import NamespaceNode
from reberth_lab.proc import LabError, Say, need, run, say
from reberth_lab.site import MAX_NODES, Site, node_number
from reberth_lab.vm import arch as processors
from reberth_lab.vm import image
from reberth_lab.vm import up as virtual
from reberth_lab.vm.node import VmNode

TOOLS = (("ip", "iproute2"), ("nsenter", "util-linux"), ("setpriv", "util-linux"), ("ssh-keygen", "openssh-client"))
TOLD = (
    "criu",
    "runc",
    "python3",
    "redis-server",
    *(one.kernel for one in processors.ARCHES.values()),
)  # versions that `status` tells
NAMESPACE, VM = "namespace", "vm"
KINDS = (NAMESPACE, VM)
UP_WAIT_S = 1800  # another `up` may be making the root filesystem


AnyNode = TypeVar("AnyNode", bound=Node)


class Lab:
    """Every method can be called at any time, also after a run that was killed; all but `status` need root."""

    def __init__(self, name: str | None = None, subnet: str | None = None, *, say: Say = say) -> None:
        known = remembered(name)
        self.site = Site.of(name, subnet or known.get("subnet"))
        self.kind = str(known.get("kind", NAMESPACE))
        self.arch = str(known.get("arch", processors.X86_64))  # of virtual nodes
        self._say = say

    @staticmethod
    def default() -> Lab:
        """Return the lab of this user's environment: `REBERTH_LAB_NAME`, else the one called lab."""
        return Lab()

    @property
    def config_path(self) -> Path:
        """Return the inventory (TOML) for the outer machine."""
        return self.site.config_path

    @property
    def environment(self) -> dict[str, str]:
        """Return what a reberth on the outer machine needs to see the nodes."""
        return {"REBERTH_CONFIG": str(self.config_path)}

    def node(self, name: str) -> Node:
        """Return a node by its name (`node1`), whether it is up or not."""
        return VmNode(self.site, name) if self.kind == VM else NamespaceNode(self.site, name)

    def nodes(self) -> list[Node]:
        """Return the nodes that run."""
        base = cgroups.mount_point() / self.site.cgroup_name
        names = [path.name for path in base.glob("node*") if path.is_dir()] if base.is_dir() else []
        found = [self.node(name) for name in names]
        return sorted((node for node in found if node.alive), key=lambda node: node.number)

    def up(
        self,
        nodes: int = 2,
        *,
        kind: str | None = None,
        arch: str | None = None,
        install: bool = False,
        rebuild: bool = False,
        with_parts: Sequence[str] = (),
    ) -> None:
        """Makes sure that `nodes` nodes run and carry the present code; raises LabError and leaves `down` to clean.

        `kind` is one of KINDS; without it the lab stays what it is, which is a namespace lab when it is down.
        `arch` is the processor of virtual nodes, as `uname -m` says; x86_64 without it.
        `with_parts` are names of `layers.PARTS`; a node that runs already without them cannot get them.
        """
        require_root()
        if not 1 <= nodes <= MAX_NODES:
            raise LabError(f"{nodes} nodes are not possible", f"1 to {MAX_NODES}")
        for tool, package in TOOLS:
            need(tool, package)
        self._choose(kind or self.kind, arch or self.arch)
        layers.check(with_parts, own_kernel=self.kind == VM)
        cgroups.mount_point()
        above: list[Path] = []
        if self.kind == VM:
            disk = virtual.prepare(
                self.site, self._say, install=install, rebuild=rebuild, parts=with_parts, arch=self.arch
            )
            base = disk.disk
        else:
            base = rootfs.ensure(self.site.cache, say=self._say, install=install, rebuild=rebuild)
            above = [layers.ensure(name, self.site.cache, base, self._say) for name in with_parts]
        with locked(self.site.lock_path, wait_s=UP_WAIT_S):
            every = self._up(nodes, base, above)
            for part in with_parts:
                if layers.PARTS[part].has_daemon:
                    lxd.up(self.site, every, self._say, lxd.KINDS[part])

    def _choose(self, kind: str, arch: str) -> None:
        if kind not in KINDS:
            raise LabError(f"there is no kind {kind!r}", f"one of: {', '.join(KINDS)}")
        there = remembered(self.site.name).get("kind", kind)
        if there != kind:
            raise LabError(f"the lab {self.site.name} is of kind {there}", "reberth lab down, then up again")
        if processors.of(arch).name != processors.X86_64 and kind != VM:
            raise LabError(f"only virtual nodes can be {arch}", "reberth lab up --kind vm --arch " + arch)
        there = remembered(self.site.name).get("arch", arch)
        if there != arch:
            raise LabError(f"the nodes of the lab {self.site.name} are {there}", "reberth lab down, then up again")
        self.kind, self.arch = kind, arch

    def _up(self, count: int, base: Path, above: Sequence[Path]) -> list[Node]:
        self.site.state.mkdir(mode=0o700, exist_ok=True)
        self.site.state.chmod(0o700)
        running = {node.number for node in self.nodes()}
        names = [f"node{number}" for number in sorted(running | set(range(1, count + 1)))]
        roots = rootfs.state_roots(self.site.state)
        self._remember({name: roots.get(name, "") if node_number(name) in running else str(base) for name in names})
        keys.write_outer(self.site, names)
        links.ensure_bridge(self.site)
        every = [self.node(name) for name in names]
        if self.kind == VM:
            virtual.bring_up(image.Image(base.parent, self.arch), only(VmNode, every), names, self._say)
        else:
            self._up_namespaces(only(NamespaceNode, every), base, above)
        self._say(f"{len(every)} nodes are up: {', '.join(f'{node.name} {node.address}' for node in every)}")
        return every

    def _up_namespaces(self, every: Sequence[NamespaceNode], root: Path, above: Sequence[Path]) -> None:
        sysctl.raise_limit(self.site)
        names = [node.name for node in every]
        for node in every:
            if not node.alive:
                boot.start(node, root, boot.layer_bytes(len(names)), layers=above)
            links.ensure_veth(self.site, node.number, node.pid)
            keys.write_node(self.site, names, node.name, node.root)
        self._deliver(every)
        for node in every:
            boot.release(node)
        for node in every:
            boot.wait_for_ssh(node)

    def refresh(self) -> None:
        """Copies the present code of reberth into the nodes that run."""
        require_root()
        with locked(self.site.lock_path, wait_s=UP_WAIT_S):
            self._deliver(self.nodes())

    def _deliver(self, nodes: Sequence[Node]) -> None:
        if self.kind == VM:
            virtual.refresh(only(VmNode, nodes), [node.name for node in nodes])
            return
        what = deliver.find()
        for node in only(NamespaceNode, nodes):
            deliver.deliver(what, node.root)

    def down(self) -> None:
        """Ends all nodes and removes every trace of the lab but the cached root filesystem."""
        require_root()
        with locked(self.site.lock_path):
            cgroups.remove(cgroups.mount_point() / self.site.cgroup_name)
            links.remove_all(self.site)
            unmount_below(self.site.state)
            for directory in (self.site.state, virtual.scratch_directory(self.site)):
                shutil.rmtree(directory, ignore_errors=True)
            if self.site.state.exists():
                raise LabError(f"{self.site.state} cannot be removed")
            sysctl.put_back(self.site)

    def status(self) -> dict[str, Any]:
        """Return what is there now: `nodes` [{name, address, pid}], `left` (traces of nodes that do not run)
        and versions.
        """
        nodes = [{"name": node.name, "address": node.address, "pid": node.pid} for node in self.nodes()]
        root, versions = self._base()
        return {
            "name": self.site.name,
            "kind": self.kind,
            "arch": self.arch,
            "up": bool(nodes),
            "nodes": nodes,
            "phones": [{"name": phone.name, "serial": phone.serial} for phone in android.phones(self.site)],
            "subnet": str(self.site.subnet),
            "config": str(self.config_path) if self.config_path.exists() else None,
            "root": str(root) if root else None,
            "versions": {name: versions[name] for name in TOLD if name in versions},
            "left": [] if nodes else self._traces(),
        }

    def _base(self) -> tuple[Path | None, dict[str, str]]:
        """Return what the nodes begin with, if it is made, and the versions of the packages in it."""
        if self.kind == VM:
            disk = image.cached(self.site.cache, arch=self.arch)
            return (disk.disk, disk.versions()) if disk else (None, {})
        root = rootfs.cached(self.site.cache)
        return root, rootfs.stamp(root) if root else {}

    def _traces(self) -> list[str]:
        """Return what a killed run has left: `down` removes it."""
        places = (self.site.state, virtual.scratch_directory(self.site), cgroups.mount_point() / self.site.cgroup_name)
        paths = [str(path) for path in places if path.exists()]
        return [*paths, *links.ours(self.site), *(["fs.pipe-max-size"] if sysctl.raised_for(self.site) else [])]

    def link_down(self, name: str) -> None:
        """Unplugs a node."""
        links.set_up(self.site, self.node(name).number, False)

    def link_up(self, name: str) -> None:
        """Plugs a node in again."""
        links.set_up(self.site, self.node(name).number, True)

    def tbf(self, name: str, rate_bit_s: int | None) -> None:
        """Limits a node's link in both directions to `rate_bit_s` bits a second; None lifts the limit."""
        links.shape(self.node(name), rate_bit_s)

    def crash(self, name: str) -> None:
        """Ends a node as a power cut does; what was on its disk is gone. `up` starts it again."""
        cgroups.remove(self.node(name).cgroup)

    def _remember(self, roots: Mapping[str, str]) -> None:
        known = {"kind": self.kind, "arch": self.arch, "subnet": str(self.site.subnet)}
        data = {"name": self.site.name, **known, "roots": roots}
        part = self.site.state / f"{rootfs.STATE}.part"
        part.write_text(json.dumps(data) + "\n", encoding="utf-8")
        part.replace(self.site.state / rootfs.STATE)


def remembered(name: str | None) -> dict[str, Any]:
    """Return what the `up` that began the lab chose (`kind`, `subnet`), so that each command agrees with it."""
    try:
        data: dict[str, Any] = json.loads((Site.of(name).state / rootfs.STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data


def only(kind: type[AnyNode], nodes: Sequence[Node]) -> list[AnyNode]:
    """Return the nodes of one kind, for those who need to know: a lab has no others."""
    return [node for node in nodes if isinstance(node, kind)]


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
