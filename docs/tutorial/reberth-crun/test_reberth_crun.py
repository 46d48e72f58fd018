"""The backend keeps the contract; run with: pytest test_reberth_crun.py"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from reberth.testing import BackendContract, Lab, Started, tools

LDCONFIG = """
    def main(machine, words):
        machine.say("libcriu.so.2 (libc6,x86-64) => /lib/libcriu.so.2")
"""


class TestCrun(BackendContract):
    @pytest.fixture
    def plugin(self) -> str:
        return "crun"

    @pytest.fixture
    def tools(self, reberth_lab: Lab) -> None:
        reberth_lab.tool("crun", tools.OCI)
        reberth_lab.tool("criu", tools.CRIU)
        reberth_lab.tool("du", tools.DU)
        reberth_lab.tool("ldconfig", LDCONFIG)

    @pytest.fixture
    def start(self, reberth_lab: Lab) -> Callable[[str], Started]:
        return lambda node: reberth_lab.container("crun", "web", node)
