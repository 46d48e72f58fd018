"""Keys, pinned host keys and inventories of a lab: made once per lab, the same for the outer machine and the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reberth_lab.proc import run
from reberth_lab.site import Site, node_number

NODE_IDENTITY = "/root/.ssh/id_ed25519"
NODE_KNOWN_HOSTS = "/root/.ssh/known_hosts"


def ensure_key(path: Path, comment: str) -> str:
    """Return the public half of the key at `path`, which is made if it is not there."""
    if not path.exists():
        part = path.with_name(f"{path.name}.part")
        for half in (part, part.with_name(f"{part.name}.pub")):
            half.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(part)])
        part.with_name(f"{part.name}.pub").rename(path.with_name(f"{path.name}.pub"))
        part.rename(path)
    return path.with_name(f"{path.name}.pub").read_text(encoding="ascii").strip()


def host_key(site: Site, node: str) -> Path:
    """Return the private host key of a node."""
    return site.state / "keys" / node


def known_hosts(site: Site, nodes: Sequence[str]) -> str:
    """Return all nodes' host keys by name and address (sshd(8), known_hosts)."""
    lines = []
    for node in nodes:
        kind, key = ensure_key(host_key(site, node), node).split()[:2]
        lines.append(f"{node},{site.address(node_number(node))} {kind} {key}\n")
    return "".join(lines)


def inventory(site: Site, nodes: Sequence[str], *, inside: bool) -> str:
    """Return the configuration that lists the nodes, with the paths valid inside a node or on the outer machine."""
    identity = NODE_IDENTITY if inside else str(site.state / "id_ed25519")
    pinned = NODE_KNOWN_HOSTS if inside else str(site.state / "known_hosts")
    parts = [
        f'[nodes.{node}]\naddress = "{site.address(node_number(node))}"\n'
        'backends = ["criu", "runc"]\ntransports = ["ssh"]\n'
        f'[nodes.{node}.ssh]\nuser = "root"\nidentity = "{identity}"\nknown_hosts = "{pinned}"\ndirect = true\n'
        for node in nodes
    ]
    return "\n".join(parts)


def hosts(site: Site, nodes: Sequence[str]) -> str:
    """/etc/hosts of the nodes."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    return "\n".join([*lines, *(f"{site.address(node_number(node))} {node}" for node in nodes)]) + "\n"


def write_outer(site: Site, nodes: Sequence[str]) -> None:
    """Client key, known_hosts and inventory for the outer machine, below the state directory."""
    (site.state / "keys").mkdir(mode=0o700, exist_ok=True)
    ensure_key(site.state / "id_ed25519", "lab")
    _write(site.state / "known_hosts", known_hosts(site, nodes))
    _write(site.config_path, inventory(site, nodes, inside=False))


# The rest is as Debian has it: UsePAM, penalties for connections without a login, MaxStartups, root's login by a key.
SSHD_CONFIG = "HostKey /etc/ssh/ssh_host_ed25519_key\n"


def write_node(site: Site, nodes: Sequence[str], node: str, root: Path) -> None:
    """Everything that names or lets in the other nodes, below `root`, the node's root."""
    public = ensure_key(site.state / "id_ed25519", "lab")
    own = host_key(site, node)
    for directory, mode in (("root/.ssh", 0o700), ("etc/reberth", 0o755), ("etc/ssh/sshd_config.d", 0o755)):
        (root / directory).mkdir(mode=mode, parents=True, exist_ok=True)
    _write(root / "etc/ssh/ssh_host_ed25519_key", own.read_text(encoding="ascii"))
    _write(root / "etc/ssh/ssh_host_ed25519_key.pub", ensure_key(own, node) + "\n", 0o644)
    _write(root / "etc/ssh/sshd_config.d/lab.conf", SSHD_CONFIG, 0o644)
    _write(root / "root/.ssh/authorized_keys", public + "\n")
    _write(root / "root/.ssh/id_ed25519", (site.state / "id_ed25519").read_text(encoding="ascii"))
    _write(root / "root/.ssh/id_ed25519.pub", public + "\n", 0o644)
    _write(root / "root/.ssh/known_hosts", known_hosts(site, nodes))
    _write(root / "etc/reberth/config.toml", inventory(site, nodes, inside=True), 0o644)
    _write(root / "etc/hosts", hosts(site, nodes), 0o644)
    _write(root / "etc/hostname", f"{node}\n", 0o644)
    _write(
        root / "etc/resolv.conf", "", 0o644
    )  # there is no way out of the lab: a name server would only be waited for


def _write(path: Path, text: str, mode: int = 0o600) -> None:
    """Replaces `path` in one step; its mode is right before its content is there."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    part.touch(mode=mode)
    part.chmod(mode)
    part.write_text(text, encoding="utf-8")
    part.replace(path)
