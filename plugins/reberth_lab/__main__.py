"""`python -m reberth_lab up` is `reberth lab up`; it needs the plugin and the contract, but not the host."""

from __future__ import annotations

from reberth_lab.cli import lab_commands

if __name__ == "__main__":
    lab_commands()(prog_name="reberth lab")
