"""How the node helper gets to a node: one fixed line as an argument, the program itself through standard input.

Nothing is installed. The line prints a mark, behind which the stream is ours whatever a login has printed, and runs
the first program of the helper (`reberth.node.daemon.start`): for a controller from the connection, for data from
the directory of the helper that runs already. It is one line without quotes that a shell could take amiss, since csh
cannot quote a newline and fish halves backslashes. It names no module of ours, so its SHA-256 stays the same.
"""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

from reberth.node.daemon.start import MARK as MARK

HERE = Path(__file__).parents[1]
BOOT = (
    'import io,os,sys;os.write(1,bytes(1)+b"reberth"+bytes(1));'
    "read=io.BufferedReader(io.FileIO(0,closefd=False),1).read;"
    'program=read(int(read(10)or sys.exit(75)))if sys.argv[1]=="control"else '
    'open(os.path.dirname(sys.argv[2])+"/start.py","rb").read();'
    "exec(program)"
)
START = (HERE / "node/daemon/start.py").read_bytes()


@functools.cache
def archive() -> bytes:
    """Return the helper's modules as a zip file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("reberth/__init__.py", "")
        for path in sorted((HERE / "node").rglob("*.py")):
            made.writestr(f"reberth/{path.relative_to(HERE)}", path.read_bytes())
    return data.getvalue()


def program() -> bytes:
    """Return what a controller sends first.

    The first program and the zip file, each preceded by its length in ten digits.
    """
    return b"".join(b"%010d" % len(part) + part for part in (START, archive()))


def control_argv() -> list[str]:
    """Return what starts a helper on a node."""
    return ["python3", "-I", "-c", BOOT, "control"]


def bulk_argv(socket_path: str, what: str = "bulk") -> list[str]:
    """Return what hands a data connection to the helper that listens there.

    For trees (`bulk`), for `pages` or a `probe`.
    """
    return ["python3", "-I", "-c", BOOT, "bulk", socket_path, what]
