"""Files that a tree has open for writing: which they are, their content, and what the target says of its own."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
import subprocess
import sys
from types import SimpleNamespace

import pytest

from reberth.node.errors import OpError
from reberth.node.survey import written as module
from reberth.node.survey.written import Beside, check, content, differences, digest, written
from reberth_hooks import Check, Level, Options
from reberth_hooks.criu.bundle import places_outside
from reberth_hooks.criu.files import MUCH_WRITTEN_BYTES, Files

HOLD = """
import ctypes, mmap, os, sys
exec(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holder(script: str, *words: str):
    """A process that holds what the script opens."""
    argv = [sys.executable, "-c", HOLD, script, *words]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        try:
            yield process.pid
        finally:
            process.communicate()


def names(pid: int, under) -> set[str]:
    return {one.path for one in written([pid]) if one.path.startswith(str(under))}


MAP = "f = os.open(sys.argv[2], os.{how}); m = ctypes.CDLL(None).mmap(None, 4096, {prot}, {kind}, f, 0); os.close(f)"
WAYS = {
    "written": ("f = os.open(sys.argv[2], os.O_RDWR)", True),
    "written alone": ("f = os.open(sys.argv[2], os.O_WRONLY)", True),
    "appended": ("f = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)", True),
    "mapped": (MAP.format(how="O_RDWR", prot=3, kind=1), True),
    "mapped, now read-only": (MAP.format(how="O_RDWR", prot=1, kind=1), True),
    "mapped for itself": (MAP.format(how="O_RDWR", prot=3, kind=2), False),
    "mapped shared for reading": (MAP.format(how="O_RDONLY", prot=1, kind=1), False),
    "read": ("f = os.open(sys.argv[2], os.O_RDONLY)", False),
    "deleted": ("f = os.open(sys.argv[2], os.O_RDWR); os.unlink(sys.argv[2])", False),
    "closed": ("os.close(os.open(sys.argv[2], os.O_RDWR))", False),
}


@pytest.mark.parametrize(("script", "found"), WAYS.values(), ids=WAYS.keys())
def test_what_is_open_for_writing_is_found(tmp_path, script, found):
    path = tmp_path / "store db"
    path.write_bytes(bytes(4096))
    with holder(script, str(path)) as pid:
        assert names(pid, tmp_path) == ({str(path)} if found else set())


def test_a_deleted_name_stands_for_another_one_in_its_folder(tmp_path):
    """As glibc makes a named semaphore: a file of its own name, linked to the real one, the first name deleted."""
    script = (
        "p = sys.argv[2]; f = os.open(p + '/tmp', os.O_RDWR | os.O_CREAT); os.link(p + '/tmp', p + '/link_remap.7'); "
        "os.link(p + '/tmp', p + '/sem.real'); os.unlink(p + '/tmp')"
    )
    with holder(script, str(tmp_path)) as pid:
        (one,) = [one for one in written([pid]) if one.path.startswith(str(tmp_path))]
        assert (one.path, one.deleted) == (f"{tmp_path}/sem.real", f"{tmp_path}/tmp")
        assert module.link_remaps(one) == [f"{tmp_path}/link_remap.7"]
    script += "; g = os.open(p + '/sem.real', os.O_RDWR); os.dup2(g, 60); os.dup2(f, 61); os.close(f); os.close(g)"
    (tmp_path / "sem.real").unlink()
    (tmp_path / "link_remap.7").unlink()
    with holder(script, str(tmp_path)) as pid:  # open by its real name as well, which is seen first
        (one,) = [one for one in written([pid]) if one.path.startswith(str(tmp_path))]
        assert (one.path, one.deleted) == (f"{tmp_path}/sem.real", f"{tmp_path}/tmp")
        (tmp_path / "sem.real").unlink()
        assert names(pid, tmp_path) == set()


def test_a_file_is_told_once_and_those_without_content_never(tmp_path):
    path = tmp_path / "store"
    path.write_bytes(b"x")
    script = (
        "a = [os.open(sys.argv[2], os.O_RDWR) for _ in range(3)]; b = os.open('/proc/self/oom_score_adj', os.O_RDWR)"
    )
    with holder(script + "; c = os.memfd_create('m')", str(path)) as pid:
        assert [one.path for one in written([pid, pid]) if one.path != "/dev/null"] == [str(path)]
        assert written([2**22 + 1]) == []


def fd_of(path) -> int:
    return os.open(path, os.O_RDONLY)


def test_the_digest_is_of_the_content_and_not_of_its_holes(tmp_path):
    dense, sparse, other = tmp_path / "dense", tmp_path / "sparse", tmp_path / "other"
    size = 5 * (1 << 20) + 77
    for path in (dense, sparse, other):
        with open(path, "wb") as file:
            file.truncate(size)
            file.seek(3 << 20)
            file.write(b"word")
    data = dense.read_bytes()
    dense.write_bytes(data)
    with open(other, "r+b") as file:
        file.seek(size - 1)
        file.write(b"\1")
    sums = [digest(fd_of(path)) for path in (dense, sparse, other)]
    assert sums[0] == sums[1] != sums[2]
    with open(dense, "ab") as file:
        file.write(b"\0")
    assert digest(fd_of(dense)) != sums[0]


@pytest.fixture
def pair(tmp_path):
    """A store on the source, held by a process, and its copy on the target."""
    here, there = tmp_path / "here", tmp_path / "there"
    for place in (here, there):
        place.mkdir()
        (place / "store").write_bytes(bytes(70000))
    with holder("f = os.open(sys.argv[2], os.O_RDWR); m = mmap.mmap(f, 70000)", str(here / "store")) as pid:
        yield pid, here / "store", there / "store", {str(here): str(there)}


def position(pid: int, number: str) -> int:
    with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as lines:
        return int(lines.readline().split()[1])


@pytest.mark.parametrize("size", [70000, 3 << 20, 64 << 20])
def test_to_hash_a_file_moves_no_position_of_the_process(tmp_path, size):
    """A copied descriptor shares its position with the process: an lseek(2) for holes moved that of the copy too."""
    path = tmp_path / "store"
    with open(path, "wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(b"word")
    script = "f = os.open(sys.argv[2], os.O_RDWR); os.dup2(f, 77); os.lseek(77, 1234, 0)"
    with holder(script, str(path)) as pid:
        assert content([pid], {"/": "/"})
        assert position(pid, "77") == 1234


@pytest.mark.parametrize("size", [70000, 3 << 20])
def test_to_hash_a_file_breaks_no_lease(tmp_path, size):
    path = tmp_path / "store"
    path.write_bytes(b"word")
    os.truncate(path, size)
    script = "import fcntl; f = os.open(sys.argv[2], os.O_RDWR); fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)"
    with holder(script, str(path)) as pid:
        assert content([pid], {"/": "/"})
        with open("/proc/locks", encoding="ascii") as lines:
            leases = [line.split() for line in lines if f" {pid} " in line]
        assert [words[1:4] for words in leases] == [["LEASE", "ACTIVE", "WRITE"]]


def test_a_copy_that_is_the_same_is_taken(pair):
    pid, _, _, places = pair
    files = content([pid], places)
    assert [one["size"] for one in files] == [70000]
    check(files)


@pytest.mark.parametrize("at", [0, 35000, 69999])
def test_a_record_that_was_written_since_is_noticed(pair, at):
    """The twin: one byte is planted through a mapping, which changes neither size nor, at its second write, times."""
    pid, here, there, places = pair
    before = os.stat(here)
    with open(here, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[at] = 7
    os.utime(here, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(OpError, match="store' has another content there") as caught:
        check(content([pid], places))
    assert caught.value.kind == "files" and str(there) in caught.value.message and "storage" in caught.value.hint


def test_other_differences_are_told_by_name(pair):
    pid, _, there, places = pair
    files = content([pid], places)
    there.write_bytes(b"short")
    assert differences(files) == [f"{str(there)!r} has 5 bytes there, 70000 on the source"]
    there.unlink()
    assert "cannot be read (No such file" in differences(files)[0]
    there.mkdir()
    assert "no regular file" in differences(files)[0]
    with pytest.raises(OpError, match="and 2 more"):
        check(files * 5)


def test_one_file_of_both_nodes_is_equal_whatever_it_holds(pair, monkeypatch):
    pid, here, _, _ = pair
    files = content([pid], {"/": "/"})
    with open(here, "r+b") as file:
        file.write(b"later")
    check(files)  # the same kernel, device and inode
    elsewhere = [{**one, "boot_id": "another machine"} for one in files]
    assert len(differences(elsewhere)) == 1
    monkeypatch.setattr(module, "_filesystems", lambda pid: dict.fromkeys([_device(here)], "nfs4"))
    check([{**one, "network": True} for one in elsewhere])
    assert len(differences([{**one, "network": True, "ino": 1} for one in elsewhere])) == 1


def _device(path) -> str:
    found = os.stat(path)
    return f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"


def test_what_travels_with_a_container_is_not_compared(pair):
    pid, here, _, places = pair
    assert content([pid], {}) == []
    assert content([pid], {str(here.parent): ""}) == []
    assert len(content([pid], {**places, str(here): "/elsewhere"})) == 1
    assert content([pid], {**places, str(here): "/elsewhere"})[0]["path"] == "/elsewhere"
    assert content([pid], {str(here)[:-2]: "/x"}) == []


def test_mounts_from_outside_a_bundle_are_places_and_others_are_not():
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data", "type": "bind", "source": "/srv/data"},
        {"destination": "/data/own", "type": "bind", "source": "own"},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
    ]
    found = places_outside({"mounts": mounts}, "/srv/box")
    assert found == {"/proc": "", "/data": "/srv/data", "/data/own": "", "/tmp": ""}
    assert places_outside({}, "/srv/box") == {}


def test_something_beside_raises_where_it_is_asked_for():
    assert Beside(lambda: 7).result() == 7
    with pytest.raises(ZeroDivisionError):
        Beside(lambda: 1 // 0).result()


def files_of(files, sizes, problems, *, how="auto", unfit=(), takes=True) -> Files:
    """What the plan says of files when the target answers so; `sizes` are those of the files that are written."""
    files = [{"mode": stat.S_IFREG, **one} for one in files]
    tree = {
        "files": files,
        "linked": [],
        "linked_found": [],
        "written": [{"path": p, "size": s, "network": False} for p, s in sizes.items()],
    }
    answers = {"compare_files": problems, "files_ready": takes, "files_there": list(unfit)}
    shell = SimpleNamespace(node=SimpleNamespace(name="b"), call=lambda op, **_: answers[op])
    return Files(tree, Options(files=how), shell, shell)


def said(*given, **more) -> list[Check]:
    return list(files_of(*given, **more).checks())


def test_the_plan_never_says_that_files_are_the_same_by_their_size():
    (one,) = said([{"path": "/a"}, {"path": "/b"}], {"/b": 10}, [], how="none")
    assert one.level is Level.OK and "same size" in one.reason and "1 of them, open for writing" in one.reason
    (one,) = said([{"path": "/a"}], {}, [])
    assert one.reason == "1 files have the same size on the target"


@pytest.mark.parametrize("more", [{"how": "none"}, {"takes": False}])
def test_a_file_that_is_written_is_not_to_be_copied_by_hand(more):
    problems = [{"path": "/a", "problem": "missing"}, {"path": "/log", "problem": "size 3, not 4"}]
    one, two = said([], {"/log": 4}, problems, **more)
    assert "/a: missing" in one.reason and "put the same files" in one.remedy
    assert "open for writing: /log" in two.reason and "put the same" not in two.remedy and "storage" in two.remedy


def test_what_is_written_travels_and_the_plan_names_it_with_its_size():
    problems = [{"path": "/log", "problem": "No such file or directory"}]
    found = files_of([{"path": "/a"}, {"path": "/log"}], {"/log": 30 << 20}, problems)
    (one,) = found.checks()
    assert one.level is Level.OK and "1 that it writes travel with it: /log (30 MiB)" in one.reason
    assert (found.details["files"], found.details["folders"]) == ([{"path": "/log", "size": 30 << 20}], [])


def test_a_folder_that_is_missing_is_made_there():
    entry = {"path": "/var/lib/x", "mode": stat.S_IFDIR | 0o755}
    found = files_of([entry], {}, [{"path": "/var/lib/x", "problem": "No such file or directory"}])
    assert [c.level for c in found.checks()] == [Level.OK] and found.details["folders"] == ["/var/lib/x"]


def test_a_file_that_gives_way_on_the_target_is_named():
    found = files_of([{"path": "/log"}], {"/log": 4}, [], unfit=[{"path": "/log", "problem": ""}])
    fine, warned = found.checks()
    assert (fine.level, warned.level, warned.id) == (Level.OK, Level.WARN, "files-replaced")
    assert "give way: /log" in warned.reason and found.details["files"] == [{"path": "/log", "size": 4}]


def test_a_file_that_the_target_cannot_take_is_refused_with_the_reason():
    found = files_of(
        [{"path": "/log"}], {"/log": 4}, [], unfit=[{"path": "/log", "problem": "sh (7) has it open there"}]
    )
    (one,) = found.checks()
    assert one.level is Level.FAIL and "/log: sh (7) has it open there" in one.reason and found.details["files"] == []


def test_much_to_compare_is_told_before():
    found = said([], {"/big": MUCH_WRITTEN_BYTES}, [])
    assert [c.id for c in found] == ["files", "written-files"] and found[1].level is Level.WARN
