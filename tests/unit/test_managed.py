"""Whether a backend's own daemons carry the data is what it declares, whatever carries it."""

from __future__ import annotations

from reberth_hooks import Channel, Mode, Node

BOTH = """
@hookimpl
def reberth_describe():
    modes = frozenset({Mode.STOP_AND_COPY, Mode.PRE_COPY})
    roles, carries = frozenset({Role.BACKEND, Role.TRANSPORT}), frozenset({Channel.FILES})
    return Declaration("a backend", roles, modes=modes, carries=carries)

@hookimpl
def reberth_transfer(move, parcel):
    return Receipt(parcel.kind, parcel.into, 100, 2)
"""


def test_a_backend_that_is_a_transport_as_well_is_not_carried_by_daemons(world):
    """Rounds of a pre-copy are ours to do: only `Declaration.managed` says that daemons do them."""
    world.modules["runc"] = world.make_plugin("runc", "BACKEND", BOTH)
    for name in ("pi1", "pi2"):
        world.nodes[name] = Node(name, backends=("runc",), transports=("runc",))
    plan = world.plan("pi1:runc/web", "pi2:", mode=Mode.PRE_COPY)
    assert plan.routes == {Channel.FILES: "runc"}
    assert (plan.managed, plan.rounds_mode) == (False, Mode.PRE_COPY)
