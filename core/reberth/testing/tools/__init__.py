"""Fake tools that many plugins need: `CRIU`, `OCI` (runc, crun and their like), `SSH`, and a few small ones.

Each is a file with `main(machine, words)`; `Lab.tool(name, FILE)` puts it on a node under any name.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
CRIU = _HERE / "criu.py"
OCI = _HERE / "oci.py"
SSH = _HERE / "ssh.py"
DU = _HERE / "du.py"
NOTHING = _HERE / "nothing.py"
