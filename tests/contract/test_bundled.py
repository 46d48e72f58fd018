"""The bundled plugins keep the contract that the kit gives to everybody."""

from __future__ import annotations

import pytest

from reberth.testing import BackendContract, tools


class TestCriu(BackendContract):
    """Bare processes: what is named by its pid."""

    @pytest.fixture
    def plugin(self):
        return "criu"

    @pytest.fixture
    def tools(self, reberth_lab):
        reberth_lab.tool("criu", tools.CRIU)

    @pytest.fixture
    def start(self, reberth_lab):
        return reberth_lab.process

    @pytest.fixture
    def failing(self):
        return {"checkpoint": "dump", "restore": "restore"}


class TestRunc(BackendContract):
    """Containers: a bundle travels with them and stays behind."""

    @pytest.fixture
    def plugin(self):
        return "runc"

    @pytest.fixture
    def tools(self, reberth_lab):
        reberth_lab.tool("runc", tools.OCI)
        reberth_lab.tool("criu", tools.CRIU)
        reberth_lab.tool("du", tools.DU)

    @pytest.fixture
    def start(self, reberth_lab):
        return lambda node: reberth_lab.container("runc", "web", node)
