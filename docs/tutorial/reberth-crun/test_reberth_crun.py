"""The backend keeps the contract; run with: pytest test_reberth_crun.py"""

from __future__ import annotations

import pytest

from reberth.testing import BackendContract, tools

LDCONFIG = """
    def main(machine, words):
        machine.say("libcriu.so.2 (libc6,x86-64) => /lib/libcriu.so.2")
"""


class TestCrun(BackendContract):
    @pytest.fixture
    def plugin(self):
        return "crun"

    @pytest.fixture
    def tools(self, reberth_lab):
        reberth_lab.tool("crun", tools.OCI)
        reberth_lab.tool("criu", tools.CRIU)
        reberth_lab.tool("ldconfig", LDCONFIG)

    @pytest.fixture
    def start(self, reberth_lab):
        return lambda node: reberth_lab.container("crun", "web", node)
