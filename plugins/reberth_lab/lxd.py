"""LXD or Incus on the nodes (`lab up --with lxd`): a daemon each, a client identity they trust, and the lab's image.

What it took was found by trial: the daemon's /tmp holds the images, containers need `lxc.console.path = none`, and
with `LXD_IDMAPPED_MOUNTS_DISABLE` unprivileged ones can be restored. The client directory (`LXD_CONF`) is the same on
the nodes and on the outer machine: remotes node1, node2, ... with their certificates pinned.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from reberth_lab import layers, rootfs
from reberth_lab.node import Node
from reberth_lab.proc import LabError, Say, run, say
from reberth_lab.site import Site

GUEST = Path(__file__).with_name("guest")
PORT = 8443
IMAGE = "counter"
INVENTORY = "/etc/reberth/config.toml"
READY_S = 90
# liblxc puts containers beside pid 1, and hands criu "init/lxc.payload.NAME" without its slash when that is in /init.
DAEMON = 'for pid in 1 0; do echo $pid >/sys/fs/cgroup/cgroup.procs; done; exec "$1" --group root --logfile "$0"'
PRESEED = """\
config: {{core.https_address: "{address}:8443", images.auto_update_interval: "0"}}
storage_pools:
- {{name: default, driver: dir}}
profiles:
- name: default
  devices:
    root: {{type: disk, path: /, pool: default}}
- name: counter
  description: what a container of the lab needs to be moved
  config: {{raw.lxc: "lxc.console.path = none"}}
"""


@dataclass(frozen=True)
class Kind:
    """What differs between the two: programs, the words of the client, and the beginning of environment variables."""

    name: str
    daemon: str
    client: str
    init: tuple[str, ...]
    trust: str

    @property
    def running(self) -> str:
        """Return the daemon's command line; not its name alone, which each container's monitor has too."""
        return f"^{self.daemon} --group root"

    @property
    def state(self) -> str:
        """Return where the daemon keeps everything."""
        return f"/var/lib/{self.name}"

    @property
    def log(self) -> str:
        """Return the daemon's log."""
        return f"/var/log/{self.name}/{self.name}.log"

    @property
    def conf(self) -> str:
        """Return the client's configuration inside a node."""
        return f"/root/.config/{self.client}"


LXD = Kind("lxd", "lxd", "lxc", ("lxd", "init"), "add")
INCUS = Kind("incus", "/usr/libexec/incus/incusd", "incus", ("incus", "admin", "init"), "add-certificate")
KINDS = {kind.name: kind for kind in (LXD, INCUS)}


def client_dir(site: Site, kind: Kind = LXD) -> Path:
    """Return the configuration of the `lxc` or `incus` client on the outer machine."""
    return site.state / kind.client


def client_program(site: Site, kind: Kind = LXD) -> Path:
    """Return the nodes' own client, which needs nothing but a libc and runs on this machine as well.

    Raises LabError.
    """
    root = rootfs.ensure(site.cache, say=say)
    return layers.ensure(kind.name, site.cache, root, say) / "usr/bin" / kind.client


def kind_of(node: Node) -> Kind:
    """Return what a node has; LXD where it has both."""
    has_lxd = node.run(["sh", "-c", "command -v lxd"], check=False).returncode == 0
    return LXD if has_lxd else INCUS


def up(site: Site, nodes: Sequence[Node], tell: Say, kind: Kind = LXD) -> None:
    """Makes sure that each node's daemon runs, is set up and knows the others; raises LabError with its log."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        fresh = list(pool.map(lambda node: _start(node, kind), nodes))
    identity = client_dir(site, kind)
    (identity / "servercerts").mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_identity(identity)
    for node in nodes:
        certificate = node.read(f"{kind.state}/server.crt")
        (identity / f"servercerts/{node.name}.crt").write_text(certificate, encoding="ascii")
    (identity / "config.yml").write_text(_remotes(nodes, kind), encoding="ascii")
    with ThreadPoolExecutor(len(nodes)) as pool:
        list(pool.map(lambda pair: _set_up(site, pair[0], pair[1], kind), zip(nodes, fresh, strict=True)))
    _enable(site, nodes)
    try_it = f"{kind.client} launch {IMAGE} c1 -p default -p counter"
    tell(f"{kind.name} runs on {', '.join(node.name for node in nodes)}; try: {try_it}")


def _enable(site: Site, nodes: Sequence[Node]) -> None:
    """Lets the inventories say that the nodes have it."""
    site.config_path.write_text(_with_lxd(site.config_path.read_text(encoding="utf-8")), "utf-8")
    for node in nodes:
        node.write(INVENTORY, _with_lxd(node.read(INVENTORY)))


def _with_lxd(text: str) -> str:
    return text.replace('backends = ["criu", "runc"]', 'backends = ["criu", "runc", "lxd"]')


def stop(node: Node) -> None:
    """Ends the daemon of a node as a crash does; containers run on."""
    node.run(["pkill", "-KILL", "-f", kind_of(node).running], check=False)


def start(node: Node) -> None:
    """Starts the daemon of a node again and waits for it."""
    _start(node, kind_of(node))


def _start(node: Node, kind: Kind) -> bool:
    """Starts the daemon unless it runs; returns whether it is new."""
    if node.run(["pgrep", "-f", kind.running], check=False).returncode == 0:
        return False
    fresh = node.run(["test", "-e", f"{kind.state}/server.crt"], check=False).returncode != 0
    shim = (GUEST / "criu-for-liblxc.sh").read_text(encoding="utf-8")
    node.write("/usr/local/sbin/criu", shim, 0o755)
    node.run(["mkdir", "-p", kind.state, f"/var/log/{kind.name}", f"/run/{kind.name}"])
    plain_maps = {f"{kind.name.upper()}_IDMAPPED_MOUNTS_DISABLE": "1"}
    node.spawn(["sh", "-c", DAEMON, kind.log, kind.daemon], log=f"/var/log/{kind.name}/daemon.out", env=plain_maps)
    done = node.run([kind.daemon, "waitready", f"--timeout={READY_S}"], check=False, timeout_s=READY_S + 30)
    if done.returncode:
        log = node.run(["tail", "-n", "5", kind.log], check=False).stdout
        raise LabError(f"{kind.name} on {node.name} does not start: {(done.stderr + log).strip()[-800:]}")
    return fresh


def _make_identity(directory: Path) -> None:
    if not (directory / "client.key").exists():
        words = ["-keyout", str(directory / "client.key.part"), "-out", str(directory / "client.crt")]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"]
        run(["openssl", "req", "-x509", *curve, "-nodes", "-sha384", "-days", "30", "-subj", "/CN=lab", *words])
        (directory / "client.key.part").rename(directory / "client.key")


def _remotes(nodes: Sequence[Node], kind: Kind) -> str:
    # Without `aliases` the client of LXD 5.0.2 panics when one is added.
    lines = ["default-remote: local", "aliases: {}", "remotes:", "  local: {addr: 'unix://', public: false}"]
    words = "addr: 'https://{}:{}', protocol: {}, public: false, auth_type: tls"
    return "\n".join([*lines, *(f"  {n.name}: {{{words.format(n.address, PORT, kind.name)}}}" for n in nodes)]) + "\n"


def _set_up(site: Site, node: Node, fresh: bool, kind: Kind) -> None:
    if fresh:
        node.run([*kind.init, "--preseed"], input=PRESEED.format(address=node.address))
    node.put(client_dir(site, kind), kind.conf)
    if fresh:
        node.run([kind.client, "config", "trust", kind.trust, f"{kind.conf}/client.crt"])
        node.write("/tmp/counter.c", (GUEST / "counter.c").read_text(encoding="utf-8"))
        node.write("/tmp/image.sh", (GUEST / "lxd-image.sh").read_text(encoding="utf-8"), 0o755)
        node.run(["/tmp/image.sh", "/tmp/counter.c", "/tmp/counter.tar.gz"])
        node.run([kind.client, "image", "import", "/tmp/counter.tar.gz", "--alias", IMAGE])
        node.run(["rm", "/tmp/counter.c", "/tmp/image.sh", "/tmp/counter.tar.gz"])
