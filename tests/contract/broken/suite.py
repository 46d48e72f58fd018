"""The contract on each plugin of this folder; `test_kit.py` runs it in a process of its own and reads what failed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from reberth.testing import BackendContract, ConnectorContract, TransportContract, tools

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
MKDIR = """
    from reberth.testing.machine import ToolError

    def main(machine, words):
        if machine.path(words[-1]).exists():
            raise ToolError("Error: it exists already")
        machine.path(words[-1]).mkdir(parents=True)
"""
TRUNCATE = """
    def main(machine, words):
        path = machine.path(words[-1])
        path.write_bytes(path.read_bytes()[:-1])
"""


class Backend(BackendContract):
    @pytest.fixture
    def plugin(self):
        return "demo"

    @pytest.fixture
    def tools(self, reberth_lab):
        reberth_lab.tool("demo", tools.OCI)
        reberth_lab.tool("mkdir", MKDIR)
        reberth_lab.tool("curl", tools.NOTHING)

    @pytest.fixture
    def start(self, reberth_lab):
        return lambda node: reberth_lab.container("demo", "web", node)


class Transport(TransportContract):
    @pytest.fixture
    def plugin(self):
        return "carrier"

    @pytest.fixture
    def tools(self, reberth_lab):
        reberth_lab.tool("truncate", TRUNCATE)


class Connector(ConnectorContract):
    @pytest.fixture
    def plugin(self):
        return "reach"

    @pytest.fixture
    def programs(self, reberth_lab):
        return reberth_lab.controller_tool("ssh", tools.SSH)


KINDS = {"good_backend": Backend, "good_transport": Transport, "good_connector": Connector}


def plugins():
    """Each plugin's module with the contract that it claims to keep."""
    for path in sorted(HERE.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        kind = next((k for k in KINDS if path.stem == k or f"from {k} import" in text), None)
        if kind:
            yield importlib.import_module(path.stem), KINDS[kind]


def suite_of(module, contract):
    """A test class of its own for one plugin."""
    members = {"module": pytest.fixture(lambda self: module)}
    if hasattr(module, "SECRETS"):
        members["secrets"] = pytest.fixture(lambda self: module.SECRETS)
    return type(f"Test_{module.__name__}", (contract,), members)


for found, kept in plugins():
    globals()[f"Test_{found.__name__}"] = suite_of(found, kept)
