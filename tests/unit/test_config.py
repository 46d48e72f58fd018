"""Layers of configuration, strict keys, and files written back with their comments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reberth.config import config, inventory, paths
from reberth_hooks import Exit, Mode, Node, UsageError


@pytest.fixture
def env(tmp_path, monkeypatch):
    """An environment of its own: a system file and a user's file under tmp_path, `env.system` and `env.user`."""

    class Env(dict):
        system = tmp_path / "etc" / "config.toml"
        user = tmp_path / "home" / "reberth" / "config.toml"

        def write(self, path: Path, text: str) -> Path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return path

    monkeypatch.setattr(paths, "SYSTEM_CONFIG", Env.system)
    return Env(XDG_CONFIG_HOME=str(tmp_path / "home"), HOME=str(tmp_path))


def test_without_files_there_is_the_local_node(env):
    found = config.load(env)
    local = found.node("local")
    assert set(found.nodes) == {"local"}
    assert (local.connector, local.backends, local.transports) == ("local", config.BUNDLED_BACKENDS, ("ssh",))
    assert found.files == () and found.defaults == {}


def test_a_node_with_all_its_keys(env):
    env.write(
        env.user,
        """
        [nodes.pi2]
        address = "192.0.2.2"
        become = "sudo"
        connector = "ssh"
        backends = ["runc", "criu", "runc"]
        transports = ["ssh", "page-server"]
        wrappers = ["freeze-net"]
        [nodes.pi2.page-server]
        address = "10.0.0.2"
        ports = "9000-9099"
        [defaults]
        mode = "stop-and-copy"
        max_downtime = "300ms"
        bandwidth = "50MiB"
        """,
    )
    found = config.load(env)
    assert found.node("pi2") == Node(
        "pi2",
        address="192.0.2.2",
        connector="ssh",
        become="sudo",
        backends=("runc", "criu"),
        transports=("ssh", "page-server"),
        wrappers=("freeze-net",),
        options={"page-server": {"address": "10.0.0.2", "ports": "9000-9099"}},
    )
    assert found.defaults == {
        "mode": Mode.STOP_AND_COPY,
        "max_downtime_s": pytest.approx(0.3),
        "bandwidth_bytes_s": 50 * 1024**2,
    }
    assert found.files == (env.user,)


def test_later_layers_win_key_by_key(env):
    env.write(env.system, '[nodes.a]\naddress = "1"\nbecome = "su"\n[nodes.a.ssh]\nuser = "x"\nport = 1\n')
    env.write(env.user, '[nodes.a]\naddress = "2"\n[nodes.a.ssh]\nport = 2\n[defaults]\niterations = 3\ngoal = 50\n')
    found = config.load({**env, "REBERTH_ITERATIONS": "4", "REBERTH_MAX_DOWNTIME": "1s"})
    assert (found.nodes["a"].address, found.nodes["a"].become) == ("2", "su")
    assert found.nodes["a"].options == {"ssh": {"user": "x", "port": 2}}
    assert found.defaults == {"iterations": 4, "goal": 50, "max_downtime_s": 1.0}
    assert found.files == (env.system, env.user)


def test_one_given_file_replaces_both(env, tmp_path):
    env.write(env.system, "[nodes.a]\n")
    only = env.write(tmp_path / "only.toml", "[nodes.b]\n")
    found = config.load({**env, "REBERTH_CONFIG": str(only)})
    assert set(found.nodes) == {"local", "b"} and found.files == (only,)
    assert set(config.load({**env, "REBERTH_CONFIG": str(tmp_path / "none.toml")}).nodes) == {"local"}


def test_the_local_node_can_be_changed(env):
    env.write(env.user, '[nodes.local]\nbackends = ["runc"]\nbecome = "sudo"\n')
    local = config.load(env).node("local")
    assert (local.connector, local.backends, local.become) == ("local", ("runc",), "sudo")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[node.a]\n", "unknown key 'node' (did you mean nodes?)"),
        ("[nodes.a]\nadress = '1'\n", "nodes.a: unknown key 'adress' (did you mean address"),
        ("[nodes.a]\nbackend = ['runc']\n", "unknown key 'backend' (did you mean backends"),
        ("[nodes.a]\n[nodes.a.shs]\nport = 1\n", "unknown key 'shs'"),
        ("[nodes.a]\ntransports = ['page-server']\n[nodes.a.pageserver]\n", "unknown key 'pageserver'"),
        ("[nodes.a]\nssh = 5\n", "unknown key 'ssh'"),
        ("[nodes.a]\nbackends = 'runc'\n", "backends must be a list of plugin names"),
        ("[nodes.a]\nbackends = [1]\n", "backends must be a list of plugin names"),
        ("[nodes.a]\naddress = 1\n", "address must be text"),
        ("[nodes.a]\nbecome = 'doas'\n", "become must be none, sudo or su"),
        ("nodes = 5\n", "nodes must be a table"),
        ("[nodes]\na = 5\n", "a must be a table"),
        ("[defaults]\nmax_dowtime = '1s'\n", "defaults: unknown key 'max_dowtime' (did you mean max_downtime"),
        ("[defaults]\nmax_downtime = 300\n", "defaults: max_downtime: 300 is not a time"),
        ("[defaults]\nmode = 'fast'\n", "defaults: mode: 'fast' is none of auto"),
        ("[nodes.a\n", "not valid TOML"),
    ],
)
def test_what_is_wrong_names_file_key_and_the_nearest(env, text, message):
    env.write(env.user, text)
    with pytest.raises(UsageError) as caught:
        config.load(env)
    assert caught.value.message.startswith(str(env.user))
    assert message in caught.value.message
    assert caught.value.exit_code is Exit.USAGE


def test_a_bad_node_name_is_shown_escaped(env):
    env.write(env.user, '[nodes."-o\\u001b"]\n')
    with pytest.raises(UsageError, match="is no node name") as caught:
        config.load(env)
    assert "\x1b" not in caught.value.message


def test_a_file_that_cannot_be_read_is_named(env):
    env.write(env.user, "")
    env.user.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        config.load(env)
    env.user.unlink()
    env.user.mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        config.load(env)


def test_a_wrong_environment_names_the_variable(env):
    with pytest.raises(UsageError, match=r"^REBERTH_MODE: mode: 'fast' is none of"):
        config.load({**env, "REBERTH_MODE": "fast"})
    with pytest.raises(UsageError, match=r"unknown variable REBERTH_MAX_DOWNTIM \(did you mean REBERTH_MAX_DOWNTIME"):
        config.load({**env, "REBERTH_MAX_DOWNTIM": "1s"})
    assert config.load({**env, "REBERTH_TRACE": "1", "REBERTH_LIVE_ROOT": "x"}).defaults == {}


def test_an_unknown_node_names_the_close_ones(env):
    env.write(env.user, "[nodes.pi1]\n[nodes.pi2]\n")
    with pytest.raises(UsageError, match=r"there is no node 'pi3' \(did you mean pi") as caught:
        config.load(env).node("pi3")
    assert "local, pi1, pi2" in caught.value.hint


# Writing


def test_adding_keeps_what_is_there_and_its_comments(env):
    text = '# mine\n[nodes.a] # first\naddress = "1"\n\n[defaults]\nmode = "auto" # why not\n'
    env.write(env.user, text)
    before = config.load(env).node("a")
    path = inventory.add_node(Node("b", "192.0.2.9", backends=("runc",), options={"ssh": {"port": 2222}}), env)
    assert path == env.user
    found = config.load(env)
    assert found.node("a") == before
    assert found.node("b").options == {"ssh": {"port": 2222}}
    assert found.node("b").backends == ("runc",)
    written = env.user.read_text()
    assert all(comment in written for comment in ("# mine", "# first", "# why not"))


def test_the_written_file_is_new_and_readable_and_nothing_else_is_left(env):
    env.write(env.user, "").chmod(0o600)
    inventory.add_node(Node("b"), env)
    assert env.user.stat().st_mode & 0o777 == 0o644
    assert os.listdir(env.user.parent) == ["config.toml"]


def test_adding_again_overwrites_that_node(env):
    inventory.add_node(Node("b", "1", backends=("runc",)), env)
    inventory.add_node(Node("b", "2"), env)
    assert (config.load(env).node("b").address, config.load(env).node("b").backends) == ("2", ())


def test_a_node_round_trips(env):
    node = Node("b", "1", "android", "su", ("criu",), ("android",), ("w",), {"android": {"serial": "x"}})
    inventory.add_node(node, env)
    assert config.load(env).node("b") == node


def test_removing(env):
    inventory.add_node(Node("pi1"), env)
    inventory.add_node(Node("pi2"), env)
    inventory.remove_node("pi1", env)
    assert set(config.load(env).nodes) == {"local", "pi2"}
    with pytest.raises(UsageError, match=r"has no node 'pi1' \(did you mean pi2\?\)"):
        inventory.remove_node("pi1", env)


def test_enabling_and_disabling(env):
    env.write(env.system, '[nodes.a]\naddress = "1"\nbackends = ["runc"]\n')
    env.write(env.user, "")
    inventory.set_enabled(config.load(env), "a", "backends", "criu", True, env)
    inventory.set_enabled(config.load(env), "a", "backends", "criu", True, env)
    assert config.load(env).node("a").backends == ("runc", "criu")
    inventory.set_enabled(config.load(env), "a", "backends", "runc", False, env)
    assert config.load(env).node("a").backends == ("criu",)
    assert config.load(env).node("a").address == "1"
    assert "address" not in env.user.read_text()
    inventory.set_enabled(config.load(env), "local", "transports", "ssh", False, env)
    assert config.load(env).node("local").transports == ()
    with pytest.raises(UsageError, match="no node 'b'"):
        inventory.set_enabled(config.load(env), "b", "backends", "runc", True, env)


def test_what_would_not_load_is_never_written(env):
    env.write(env.user, '[nodes.a]\naddress = "1"\n')
    before = env.user.read_text()
    with pytest.raises(UsageError):
        inventory.add_node(Node("-bad"), env)
    with pytest.raises(UsageError):
        inventory.add_node(Node("b", become="doas"), env)
    assert env.user.read_text() == before
    assert os.listdir(env.user.parent) == ["config.toml"]


def test_a_failing_write_leaves_the_old_file(env, mocker):
    env.write(env.user, "# old\n")
    mocker.patch.object(config.os, "fsync", autospec=True, side_effect=OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        inventory.add_node(Node("b"), env)
    assert env.user.read_text() == "# old\n"
    assert os.listdir(env.user.parent) == ["config.toml"]


def test_a_linked_file_stays_a_link(env, tmp_path):
    real = env.write(tmp_path / "dotfiles" / "reberth.toml", "# real\n")
    env.user.parent.mkdir(parents=True)
    env.user.symlink_to(real)
    inventory.add_node(Node("b"), env)
    assert env.user.is_symlink()
    assert "# real" in real.read_text() and "[nodes.b]" in real.read_text()


# Places


@pytest.mark.parametrize(
    ("uid", "environ", "state", "own"),
    [
        (0, {"HOME": "/root"}, "/var/lib/reberth", "/etc/reberth/config.toml"),
        (0, {"XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c"}, "/s/reberth", "/c/reberth/config.toml"),
        (7, {"HOME": "/h"}, "/h/.local/state/reberth", "/h/.config/reberth/config.toml"),
        (7, {"HOME": "/h", "XDG_STATE_HOME": "rel", "XDG_CONFIG_HOME": "rel"}, "/h/.local/state/reberth", None),
        (0, {"HOME": "/root", "REBERTH_CONFIG": "/x.toml"}, "/var/lib/reberth", "/x.toml"),
        (7, {"HOME": "/h", "REBERTH_CONFIG": "/x.toml"}, "/h/.local/state/reberth", "/x.toml"),
    ],
)
def test_places(mocker, uid, environ, state, own):
    mocker.patch.object(paths.os, "geteuid", autospec=True, return_value=uid)
    assert paths.state_dir(environ) == Path(state)
    assert paths.own_config_file(environ) == Path(own or "/h/.config/reberth/config.toml")
