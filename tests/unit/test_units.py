"""A unit is found, held and given back, with a systemctl on PATH that keeps a unit in files."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from reberth.node.errors import OpError
from reberth.node.freeze import cgroup, systemd
from reberth.node.runs import run
from reberth.node.system import spawn

# `loaded` is what systemd has read; daemon-reload reads the drop-ins again.
SYSTEMCTL = """#!/bin/sh
cd "@place@" || exit 1
echo "$@" >> asked
[ -e broken ] && { echo "no bus" >&2; exit 1; }
case "$1" in
daemon-reload)
  cp unit loaded
  for file in drop-ins/web.service.d/*.conf; do
    [ -e "$file" ] && grep -E '^Restart' "$file" >> loaded
  done ;;
show)
  # As systemctl does it: one line for each property, the last word counts.
  tac loaded | awk -F= '!seen[$1]++' ; echo
  echo Id=other.service; echo MainPID=4194302; echo ControlGroup=/other ;;
esac
exit 0
"""


@pytest.fixture
def web(tmp_path, monkeypatch):
    """A unit of which this process is the main one."""
    lines = ["Id=web.service", f"MainPID={os.getpid()}", "ControlGroup=/web", "ActiveState=active", "SubState=running"]
    lines += ["Restart=always", "RestartForceExitStatus=KILL", "Job=", "NeedDaemonReload=no"]
    for name in ("unit", "loaded"):
        (tmp_path / name).write_text("\n".join([*lines, ""]))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(SYSTEMCTL.replace("@place@", str(tmp_path)))
    (tmp_path / "bin/systemctl").chmod(0o755)
    (tmp_path / "web").mkdir()
    (tmp_path / "web/cgroup.procs").write_text(f"{os.getpid()}\n")
    monkeypatch.setattr(spawn, "PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(systemd, "DROP_INS", str(tmp_path / "drop-ins"))
    monkeypatch.setattr(systemd, "BOOTED", str(tmp_path))
    monkeypatch.setattr(systemd, "END_S", 0.3)
    monkeypatch.setattr(run, "STATE", str(tmp_path / "state"))
    monkeypatch.setattr(cgroup, "mount_point", lambda: str(tmp_path))

    def says(**properties):
        """From now on systemd says this of the unit."""
        for name in ("unit", "loaded"):
            with open(tmp_path / name, "a") as file:
                file.writelines(f"{key}={value}\n" for key, value in properties.items())

    return SimpleNamespace(place=tmp_path, says=says, path=tmp_path / "drop-ins/web.service.d")


def loaded(web, key):
    return systemd.show("web.service")[0][key]


def test_it_is_found_by_its_main_process(web):
    found = systemd.of_tree([os.getpid()])
    assert (found["name"], found["main"], found["strangers"], found["error"]) == ("web.service", True, [], "")
    assert systemd.of_tree([1 << 22]) == {}


def test_it_is_found_by_its_cgroup_and_others_are_named(web, monkeypatch):
    monkeypatch.setattr(cgroup, "of_pid", lambda pid: str(web.place / "web/sub"))
    (web.place / "web/cgroup.procs").write_text(f"{os.getpid()}\n{os.getppid()}\n")
    found = systemd.of_tree([os.getppid()])
    assert (found["name"], found["main"], found["strangers"]) == ("web.service", False, [os.getpid()])


def test_without_systemd_nobody_is_asked(web, monkeypatch):
    monkeypatch.setattr(systemd, "BOOTED", "/nowhere")
    assert systemd.of_tree([os.getpid()]) == {}
    assert not (web.place / "asked").exists()


@pytest.mark.parametrize("trouble", ["missing", "broken"])
def test_a_cgroup_that_tells_of_a_unit_is_not_passed_over(trouble, web, monkeypatch):
    monkeypatch.setattr(cgroup, "of_pid", lambda pid: "/x/system.slice/web.service")
    if trouble == "missing":
        (web.place / "bin/systemctl").unlink()
    else:
        (web.place / "broken").touch()
    found = systemd.of_tree([os.getpid()])
    assert found["name"] == "web.service" and "systemctl" in found["error"]


@pytest.mark.parametrize("name", ["ssh.service", "sshd.service", "user@7.service"])
def test_who_hosts_others_is_not_their_unit(name, web, monkeypatch):
    monkeypatch.setattr(cgroup, "of_pid", lambda pid: f"/x/system.slice/{name}")
    assert systemd.of_tree([os.getppid()]) == {}


root = pytest.mark.skipif(os.getuid() != 0, reason="a node's state belongs to root")


@pytest.fixture
def opened(web):
    return run.Run.open("r1", "source", "criu/7")


@root
def test_held_it_does_not_restart_and_does_not_start(web, opened):
    systemd.hold(opened, "web.service", os.getpid())
    assert (loaded(web, "Restart"), loaded(web, "RestartForceExitStatus")) == ("no", "")
    (file,) = web.path.iterdir()
    assert f"ConditionPathExists=!{opened.journal.path}" in file.read_text()
    assert os.path.exists(opened.journal.path)


@root
@pytest.mark.parametrize("occasion", ["abort", "commit"])
def test_it_is_given_back_once_and_again(occasion, web, opened):
    systemd.hold(opened, "web.service", os.getpid())
    if occasion == "commit":
        web.says(ActiveState="failed")
    for _ in range(2):
        assert run.Run.load("r1").undo(occasion) == []
        assert not web.path.exists()
        assert (loaded(web, "Restart"), loaded(web, "RestartForceExitStatus")) == ("always", "KILL")


@root
def test_other_drop_ins_stay(web, opened):
    web.path.mkdir(parents=True)
    (web.path / "mine.conf").write_text("[Service]\n")
    systemd.hold(opened, "web.service", os.getpid())
    opened.undo("abort")
    assert [path.name for path in web.path.iterdir()] == ["mine.conf"]


@root
def test_after_a_commit_it_is_kept_until_it_has_ended(web, opened):
    """Given back earlier systemd would still start it again; what is left then is tried again at the run's end."""
    systemd.hold(opened, "web.service", os.getpid())
    (left,) = opened.undo("commit")
    assert "web.service" in left and "still active" in left
    assert web.path.exists() and loaded(web, "Restart") == "no"
    web.says(ActiveState="failed")
    assert opened.end("moved") == [] and not web.path.exists()


@root
def test_one_that_has_ended_meanwhile_is_named(web, opened):
    systemd.hold(opened, "web.service", os.getpid())
    web.says(ActiveState="failed")
    (left,) = opened.undo("abort")
    assert "was not started again" in left and not web.path.exists()


@root
@pytest.mark.parametrize(
    ("properties", "word"),
    [
        ({"ActiveState": "deactivating"}, "ActiveState=deactivating"),
        ({"Job": "7"}, "Job=7"),
        ({"MainPID": "1"}, "another main process"),
    ],
)
def test_what_cannot_be_held_is_refused_and_given_back(properties, word, web, opened):
    web.says(**properties)
    with pytest.raises(OpError, match=word):
        systemd.hold(opened, "web.service", os.getpid())
    opened.undo("abort")
    assert not web.path.exists()


@root
def test_another_drop_in_may_win(web, opened):
    web.path.mkdir(parents=True)
    (web.path / "zzzz.conf").write_text("[Service]\nRestart=always\n")
    with pytest.raises(OpError, match="Restart=always"):
        systemd.hold(opened, "web.service", os.getpid())


@root
def test_a_systemctl_that_fails_is_a_reason(web, opened):
    (web.place / "broken").touch()
    with pytest.raises(OpError, match="daemon-reload ended with 1"):
        systemd.hold(opened, "web.service", os.getpid())


@root
@pytest.mark.parametrize("name", ["../../x.service", "web.socket", ""])
def test_only_services_are_held(name, opened):
    with pytest.raises(OpError, match="is no service"):
        systemd.hold(opened, name, os.getpid())
