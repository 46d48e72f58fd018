"""The contract kit: what a plugin must keep, as test classes that its author inherits.

    from reberth.testing import BackendContract

Nothing is imported before it is named, since this package is found by pytest in every environment that has reberth.
The tutorial (docs/tutorial-backend.md) shows how to use it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from reberth.testing.backend import BackendContract
    from reberth.testing.connector import ConnectorContract
    from reberth.testing.lab import Lab, Started
    from reberth.testing.plain import PluginContract
    from reberth.testing.saboteur import Saboteur
    from reberth.testing.transport import TransportContract

_PLACES = {
    "BackendContract": "backend",
    "ConnectorContract": "connector",
    "Lab": "lab",
    "PluginContract": "plain",
    "Saboteur": "saboteur",
    "Started": "lab",
    "TransportContract": "transport",
}
__all__ = [
    "BackendContract",
    "ConnectorContract",
    "Lab",
    "PluginContract",
    "Saboteur",
    "Started",
    "TransportContract",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
