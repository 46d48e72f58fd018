"""Entry point: ``python3 -S -B FOLDER KIND|prepare|ask|bundle …``."""

from __future__ import annotations

import os
import sys

# Run as a folder, Python puts the folder itself first; the modules are imported as workloads.X from its parent.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from workloads.cli import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
