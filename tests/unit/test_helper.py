"""The node helper as it really starts, here: its calls, its errors, its end, and what it does when it is left alone."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from reberth.connect import boot
from reberth.connect.helper import HelperShell
from reberth.node.system import procs
from reberth_hooks import CommandError, ConnectionLostError, HelperError, Node, Route, UnreachableError

SYSTEM = Path("/usr/bin/python3")
NODE = Node("here", connector="local")


def route(tmp_path: Path, path: str, *become: str) -> Route:
    env = {"PATH": path, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    return Route(become=become, hint="is it there?", env=env)


def helper_pid(shell: HelperShell) -> int:
    return int(shell.run(["sh", "-c", "echo $PPID"]).out)


def until(what, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(what())


def gone(pid: int) -> bool:
    return not procs.alive(pid)  # a zombie waits for whoever is process 1 here


@pytest.fixture
def shell(tmp_path):
    """A helper under the python that the system has, or else under ours."""
    path = "/usr/bin:/bin" if SYSTEM.exists() else f"{Path(sys.executable).parent}:/usr/bin:/bin"
    found = HelperShell(NODE, route(tmp_path, path))
    yield found
    found.close()


def test_any_python_will_do(tmp_path):
    found = HelperShell(NODE, route(tmp_path, f"{Path(sys.executable).parent}:/usr/bin:/bin"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    assert found.facts["python"] == version
    found.close()


def test_it_says_who_it_is_and_its_clock(shell):
    assert shell.facts["uid"] == os.getuid()
    assert shell.facts["page_bytes"] == os.sysconf("SC_PAGE_SIZE")
    assert until(lambda: len(shell._offsets) > 5)
    offset_ns, error_ns = shell.clock()
    assert 0 < error_ns < 1e9
    assert abs(offset_ns) <= error_ns + 1e6  # it is the same clock


def test_calls_run_side_by_side_and_answers_find_their_question(shell):
    slow = shell.begin("run", argv=["sleep", "0.4"])
    asked = [shell.begin("run", argv=["echo", str(n)]) for n in range(12)]
    assert [a.result(10)["out"] for a in asked] == [f"{n}\n" for n in range(12)]
    assert not slow.future.done()
    assert slow.result(10)["code"] == 0


def test_a_program_gets_words_and_never_a_shell(shell):
    odd = ["a b", "$(id)", "; reboot", "-n", "\n", "'\"", "\u2028\u00e9", "*"]
    done = shell.run(["printf", "%s\\n", *odd])
    assert done.out == "".join(f"{w}\n" for w in odd)
    assert shell.run(["cat"], stdin="x\n").out == "x\n"
    assert shell.run(["false"], check=False).code == 1
    with pytest.raises(CommandError, match="ended with 3") as caught:
        shell.run(["sh", "-c", "echo why >&2; exit 3"])
    assert caught.value.tail == "why"


def test_errors_keep_their_kind(shell):
    for op, args, kind in (
        ("no-such-op", {}, "unknown-op"),
        ("read", {"path": "/nonexistent"}, "missing"),
        ("read", {"path": "/dev/null"}, "bad-argument"),
        ("read", {"wrong": 1}, "bug"),
        ("run", {"argv": ["no-such-program"]}, "missing"),
        ("facts", {}, "protocol"),
        ("release", {"how": "kill"}, "protocol"),
        ("open", {"run_id": "../x", "role": "source", "workload": "w"}, "bad-argument"),
    ):
        with pytest.raises(HelperError) as caught:
            shell.call(op, **args)
        assert (caught.value.kind, caught.value.op) == (kind, op)
        assert caught.value.message.startswith("node here: ")
    with pytest.raises(HelperError) as caught:
        shell.run(["sleep", "9"], timeout_s=0.1)
    assert caught.value.kind == "timeout"


def test_progress_comes_before_the_answer(shell, tmp_path):
    from reberth.connect.helper import Asked

    told = []
    asked = shell.begin("ping", on_progress=lambda **data: told.append(data))
    assert isinstance(asked, Asked) and asked.result(5)["boot_ns"] > 0
    number = next(shell._numbers)
    shell._progress[number] = lambda **data: told.append(data)
    shell._take({"id": number, "progress": {"bytes": 7}})
    assert told == [{"bytes": 7}]


def test_an_answer_that_takes_too_long_is_a_lost_connection(shell):
    with pytest.raises(ConnectionLostError, match="did not answer run"):
        shell.begin("run", argv=["sleep", "1"]).result(0.3)


def test_who_waits_is_asked_now_and_then(shell):
    heard = []

    def stop() -> None:
        heard.append(threading.current_thread() is threading.main_thread())
        if True in heard:
            raise KeyboardInterrupt

    shell.on_wait = stop
    with pytest.raises(KeyboardInterrupt):
        shell.call("run", argv=["sleep", "5"])
    shell.on_wait = lambda: None
    assert shell.call("ping")["boot_ns"]


def test_close_leaves_neither_process_nor_directory(shell):
    pid = helper_pid(shell)
    log = Path(os.readlink(f"/proc/{pid}/fd/2"))
    assert log.name == "helper.log"
    assert log.parent.stat().st_mode & 0o777 == 0o700
    shell.close()
    assert until(lambda: gone(pid))
    assert until(lambda: not log.parent.exists())
    with pytest.raises(ConnectionLostError):
        shell.call("ping")


def test_killing_the_connection_ends_the_helper_too(shell):
    pid = helper_pid(shell)
    directory = Path(os.readlink(f"/proc/{pid}/fd/2")).parent
    asked = shell.begin("run", argv=["sleep", "3"])
    shell.kill()
    with pytest.raises(ConnectionLostError):
        asked.result(10)
    assert until(lambda: gone(pid))
    assert until(lambda: not directory.exists())


def test_a_helper_that_is_killed_is_a_lost_connection(shell):
    pid = helper_pid(shell)
    directory = Path(os.readlink(f"/proc/{pid}/fd/2")).parent
    asked = shell.begin("run", argv=["sleep", "1"])
    os.kill(pid, 9)
    with pytest.raises(ConnectionLostError, match=r"lost \(run\)") as caught:
        asked.result(10)
    assert caught.value.hint == "is it there?"
    assert not gone(pid) or directory.exists()  # nobody was left to remove it
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


def test_what_cannot_be_reached_says_why(tmp_path):
    with pytest.raises(UnreachableError, match="cannot be reached") as caught:
        HelperShell(NODE, route(tmp_path, "/usr/bin:/bin", "sh", "-c", "echo no way there >&2; exit 255", "sh"))
    assert caught.value.tail == "no way there"
    with pytest.raises(UnreachableError, match="has no python3"):
        HelperShell(
            NODE, route(tmp_path, "/usr/bin:/bin", "sh", "-c", "echo sh: python3: not found >&2; exit 127", "sh")
        )


def test_a_process_that_keeps_the_error_output_open_stops_nobody(tmp_path):
    words = ("sh", "-c", 'sleep 20 </dev/null >/dev/null & echo $! > "$HOME/pid"; echo away >&2; exit 255', "sh")
    started = time.monotonic()
    with pytest.raises(UnreachableError):
        HelperShell(NODE, route(tmp_path, "/usr/bin:/bin", *words))
    assert time.monotonic() - started < 15
    os.kill(int((tmp_path / "pid").read_text()), 9)


# The program


def test_the_program_is_stdlib_only():
    data = boot.program()
    first = int(data[:10])
    assert data[10 : 10 + first] == boot.START
    data = data[10 + first :]
    assert int(data[:10]) == len(data) - 10
    with zipfile.ZipFile(io.BytesIO(data[10:])) as archive:
        names = archive.namelist()
        assert "reberth/node/daemon/loop.py" in names
        for name in names:
            for node in ast.walk(ast.parse(archive.read(name))):
                found = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    found = [node.module or ""]
                for module in found:
                    top = module.partition(".")[0]
                    assert (
                        top in sys.stdlib_module_names
                        or f"{module.replace('.', '/')}.py" in names
                        or f"{module.replace('.', '/')}/__init__.py" in names
                    ), (name, module)


def test_no_word_of_a_command_line_holds_the_program():
    assert boot.control_argv()[:3] == ["python3", "-I", "-c"]
    assert boot.bulk_argv("/a b/ctl")[-2:] == ["/a b/ctl", "bulk"]
    compile(boot.BOOT, "boot", "exec")


# Left alone: a run that is open, on a state directory of this test


@pytest.fixture
def place(tmp_path):
    """A mount namespace in which /var/lib is empty; returns a function that connects, and where the state is."""
    if os.getuid() != 0:
        pytest.skip("a run needs root")
    hold = ["unshare", "-m", "--propagation", "private", "sh", "-c"]
    with subprocess.Popen(
        [*hold, "mount -t tmpfs none /var/lib && echo up && exec sleep 60"], stdout=subprocess.PIPE
    ) as holder:
        if holder.stdout.readline() != b"up\n":
            pytest.skip("no mount namespaces here")
        words = ("nsenter", "-m", f"-t{holder.pid}", "--")
        shells = []

        def connect() -> HelperShell:
            shells.append(HelperShell(NODE, route(tmp_path, "/usr/bin:/usr/sbin:/bin:/sbin", *words)))
            return shells[-1]

        yield connect, Path(f"/proc/{holder.pid}/root/var/lib/reberth")
        for shell in shells:
            shell.close()
        holder.kill()


def events(state: Path, where: str) -> list[str]:
    return [json.loads(line)["event"] for line in (state / where / "journal.jsonl").read_text().splitlines()]


def begin(connect, role: str) -> tuple[HelperShell, str, int]:
    shell = connect()
    run_id = f"unit-{os.getpid()}-{time.monotonic_ns()}"
    shell.call("open", run_id=run_id, role=role, workload="criu/7")
    return shell, run_id, helper_pid(shell)


def test_a_source_that_is_left_before_ready_resumes_and_ends(place):
    connect, state = place
    shell, run_id, pid = begin(connect, "source")
    with pytest.raises(HelperError) as caught:
        connect().call("open", run_id="other", role="source", workload="criu/7")
    assert (caught.value.kind, caught.value.message) == ("busy", f"node here: {run_id}")
    shell.kill()
    assert until(lambda: gone(pid))
    assert (state / "ended" / run_id / "vote").read_text() == "RESUME\n"
    assert events(state, f"ended/{run_id}")[-2:] == ["resumed", "end"]


def test_a_target_that_is_left_aborts_and_ends(place):
    connect, state = place
    shell, run_id, pid = begin(connect, "target")
    shell.kill()
    assert until(lambda: gone(pid))
    assert (state / "ended" / run_id / "verdict").read_text() == "ABORT\n"
    assert events(state, f"ended/{run_id}")[-2:] == ["taken-back", "end"]


def test_a_source_that_voted_ready_waits_for_whoever_comes(place):
    connect, state = place
    shell, run_id, pid = begin(connect, "source")
    assert shell.call("vote", value="READY")["vote"] == "READY"
    shell.kill()
    time.sleep(0.3)
    assert not gone(pid)
    again = connect()
    assert again.call("adopt", run_id=run_id) == {"live": True}
    assert helper_pid(again) == pid
    assert again.call("facts")["vote"] == "READY"
    with pytest.raises(HelperError, match="only when the target says ABORT"):
        again.call("release", how="resume")
    assert again.call("release", how="resume", aborted=True)["resumed"] is True
    with pytest.raises(HelperError, match="let run again"):
        again.call("release", how="kill")
    again.call("end", outcome="rolled-back")
    again.close()
    assert until(lambda: gone(pid))
    assert events(state, f"ended/{run_id}")[-1] == "end"


def test_after_its_helper_was_killed_another_takes_the_run_from_the_journal(place):
    connect, _ = place
    shell, run_id, pid = begin(connect, "source")
    shell.call("vote", value="READY")
    directory = Path(os.readlink(f"/proc/{pid}/fd/2")).parent
    os.kill(pid, 9)
    assert until(lambda: gone(pid))
    again = connect()
    assert again.call("adopt", run_id=run_id) == {"live": False, "known": True}
    assert again.call("facts")["vote"] == "READY"
    again.call("release", how="resume", aborted=True)
    again.call("end", outcome="rolled-back")
    assert not directory.exists()
    from reberth.node.freeze import cgroup

    mount = cgroup.mount_point()
    assert not mount or not os.path.exists(os.path.join(mount, f"reberth-helper-{run_id}"))


def test_who_took_over_is_the_one_that_the_next_one_finds(place):
    connect, state = place
    shell, run_id, pid = begin(connect, "source")
    shell.call("vote", value="READY")
    directory = Path(os.readlink(f"/proc/{pid}/fd/2")).parent
    os.kill(pid, 9)
    assert until(lambda: gone(pid))
    second = connect()
    assert second.call("adopt", run_id=run_id)["live"] is False
    taken = helper_pid(second)
    second.kill()
    third = connect()
    assert third.call("adopt", run_id=run_id) == {"live": True}
    assert helper_pid(third) == taken
    third.call("release", how="resume", aborted=True)
    third.call("end", outcome="rolled-back")
    third.close()
    assert until(lambda: gone(taken))
    assert "adopted" in events(state, f"ended/{run_id}")
    assert not directory.exists()


@pytest.mark.parametrize("role", ["source", "target"])
def test_who_only_looks_changes_nothing(place, role):
    connect, state = place
    _, run_id, pid = begin(connect, role)
    directory = Path(os.readlink(f"/proc/{pid}/fd/2")).parent
    os.kill(pid, 9)
    assert until(lambda: gone(pid))
    before = (state / run_id / "journal.jsonl").read_text()
    looking = connect()
    assert looking.call("adopt", run_id=run_id, look=True) == {"live": False, "known": True}
    assert looking.call("facts")["role"] == role
    there = helper_pid(looking)
    looking.kill()
    assert until(lambda: gone(there))
    assert (state / run_id / "journal.jsonl").read_text() == before
    assert not {"vote", "verdict"} & set(os.listdir(state / run_id))
    again = connect()
    again.call("adopt", run_id=run_id)
    again.kill()  # now it is left alone for good
    assert until(lambda: (state / "ended" / run_id).exists())
    assert not directory.exists()


def test_a_run_that_was_never_here_is_unknown(place):
    connect, _ = place
    shell = connect()
    assert shell.call("adopt", run_id="nothing") == {"live": False, "known": False}
    with pytest.raises(HelperError) as caught:
        shell.call("facts")
    assert caught.value.kind == "protocol"


def test_pings_go_on_while_another_helper_takes_over(place):
    connect, _ = place
    shell, run_id, _ = begin(connect, "source")
    shell.call("vote", value="READY")
    shell.kill()
    for _ in range(4):
        again = connect()
        again.call("adopt", run_id=run_id)
        before = len(again._offsets)
        assert until(lambda again=again, before=before: len(again._offsets) > before, 5)
        again.kill()
    last = connect()
    last.call("adopt", run_id=run_id)
    last.call("release", how="resume", aborted=True)
    last.call("end", outcome="rolled-back")
