"""How the node helper gets to a node: a few lines as one fixed argument, the program itself through standard input.

Nothing is installed. The lines make a private directory (0700), put the helper there as a zip file, and fork: the
child leaves the session and serves the connection, the parent stays so that sshd keeps the channel. In `bulk` mode
they hand their own two descriptors to a helper that runs already.
"""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

BOOT = r"""
import os, sys
def rd(n):
    b = b""
    while len(b) < n:
        c = os.read(0, n - len(b))
        if not c: sys.exit(75)
        b += c
    return b
def control():
    import fcntl, tempfile
    os.umask(0o77)
    z = rd(int(rd(10)))
    u = os.getuid()
    own = lambda: os.path.join(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir(), "reberth-%d" % u)
    base = "/run/reberth" if u == 0 else own()
    try: os.mkdir(base, 0o700)
    except FileExistsError: pass
    s = os.lstat(base)
    if s.st_uid != u or (s.st_mode & 0o170077) != 0o040000: sys.exit("reberth: %s is not private" % base)
    d = tempfile.mkdtemp(prefix="h-", dir=base)
    k = os.open(d, os.O_RDONLY); fcntl.flock(k, fcntl.LOCK_EX)
    p = os.path.join(d, "helper.zip")
    with open(p, "wb") as f: f.write(z)
    r, w = os.pipe()
    if os.fork():
        os.close(w); os.dup2(os.open("/dev/null", os.O_RDWR), 0); os.dup2(0, 1)
        os.read(r, 1); os._exit(0)
    os.close(r); os.setsid(); os.chdir("/")
    sys.path.insert(0, p); sys.dont_write_bytecode = True
    try:
        from reberth.node.daemon.loop import main
        main(d, w)
    finally:
        import shutil; shutil.rmtree(d, True)
def bulk(path, what):
    import socket, array
    s = socket.socket(socket.AF_UNIX); s.connect(path)
    s.sendmsg([what.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1]))])
    os.dup2(os.open("/dev/null", os.O_RDWR), 0); os.dup2(0, 1)
    s.recv(1)
(control if sys.argv[1] == "control" else bulk)(*sys.argv[2:])
"""


@functools.cache
def program() -> bytes:
    """The helper's modules as a zip file, preceded by its length in ten digits."""
    here = Path(__file__).parents[1]
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("reberth/__init__.py", "")
        for path in sorted((here / "node").rglob("*.py")):
            archive.writestr(f"reberth/{path.relative_to(here)}", path.read_bytes())
    return b"%010d" % len(data.getvalue()) + data.getvalue()


def control_argv() -> list[str]:
    """What starts a helper on a node."""
    return ["python3", "-I", "-c", BOOT, "control"]


def bulk_argv(socket_path: str, what: str = "bulk") -> list[str]:
    """What hands a data connection to the helper that listens there: for trees (`bulk`) or for `pages`."""
    return ["python3", "-I", "-c", BOOT, "bulk", socket_path, what]
