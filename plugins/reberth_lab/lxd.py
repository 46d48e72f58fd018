"""LXD on the nodes (`lab up --with lxd`): a daemon each, one client identity that both trust, and the lab's image.

What it took was found by trial: the daemon's /tmp holds the images, containers need `lxc.console.path = none`, and
with `LXD_IDMAPPED_MOUNTS_DISABLE` unprivileged ones can be restored. The client directory (`LXD_CONF`) is the same on
the nodes and on the outer machine: remotes node1, node2, ... with their certificates pinned.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reberth_lab import layers, rootfs
from reberth_lab.node import Node
from reberth_lab.proc import LabError, Say, run, say
from reberth_lab.site import Site

GUEST = Path(__file__).with_name("guest")
PORT = 8443
IMAGE = "counter"
INSIDE_CONF = "/root/.config/lxc"
INVENTORY = "/etc/reberth/config.toml"
READY_S = 90
# liblxc puts containers beside pid 1, and hands criu "init/lxc.payload.NAME" without its slash when that is in /init.
DAEMON = 'for pid in 1 0; do echo $pid >/sys/fs/cgroup/cgroup.procs; done; exec lxd --group root --logfile "$0"'
RUNNING = "^lxd --group root"  # not by the name alone: each container's monitor has it too
DAEMON_LOG = "/var/log/lxd/lxd.log"
DAEMON_ENV = {"LXD_IDMAPPED_MOUNTS_DISABLE": "1"}
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


def client_dir(site: Site) -> Path:
    """The configuration of the `lxc` client on the outer machine."""
    return site.state / "lxc"


def client_program(site: Site) -> Path:
    """The nodes' own `lxc`, which needs nothing but a libc and runs on this machine as well; raises LabError."""
    root = rootfs.ensure(site.cache, say=say)
    return layers.ensure("lxd", site.cache, root, say) / "usr/bin/lxc"


def up(site: Site, nodes: Sequence[Node], tell: Say) -> None:
    """Makes sure that each node's daemon runs, is set up and knows the others; raises LabError with its log."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        fresh = list(pool.map(_start, nodes))
    identity = client_dir(site)
    (identity / "servercerts").mkdir(mode=0o700, parents=True, exist_ok=True)
    _make_identity(identity)
    for node in nodes:
        certificate = node.read("/var/lib/lxd/server.crt")
        (identity / f"servercerts/{node.name}.crt").write_text(certificate, encoding="ascii")
    (identity / "config.yml").write_text(_remotes(nodes), encoding="ascii")
    with ThreadPoolExecutor(len(nodes)) as pool:
        list(pool.map(lambda pair: _set_up(site, *pair), zip(nodes, fresh, strict=True)))
    _enable(site, nodes)
    tell(f"lxd runs on {', '.join(node.name for node in nodes)}; try: lxc launch counter c1 -p default -p counter")


def _enable(site: Site, nodes: Sequence[Node]) -> None:
    """Lets the inventories say that the nodes have it."""
    site.config_path.write_text(_with_lxd(site.config_path.read_text(encoding="utf-8")), "utf-8")
    for node in nodes:
        node.write(INVENTORY, _with_lxd(node.read(INVENTORY)))


def _with_lxd(text: str) -> str:
    return text.replace('backends = ["criu", "runc"]', 'backends = ["criu", "runc", "lxd"]')


def stop(node: Node) -> None:
    """Ends the daemon of a node as a crash does; containers run on."""
    node.run(["pkill", "-KILL", "-f", RUNNING], check=False)


def start(node: Node) -> None:
    """Starts the daemon of a node again and waits for it."""
    _start(node)


def _start(node: Node) -> bool:
    """Starts the daemon unless it runs; answers whether it is new."""
    if node.run(["pgrep", "-f", RUNNING], check=False).returncode == 0:
        return False
    fresh = node.run(["test", "-e", "/var/lib/lxd/server.crt"], check=False).returncode != 0
    shim = (GUEST / "criu-for-liblxc.sh").read_text(encoding="utf-8")
    node.write("/usr/local/sbin/criu", shim, 0o755)
    node.run(["mkdir", "-p", "/var/lib/lxd", "/var/log/lxd"])
    node.spawn(["sh", "-c", DAEMON, DAEMON_LOG], log="/var/log/lxd/daemon.out", env=DAEMON_ENV)
    done = node.run(["lxd", "waitready", f"--timeout={READY_S}"], check=False, timeout_s=READY_S + 30)
    if done.returncode:
        log = node.run(["tail", "-n", "5", DAEMON_LOG], check=False).stdout
        raise LabError(f"lxd on {node.name} does not start: {(done.stderr + log).strip()[-800:]}")
    return fresh


def _make_identity(directory: Path) -> None:
    if not (directory / "client.key").exists():
        words = ["-keyout", str(directory / "client.key.part"), "-out", str(directory / "client.crt")]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"]
        run(["openssl", "req", "-x509", *curve, "-nodes", "-sha384", "-days", "30", "-subj", "/CN=lab", *words])
        (directory / "client.key.part").rename(directory / "client.key")


def _remotes(nodes: Sequence[Node]) -> str:
    # Without `aliases` the client of LXD 5.0.2 panics when one is added.
    lines = ["default-remote: local", "aliases: {}", "remotes:", "  local: {addr: 'unix://', public: false}"]
    words = "addr: 'https://{}:{}', protocol: lxd, public: false, auth_type: tls"
    return "\n".join([*lines, *(f"  {n.name}: {{{words.format(n.address, PORT)}}}" for n in nodes)]) + "\n"


def _set_up(site: Site, node: Node, fresh: bool) -> None:
    if fresh:
        node.run(["lxd", "init", "--preseed"], input=PRESEED.format(address=node.address))
    node.put(client_dir(site), INSIDE_CONF)
    if fresh:
        node.run(["lxc", "config", "trust", "add", f"{INSIDE_CONF}/client.crt"])
        node.write("/tmp/counter.c", (GUEST / "counter.c").read_text(encoding="utf-8"))
        node.write("/tmp/image.sh", (GUEST / "lxd-image.sh").read_text(encoding="utf-8"), 0o755)
        node.run(["/tmp/image.sh", "/tmp/counter.c", "/tmp/counter.tar.gz"])
        node.run(["lxc", "image", "import", "/tmp/counter.tar.gz", "--alias", IMAGE])
        node.run(["rm", "/tmp/counter.c", "/tmp/image.sh", "/tmp/counter.tar.gz"])
