"""What a plugin says of itself at load: backend, transport, connector, observer or wrapper."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from reberth_hooks.types import Channel, Mode

# The number of the contract. A release raises it when it takes away or changes a hook, a field or an operation that
# plugins use; what is only added keeps it. `OLDEST_API` is the oldest number that this release still takes.
API = OLDEST_API = 1


class Role(StrEnum):
    """What a plugin may be; one plugin can have several roles."""

    BACKEND = "backend"
    TRANSPORT = "transport"
    CONNECTOR = "connector"
    OBSERVER = "observer"
    WRAPPER = "wrapper"
    COMMANDS = "commands"


@dataclass(frozen=True, slots=True)
class Declaration:
    """Answer of `reberth_describe`.

    `summary` is one line for `reberth plugin ls`; `modes` is what a backend can do; `carries` is what a transport
    can carry, and what a backend can give to one beside files; `tools` are the programs it may run on a node; `options`
    the keys of its table in the configuration.
    `ignores` are the words of `move` (as in `[defaults]`) that a backend cannot honour, `knows` those that are its own
    (`Options.backend_args`): a word that would have no effect is refused, and in the configuration warned of.
    `api` is the number of the contract that the plugin was written for (docs/hooks.md).
    `managed` backends have daemons that freeze, do the rounds and carry the data by themselves: there is one round, no
    transport, and the phases hold the daemons' criu by `gate` and `fence` (docs/protocol.md).
    """

    summary: str
    roles: frozenset[Role]
    modes: frozenset[Mode] = frozenset()
    carries: frozenset[Channel] = frozenset()
    tools: tuple[str, ...] = ()
    options: frozenset[str] = field(default_factory=frozenset)
    managed: bool = False
    ignores: frozenset[str] = frozenset()
    knows: frozenset[str] = frozenset()
    api: int = 1
