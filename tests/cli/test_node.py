from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import reberth_local
import reberth_ssh
from reberth.commands import host_key
from reberth.config import config
from reberth_hooks import Declaration, Mode, Role, UnreachableError, hookimpl

# A throw-away key made for this test; the fingerprint is that of `ssh-keygen -lf`.
KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIPTkjS0y2uGPsFBx2U1tHPZXgAJX3YOr0mpVtaGAK7pZ"


def backend(usable):
    module = ModuleType("fake_backend")

    @hookimpl
    def reberth_describe():
        return Declaration("fakes", frozenset({Role.BACKEND}), modes=frozenset({Mode.STOP_AND_COPY}))

    @hookimpl
    def reberth_probe(node, shell):
        return usable

    def never():
        raise AssertionError

    module.reberth_describe, module.reberth_probe = reberth_describe, reberth_probe
    for hook in ("list", "survey", "prepare", "checkpoint", "restore", "commit", "rollback"):
        setattr(module, f"reberth_{hook}", hookimpl(lambda: never()))
    return module


class Ssh:
    """An ssh whose node has `keys`, the preferred first; `knows` are lines of the user's own known_hosts file."""

    def __init__(self, tmp_path):
        self.ran, self.name, self.err, self.settings, self.of_a_jump_host = [], "[pi2.lan]:2222", "", {}, ""
        self.keys = {"ssh-ed25519": KEY, "ssh-rsa": KEY[:-4] + "AAAA"}
        self.knows = tmp_path / "known"
        self.knows.write_text("")

    def run_local(self, argv, **_):
        self.ran.append(list(argv))
        if argv[0] == "ssh-keygen":
            text = Path(argv[argv.index("-f") + 1]).read_text()
            lines = [line for line in text.splitlines() if line.split()[0] in (argv[2], "*")]
            return SimpleNamespace(code=0, out="\n".join(lines), err="")
        if argv[1] == "-G":
            told = {"hostname": "pi2.lan", "port": "2222", "userknownhostsfile": f"{self.knows} none"} | self.settings
            return SimpleNamespace(code=0, out="".join(f"{k} {v}\n" for k, v in told.items()), err="")
        Path(argv[argv.index("-E") + 1]).write_text(self.look([w for w in argv if "=" in w]))
        return SimpleNamespace(code=255, out="", err=self.of_a_jump_host)

    def look(self, options):
        """What ssh does with a key that is in none of its files: it writes it into the first of them."""
        if not self.keys:
            return "debug1: OpenSSH\n" + self.err
        first, *files = re.findall('"([^"]*)"', next(w for w in options if w.startswith("UserKnownHostsFile")))
        wanted = "".join(w for w in options if w.startswith("HostKeyAlgorithms")).replace("rsa-sha2", "ssh-rsa")
        kind = next((kind for kind in self.keys if not wanted or kind in wanted), "")
        for file in files:
            for number, line in enumerate(Path(file).read_text().splitlines(), 1):
                if self.keys[kind] in line:
                    return f"debug1: Host 'x' is known and matches\ndebug1: Found key in {file}:{number}\n"
                if kind in line:
                    return "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.\n"
        if kind:
            Path(first).write_text(f"{self.name} {kind} {self.keys[kind]}\n")
        return "pi@pi2.lan: Permission denied (publickey).\n"

    @property
    def looks(self):
        return [argv for argv in self.ran if "PreferredAuthentications=none" in argv]


@pytest.fixture
def ssh(world, make, monkeypatch, tmp_path):
    """A node that has two keys, and one usable backend of two."""
    fake = Ssh(tmp_path)
    monkeypatch.setattr(host_key, "run_local", fake.run_local)
    world.answers = {
        "plugins": {
            "runc": backend({"usable": True}),
            "criu": backend({"usable": False, "reason": "no criu there"}),
            "ssh": reberth_ssh,
            "local": reberth_local,
        },
        "shell": {"pi2": make.hello},
    }
    world.fake = fake
    return world


def wrapper(usable=None):
    """A wrapper that probes, or (None) one that does not and is left to the user."""
    module = ModuleType("fake_wrapper")
    module.reberth_describe = hookimpl(lambda: Declaration("wraps", frozenset({Role.WRAPPER})))
    if usable is not None:
        module.reberth_probe = hookimpl(lambda: {"usable": usable, "reason": "not as this user"})
    return module


def test_add_enables_the_wrappers_that_say_they_are_usable(ssh):
    ssh.answers["plugins"] |= {"address": wrapper(True), "quiet": wrapper(), "picky": wrapper(False)}
    result = ssh.run("node", "add", "pi2", "--yes")
    assert result.exit_code == 0, result.stderr
    assert "enabled      runc, address" in result.stdout and "picky: not as this user" in result.stderr
    assert config.load().node("pi2").wrappers == ("address",)


def fingerprint(line=f"x ssh-ed25519 {KEY}"):
    return host_key.parse(line).fingerprint


def test_add_pins_probes_and_stores(ssh):
    result = ssh.run("node", "add", "pi2", "192.0.2.2", "--user", "pi", "--become", "sudo", "--yes")
    assert result.exit_code == 0, result.stderr
    assert "enabled      runc" in result.stdout and "no criu there" in result.stderr and fingerprint() in result.stderr
    pinned = ssh.tmp / "config" / "known_hosts.d" / "pi2"
    assert pinned.read_text() == f"[pi2.lan]:2222 ssh-ed25519 {KEY}\n"
    node = config.load().node("pi2")
    assert (node.address, node.become, node.backends, node.transports) == ("192.0.2.2", "sudo", ("runc",), ("ssh",))
    assert node.options_of("ssh") == {"user": "pi", "known_hosts": str(pinned)}
    (look,) = ssh.fake.looks
    assert look[0] == "ssh" and look[-5:] == ["-l", "pi", "--", "192.0.2.2", "true"]
    assert look.index("StrictHostKeyChecking=accept-new") < look.index("StrictHostKeyChecking=yes")
    assert ssh.run("node", "add", "pi2", "--yes").exit_code == 2
    assert ssh.run("node", "rm", "pi2").exit_code == 0
    assert not pinned.exists() and "pi2" not in config.load().nodes


def test_the_path_of_a_private_key_becomes_absolute(ssh, monkeypatch):
    monkeypatch.chdir(ssh.tmp)
    assert ssh.run("node", "add", "pi2", "--identity", "key", "--yes").exit_code == 0
    assert config.load().node("pi2").options_of("ssh")["identity"] == str(ssh.tmp / "key")


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 12), ("", 12)])
def test_the_key_is_asked_for(ssh, answer, code):
    result = ssh.run("node", "add", "pi2", stdin=answer)
    assert result.exit_code == code
    assert fingerprint() in result.stderr and ("pi2" in config.load().nodes) == (code == 0)


def test_the_fingerprint_is_compared_with_every_key(ssh):
    rsa = fingerprint(f"x ssh-rsa {KEY[:-4]}AAAA")
    code, document = ssh.json("node", "add", "pi2", "--fingerprint", rsa, "--port", "2222", "--json")
    assert code == 0 and document["node"]["backends"] == ["runc"] and document["unusable"] == {"criu": "no criu there"}
    assert "ssh-rsa" in (ssh.tmp / "config" / "known_hosts.d" / "pi2").read_text()
    assert ssh.fake.ran[0][:2] == ["ssh", "-G"] and ssh.fake.ran[0][-4:] == ["-p", "2222", "--", "pi2"]
    assert len(ssh.fake.looks) == 3  # one for each other kind of key, since the first was another one


def test_a_wrong_fingerprint_is_untrusted_even_with_yes(ssh):
    result = ssh.run("node", "add", "pi2", "--fingerprint", "SHA256:wrong", "--yes")
    assert result.exit_code == 12 and fingerprint() in result.stderr
    assert not (ssh.tmp / "config").exists()


def test_a_node_that_does_not_answer_leaves_nothing(ssh):
    ssh.answers["shell"] = UnreachableError("pi2: permission denied")
    assert ssh.run("node", "add", "pi2", "--yes").exit_code == 13
    assert "pi2" not in config.load().nodes and not (ssh.tmp / "config" / "known_hosts.d" / "pi2").exists()
    ssh.fake.keys, ssh.fake.err = {}, "ssh: connect to host pi2.lan port 2222: No route to host"
    result = ssh.run("node", "add", "pi2", "--yes")
    assert result.exit_code == 13 and "No route to host" in result.stderr and "debug1" not in result.stderr


def test_a_key_that_ssh_knows_already_is_not_asked_for(ssh):
    ssh.fake.knows.write_text(f"# mine\n|1|abc=|def= ssh-ed25519 {KEY}\n")
    result = ssh.run("node", "add", "pi2", stdin="")
    assert result.exit_code == 0, result.stderr
    assert f"your ssh knows it already: {ssh.fake.knows}:2" in result.stderr
    assert (ssh.tmp / "config" / "known_hosts.d" / "pi2").read_text() == f"* ssh-ed25519 {KEY}\n"
    assert len(ssh.fake.looks) == 1


def test_a_key_of_an_authority_that_ssh_knows_pins_the_authority(ssh):
    ssh.fake.knows.write_text(f"@cert-authority *.lan ssh-ed25519 {KEY}\n")
    told = f"debug1: Server host certificate: ssh-ed25519-cert-v01@openssh.com {fingerprint()}, serial 0 ID\n"
    ssh.fake.keys, ssh.fake.err = {}, f"{told}debug1: Found CA key in {ssh.fake.knows}:1\n"
    result = ssh.run("node", "add", "pi2", stdin="")
    assert result.exit_code == 0 and "the authority in" in result.stderr
    assert (ssh.tmp / "config" / "known_hosts.d" / "pi2").read_text() == f"@cert-authority * ssh-ed25519 {KEY}\n"


def test_another_key_than_ssh_knows_needs_its_fingerprint(ssh):
    ssh.fake.knows.write_text(f"pi2.lan ssh-ed25519 {KEY[:-4]}BBBB\n")
    result = ssh.run("node", "add", "pi2", "--yes")
    assert result.exit_code == 12 and "IDENTIFICATION HAS CHANGED" in result.stderr and "pi2" not in config.load().nodes
    assert ssh.run("node", "add", "pi2", "--fingerprint", fingerprint()).exit_code == 0


def test_the_key_of_a_jump_host_is_never_taken_for_the_nodes(ssh):
    ssh.fake.knows.write_text(f"box ssh-ed25519 {KEY}\n")
    ssh.fake.of_a_jump_host = f"debug1: Host 'box' is known and matches\ndebug1: Found key in {ssh.fake.knows}:1\n"
    ssh.fake.keys, ssh.fake.err = {}, "Connection closed by UNKNOWN port 65535"
    assert ssh.run("node", "add", "pi2", "--yes").exit_code == 13 and "pi2" not in config.load().nodes
    ssh.fake.of_a_jump_host = "Host key verification failed."
    result = ssh.run("node", "add", "pi2", "--yes")
    assert result.exit_code == 12 and "jump host" in result.stderr


def test_a_revoked_key_is_never_pinned(ssh):
    ssh.fake.keys, ssh.fake.err = {}, "WARNING: REVOKED HOST KEY DETECTED!\nHost key verification failed."
    assert ssh.run("node", "add", "pi2", "--fingerprint", fingerprint(), "--yes").exit_code == 12


@pytest.mark.parametrize(
    ("address", "better"),
    [
        ("[fd84::2]", "fd84::2 --port 22"),
        ("[fd84::2%eth0]:2223", "fd84::2%eth0 --port 2223"),
        ("pi2.lan:2223", "pi2.lan --port 2223"),
        ("ann@pi2.lan:2223", "ann@pi2.lan --port 2223"),
    ],
)
def test_brackets_and_ports_in_an_address_are_told_apart(ssh, address, better):
    ssh.fake.settings = {"hostname": address.rpartition("@")[2].lower()}
    result = ssh.run("node", "add", "pi2", address, "--yes")
    assert result.exit_code == 2 and f"reberth node add pi2 {better}" in result.stderr and not ssh.fake.looks
    ssh.fake.settings = {"hostname": "192.0.2.7"}  # a Host of that very name in ssh_config
    assert ssh.run("node", "add", "pi2", address, "--yes").exit_code == 0


def test_again_pins_the_new_key_and_keeps_the_options(ssh):
    assert ssh.run("node", "add", "pi2", "--user", "pi", "--port", "2222", "--become", "sudo", "--yes").exit_code == 0
    before, old = config.load().node("pi2"), fingerprint()
    ssh.fake.keys = {"ssh-ed25519": KEY[:-4] + "BBBB"}
    new = fingerprint(f"x ssh-ed25519 {KEY[:-4]}BBBB")
    assert ssh.run("node", "add", "--again", "pi2", stdin="n\n").exit_code == 12
    assert KEY in (ssh.tmp / "config" / "known_hosts.d" / "pi2").read_text()
    result = ssh.run("node", "add", "--again", "pi2", stdin="y\n")
    assert result.exit_code == 0 and old in result.stderr and new in result.stderr
    assert config.load().node("pi2") == before
    assert "BBBB" in (ssh.tmp / "config" / "known_hosts.d" / "pi2").read_text()
    code, document = ssh.json("node", "add", "--again", "pi2", "--json")  # the same key: no question
    assert code == 0 and document["host_key"] == {"before": [new], "now": new}


def test_again_puts_back_the_old_key_when_the_node_is_not_reached(ssh):
    assert ssh.run("node", "add", "pi2", "--yes").exit_code == 0
    ssh.fake.keys = {"ssh-ed25519": KEY[:-4] + "BBBB"}
    ssh.answers["shell"] = UnreachableError("pi2: permission denied")
    assert ssh.run("node", "add", "--again", "pi2", "--yes").exit_code == 13
    assert KEY in (ssh.tmp / "config" / "known_hosts.d" / "pi2").read_text()


@pytest.mark.parametrize("words", [["pi9"], ["local"], ["pi2", "192.0.2.9"], ["pi2", "--user", "ann"]])
def test_again_is_for_a_node_that_is_there_and_has_a_host_key(ssh, words):
    assert ssh.run("node", "add", "pi2", "--yes").exit_code == 0
    assert ssh.run("node", "add", "--again", *words, "--yes").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["pi2", "-oProxyCommand=x"],
        ["pi2", "a b"],
        ["pi2", "a", "--user", "-x"],
        ["../x"],
        ["local"],
        ["p", "a", "--become", "x"],
    ],
)
def test_words_that_no_command_line_may_carry(ssh, words):
    assert (
        ssh.run("node", "add", "--yes", *(["--", *words] if words[1:2] == ["-oProxyCommand=x"] else words)).exit_code
        == 2
    )
    assert ssh.fake.ran == []


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen here")
def test_the_fingerprint_is_that_of_ssh_keygen():
    line = f"host ssh-ed25519 {KEY}"
    said = subprocess.run(
        ["ssh-keygen", "-lf", "-"], input=line, capture_output=True, text=True, check=True, timeout=20
    )
    assert fingerprint(line) == said.stdout.split()[1]


def test_ls_show_enable_disable(world):
    assert world.run("node", "ls").stdout.splitlines()[1].split()[:3] == ["local", "-", "local"]
    code, document = world.json("node", "ls", "--json")
    assert code == 0 and document["nodes"][0]["name"] == "local"
    result = world.run("node", "disable", "local", "criu")
    assert result.exit_code == 0 and "criu disabled" in result.stderr
    assert config.load().node("local").backends == ("runc", "lxd")
    assert "runc" in world.run("node", "show", "local").stdout
    assert world.json("node", "show", "local", "--json")[1]["node"]["backends"] == ["runc", "lxd"]
    assert world.run("node", "disable", "local", "criu").exit_code == 2
    assert world.run("node", "show", "pi9").exit_code == 2
    assert world.run("node", "rm", "pi9").exit_code == 2
    assert world.run("node", "enable", "local", "nothing").exit_code == 14


def test_enable_by_the_roles_of_the_plugin(world, monkeypatch):
    import reberth.cli.node as command

    monkeypatch.setattr(
        command, "Catalog", lambda: SimpleNamespace(get=lambda name: SimpleNamespace(declaration=ROLES[name]))
    )
    assert world.run("node", "enable", "local", "wrap").exit_code == 0
    node = config.load().node("local")
    assert "wrap" in node.wrappers and "wrap" in node.backends and "wrap" not in node.transports
    assert world.run("node", "enable", "local", "watch").exit_code == 14


ROLES = {
    "wrap": Declaration("both", frozenset({Role.WRAPPER, Role.BACKEND})),
    "watch": Declaration("watches", frozenset({Role.OBSERVER})),
}
