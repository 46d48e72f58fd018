"""The real clients lxc and incus of Debian 13 with our alias: what the tab key offers in bash, zsh and fish."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator

import pytest
import roots
from livekit.terminal import Shell

from reberth_lab.chroot import Chroot

INSTANCES = ("web", "db")
REMOTES = """\
default-remote: local
remotes:
  local:
    addr: unix://
    protocol: incus
    public: false
  node2:
    addr: https://192.0.2.2:8443
    protocol: incus
    public: false
aliases: {}
"""
ENV = ["env", "-i", "PATH=/usr/bin:/bin:/usr/sbin:/sbin", "HOME=/root", "LANG=C.UTF-8"]
START = {
    "bash": [
        "PS1='$ '",
        "bind 'set enable-bracketed-paste off'",
        'bind -x \'"\\C-g": printf "<<%s>>" "$READLINE_LINE"\'',
        "source /usr/share/bash-completion/bash_completion",
    ],
    "zsh": [
        "PS1='$ '; unsetopt prompt_sp prompt_cr; setopt no_beep",
        "autoload -U compinit; compinit -u -D",
        'dump() { print -rn -- "<<$BUFFER>>" }; zle -N dump; bindkey "^G" dump; bindkey "^U" kill-whole-line',
    ],
}
ARGV = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
LINES = [
    ("incus mo", "incus move"),  # both the alias and the command of that name are offered, so no blank comes after it
    ("incus move w", "incus move web "),
    ("incus move web no", "incus move web node2:"),
    ("incus move --inc", "incus move --incremental-memory "),
    ("incus move --inst", "incus move --instance-only "),
    ("incus move --iterations 5 w", "incus move --iterations 5 web "),
    ("incus move web --mode re", "incus move web --mode relay "),
    ("incus lau", "incus launch "),
]


class Daemon(http.server.BaseHTTPRequestHandler):
    """Of a daemon only what completion asks: who it is, and the names of its instances."""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] == "/1.0":
            environment = {"server": "incus", "server_version": "6.0.4", "project": "default"}
            found: object = {"api_extensions": ["projects"], "auth": "trusted", "environment": environment}
        else:
            found = [f"/1.0/instances/{name}" for name in INSTANCES]
        body = json.dumps({"type": "sync", "status": "Success", "status_code": 200, "metadata": found}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "a socket"

    def log_message(self, *_: object) -> None:
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture(scope="module")
def stocked(home, deb) -> Iterator[Chroot]:
    """A Debian 13 with our package, both clients and every shell; a small daemon answers incus."""
    with roots.copy_of(home / "base") as chroot:
        (chroot.root / "reberth.deb").write_bytes(deb.read_bytes())
        roots.install(chroot, ["/reberth.deb", *roots.BESIDE, *roots.LXD, *roots.CLIENTS])
        for folder in (".config/incus", ".config/lxc"):
            (chroot.root / "root" / folder).mkdir(parents=True)
        (chroot.root / "root/.config/incus/config.yml").write_text(REMOTES)
        socket = chroot.root / "var/lib/incus/unix.socket"
        socket.parent.mkdir(parents=True, exist_ok=True)
        server = Server(str(socket), Daemon)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for client in ("incus", "lxc"):
            said = inside(chroot, "reberth", "lxd", "alias", "install", "--client", client)
            assert f"{client} move is reberth's now" in said
        yield chroot
        server.shutdown()
        server.server_close()


def inside(chroot: Chroot, *words: str) -> str:
    """What a program prints there, as root in a clean environment."""
    return chroot.inside([*ENV, *words])


@pytest.fixture(scope="module", params=["bash", "zsh"])
def shell(request, stocked) -> Iterator[Shell]:
    """An interactive shell in there."""
    cage = ["unshare", "-m", "-p", "-f", "--kill-child", f"--root={stocked.root}", "--mount-proc", "--wd=/root"]
    term = "TERM=xterm" if request.param == "zsh" else "TERM=dumb"
    one = Shell([*cage, *ENV, term, *ARGV[request.param]], {"PATH": "/usr/bin:/bin"}, "; ".join(START[request.param]))
    one.name = request.param
    yield one
    one.close()


@pytest.mark.parametrize(("typed", "line"), LINES, ids=[typed for typed, _ in LINES])
def test_incus_hands_its_alias_over_and_keeps_its_words(shell, typed, line):
    said = shell.line(typed)
    assert (said.rstrip() if typed == "incus mo" else said) == line


@pytest.mark.parametrize(("typed", "line"), LINES, ids=[typed for typed, _ in LINES])
def test_incus_in_fish(stocked, typed, line):
    said = inside(stocked, "fish", "-c", "complete -C $argv[1]", typed)
    assert line.split()[-1] in {text.partition("\t")[0] for text in said.splitlines()}


@pytest.mark.parametrize("shell", ["bash"], indirect=True)
def test_the_words_of_an_lxc_that_hands_nothing_over_are_its_own(shell):
    """Debian's lxc 5.0.2 has a completion of its own for bash, which knows no alias; zsh has none at all."""
    assert shell.line("lxc mov") == "lxc move "
    assert shell.line("lxc lau") == "lxc launch "


def test_lxc_in_fish(stocked):
    said = inside(stocked, "fish", "-c", "complete -C 'lxc mov'")
    assert {text.partition("\t")[0] for text in said.splitlines()} == {"move"}


def test_the_alias_goes_without_a_trace(stocked):
    """After all that uses it: the alias is gone afterwards."""
    for client in ("incus", "lxc"):
        assert f"{client} move -> " in inside(stocked, "reberth", "lxd", "alias", "status", "--client", client)
        inside(stocked, "reberth", "lxd", "alias", "remove", "--client", client)
        assert "no alias" in inside(stocked, "reberth", "lxd", "alias", "status", "--client", client)
        text = (stocked.root / f"root/.config/{client}/config.yml").read_text()
        assert "reberth" not in text and ("node2" in text or client == "lxc")
    offered = inside(stocked, "incus", "__complete", "move", "--")
    assert "--instance-only" in offered and "--incremental-memory" not in offered


def test_the_bundled_library_is_for_the_plugin_alone_and_goes_with_the_package(stocked):
    """After the alias: the package is gone afterwards."""
    program = (
        "from reberth_lxd.api import vendor; vendor.enable(); import pylxd, ws4py; "
        "print(pylxd.__version__, pylxd.__file__)"
    )
    assert inside(stocked, "python3", "-c", program).split() == ["2.4.2", "/usr/share/reberth/vendor/pylxd/__init__.py"]
    alone = "import importlib.util as u; print(u.find_spec('pylxd'), u.find_spec('ws4py'))"
    assert inside(stocked, "python3", "-c", alone).split() == ["None", "None"]
    text = (stocked.root / "usr/share/doc/reberth/copyright").read_text()
    assert "Sylvain Hellegouarch" in text and "BSD-3-clause" in text and "Canonical Ltd" in text
    inside(stocked, "apt-get", "-y", "-q", "purge", "reberth")
    assert not (stocked.root / "usr/share/reberth").exists()
