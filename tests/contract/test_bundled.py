"""The bundled plugins keep the contract that the kit gives to everybody."""

from __future__ import annotations

import os
import sys

import pytest

from reberth.testing import BackendContract, ConnectorContract, TransportContract, tools
from reberth.testing.plain import PluginContract
from reberth.testing.saboteur import wire
from reberth_hooks import Channel, Mode, Role


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


class TestSshCarries(TransportContract):
    """The transport's half of ssh."""

    @pytest.fixture
    def plugin(self):
        return "ssh"


class TestPageServerCarries(PluginContract):
    """Memory alone: what the kit's trees cannot show is in tests/unit/test_page_flow.py."""

    @pytest.fixture
    def plugin(self):
        return "page-server"

    def test_it_is_a_transport_for_memory(self, said):
        assert (said.roles, said.carries) == ({Role.TRANSPORT}, {Channel.MEMORY})
        assert said.modes == {Mode.STOP_AND_COPY, Mode.PRE_COPY}


class TestSshReaches(ConnectorContract):
    """The connector's half, by a fake ssh that hands the words to a shell as sshd does."""

    @pytest.fixture
    def plugin(self):
        return "ssh"

    @pytest.fixture
    def options(self):
        return {"user": "root", "port": 2222, "identity": "/nowhere/key", "known_hosts": "/nowhere/known"}

    @pytest.fixture
    def programs(self, reberth_lab):
        return reberth_lab.controller_tool("ssh", tools.SSH)


class TestLocalReaches(ConnectorContract):
    """This machine, without any words before a command."""

    @pytest.fixture
    def plugin(self):
        return "local"

    @pytest.fixture
    def far(self):
        return False


class TestAndroidCarries(TransportContract):
    """Between two nodes that have helpers, the same way as ssh."""

    @pytest.fixture
    def plugin(self):
        return "android"


class TestAndroidReaches(ConnectorContract):
    """A phone with Python, by the same fake ssh; its places for programs are those of this machine here."""

    @pytest.fixture
    def plugin(self):
        return "android"

    @pytest.fixture
    def options(self):
        return {"port": 2222, "python": sys.executable, "known_hosts": "/nowhere/known"}

    @pytest.fixture(autouse=True)
    def as_here(self, monkeypatch):
        place = ("/usr/bin/env", f"PATH={os.environ['PATH']}", "TMPDIR=/tmp")
        monkeypatch.setattr("reberth_android.route.ENVIRONMENT", place)

    @pytest.fixture
    def programs(self, reberth_lab):
        return reberth_lab.controller_tool("ssh", tools.SSH)


class TestWireCarries(TransportContract):
    """The kit's own transport, under which backends are tried."""

    @pytest.fixture
    def plugin(self):
        return "wire"

    @pytest.fixture
    def module(self):
        return wire()

    def test_describing_has_no_side_effect(self):
        """It is made in memory, there is no file to import."""
