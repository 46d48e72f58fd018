from __future__ import annotations

import shutil
import subprocess
from types import ModuleType, SimpleNamespace

import pytest

from reberth.commands import add_node
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


@pytest.fixture
def ssh(world, make, monkeypatch):
    """A node that shows two keys, and has one usable backend of two."""
    ran = []
    lines = ["# pi2.lan:2222 SSH-2.0", f"[pi2.lan]:2222 ssh-rsa {KEY[:-4]}AAAA", f"[pi2.lan]:2222 ssh-ed25519 {KEY}"]
    answers = {"ssh": "user pi\nhostname pi2.lan\nport 2222\n", "ssh-keyscan": "\n".join(lines)}

    def run_local(argv, **_):
        ran.append(list(argv))
        return SimpleNamespace(code=0, out=answers[argv[0]], err="# banner\nconnect: no route")

    monkeypatch.setattr(add_node, "run_local", run_local)
    world.answers = {
        "plugins": {"runc": backend({"usable": True}), "criu": backend({"usable": False, "reason": "no criu there"})},
        "shell": {"pi2": make.hello},
    }
    world.ran, world.ssh = ran, answers
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
    return add_node._key(line).fingerprint


def test_add_pins_probes_and_stores(ssh):
    result = ssh.run("node", "add", "pi2", "192.0.2.2", "--user", "pi", "--become", "sudo", "--yes")
    assert result.exit_code == 0, result.stderr
    assert "enabled      runc" in result.stdout and "no criu there" in result.stderr and fingerprint() in result.stderr
    pinned = ssh.tmp / "config" / "known_hosts.d" / "pi2"
    assert pinned.read_text() == f"[pi2.lan]:2222 ssh-ed25519 {KEY}\n"
    node = config.load().node("pi2")
    assert (node.address, node.become, node.backends, node.transports) == ("192.0.2.2", "sudo", ("runc",), ("ssh",))
    assert node.options_of("ssh") == {"user": "pi", "known_hosts": str(pinned)}
    assert ssh.ran == [
        ["ssh", "-G", "--", "192.0.2.2"],
        ["ssh-keyscan", "-T", "10", "-p", "2222", "--", "pi2.lan"],
    ]
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
    assert ssh.ran[0] == ["ssh", "-G", "-p", "2222", "--", "pi2"]


def test_a_wrong_fingerprint_is_untrusted_even_with_yes(ssh):
    result = ssh.run("node", "add", "pi2", "--fingerprint", "SHA256:wrong", "--yes")
    assert result.exit_code == 12 and fingerprint() in result.stderr
    assert not (ssh.tmp / "config").exists()


def test_a_node_that_does_not_answer_leaves_nothing(ssh):
    ssh.answers["shell"] = UnreachableError("pi2: permission denied")
    assert ssh.run("node", "add", "pi2", "--yes").exit_code == 13
    assert "pi2" not in config.load().nodes and not (ssh.tmp / "config" / "known_hosts.d" / "pi2").exists()
    ssh.ssh["ssh-keyscan"] = "# nothing\nx y\nx ssh-rsa ***\n"
    result = ssh.run("node", "add", "pi2", "--yes")
    assert result.exit_code == 13 and "| connect: no route" in result.stderr and "banner" not in result.stderr


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
    assert ssh.ran == []


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
