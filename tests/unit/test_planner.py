"""From words to a plan: what is chosen, what is refused and with which exit code, before anything is touched."""

from __future__ import annotations

import pytest

from reberth.config import names
from reberth.config.config import Config
from reberth.config.request import Request
from reberth.plan import planner
from reberth.plugin.catalog import Catalog
from reberth.plugin.stage import Stage
from reberth_hooks import (
    BusyError,
    Channel,
    CommandError,
    ConnectionLostError,
    Exit,
    HelperError,
    Level,
    Mode,
    Node,
    Options,
    PluginError,
    UnreachableError,
    UsageError,
    Workload,
)


def test_a_plain_move(world):
    plan = world.plan("web", "pi2:")
    assert plan.id == "20261123-142501-a3f2"
    assert plan.workload == Workload("local", "runc", "web")
    assert (plan.source.name, plan.target.name, plan.target_name) == ("local", "pi2", "web")
    assert plan.routes == {Channel.FILES: "ssh"}
    assert plan.mode is Mode.STOP_AND_COPY
    assert plan.why == "stop-and-copy: the one mode that this version of the backend offers"
    assert plan.details == {"key": "kept"}
    assert plan.facts["source"]["runc"] == {"version": "1"}
    assert plan.facts["target"]["hello"]["arch"] == "x86_64"
    assert plan.facts["target"]["ssh"] == {}
    assert plan.refused == ()
    assert world.reached == ["local", "pi2"]


def test_the_backend_is_asked_with_the_facts_and_the_new_name(world):
    plan = world.plan("pi1:runc/web", "pi2:web2", tcp_established=True)
    asked = world.modules["runc"].calls[-1]
    assert asked[:5] == ("survey", "pi1:runc/web", "web2", "pi1", "pi2")
    assert asked[5] == {side: plan.facts[side] for side in ("source", "target")}
    assert asked[6] == Options(tcp_established=True)
    assert plan.target_name == "web2"


def test_only_the_backend_of_the_plan_is_probed(world):
    world.plan("runc/web", "pi2:")
    assert [call[0] for call in world.modules["runc"].calls] == ["probe", "probe", "survey"]
    assert world.modules["criu"].calls == []


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("we b", "pi2:", "'we b' is no workload name"),
        ("web", "pi2:a:b", "is not"),
        ("web", "pi3:", r"there is no node 'pi3' (did you mean"),
        ("pi9:web", "pi2:", "there is no node 'pi9' (did you mean"),
        ("pi2:web", "pi2:", "source and target are the same node, pi2"),
        ("web", "web2", "source and target are the same node, local"),
        ("podman/web", "pi2:", "there is no backend 'podman'"),
        ("ssh/web", "pi2:", "plugin ssh is no backend"),
        ("runc:web", "pi2:", "there is no node 'runc'"),
    ],
)
def test_wrong_words_reach_no_node(world, source, target, message):
    with pytest.raises(UsageError) as caught:
        world.plan(source, target)
    assert message in caught.value.message
    assert world.reached == []


def test_a_target_without_colon_that_is_a_node_says_what_to_write(world):
    with pytest.raises(UsageError) as caught:
        world.plan("web", "pi2")
    assert "write pi2:" in caught.value.hint


def test_two_names_of_one_machine(world):
    for name in ("pi1", "pi2"):
        world.machine(name, boot_id="the-same")
    with pytest.raises(UsageError, match="pi1 and pi2 are two names of the same machine"):
        world.plan("pi1:web", "pi2:")
    world.machine("pi2", pid_ns="pid:[2]")
    assert world.plan("pi1:web", "pi2:").refused == ()


def test_a_node_that_cannot_be_reached_is_not_our_business(world, mocker):
    shells = mocker.Mock(side_effect=UnreachableError("node pi2 does not answer"))
    with pytest.raises(UnreachableError):
        planner.make_plan(
            Request("runc/web", "pi2:"),
            Config(world.nodes),
            Stage(Catalog(extra=world.modules, environ={"REBERTH_PLUGINS": ""})),
            shells,
        )


# The backend


def test_no_backend_has_the_workload(world):
    with pytest.raises(UsageError, match=r"no workload wep on node local \(did you mean web\?\)") as caught:
        world.plan("wep", "pi2:")
    assert caught.value.hint == "to see them: reberth ls local"
    assert caught.value.exit_code is Exit.USAGE


def test_two_backends_have_the_workload(world):
    world.modules["criu"] = world.make_plugin("criu", "BACKEND")
    with pytest.raises(UsageError, match="runc and criu both have web") as caught:
        world.plan("web", "pi2:")
    assert caught.value.hint == "write local:runc/web or local:criu/web"
    assert world.plan("criu/web", "pi2:").workload.backend == "criu"
    assert world.plan("web", "pi2:", backend="criu").workload.backend == "criu"


def test_digits_are_a_process_unless_a_container_has_that_name(world):
    assert world.plan("4711", "pi2:").workload == Workload("local", "criu", "4711")
    assert "list" not in world.modules["criu"].calls
    found = "@hookimpl\ndef reberth_list():\n    return [Found('runc', '4711', 'running')]"
    world.modules["runc"] = world.make_plugin("runc", "BACKEND", found)
    with pytest.raises(UsageError) as caught:
        world.plan("4711", "pi2:")
    assert caught.value.hint == "write local:runc/4711 or local:criu/4711"


def test_a_backend_that_cannot_be_asked_is_told_when_nobody_has_it(world):
    broken = "@hookimpl\ndef reberth_list():\n    raise CommandError('runc is not there')"
    world.modules["runc"] = world.make_plugin("runc", "BACKEND", broken)
    with pytest.raises(UsageError, match="runc could not be asked: runc is not there"):
        world.plan("web", "pi2:")
    world.modules["criu"] = world.make_plugin("criu", "BACKEND")
    assert world.plan("web", "pi2:").workload.backend == "criu"


def test_only_enabled_and_installed_backends_are_asked(world):
    world.nodes["local"] = Node("local", connector="ssh", backends=("criu", "podman"), transports=("ssh",))
    with pytest.raises(UsageError, match=r"there is no workload web on node local$"):
        world.plan("web", "pi2:")
    assert world.modules["runc"].calls == []


def test_two_backends_named_at_once(world):
    with pytest.raises(UsageError, match="the source says backend runc, --backend says criu"):
        world.plan("runc/web", "pi2:", backend="criu")
    assert world.plan("runc/web", "pi2:", backend="runc").workload.backend == "runc"


@pytest.mark.parametrize("source", ["web", "runc/web"])
@pytest.mark.parametrize("lacking", ["pi1", "pi2"])
def test_a_backend_that_a_node_does_not_enable(world, source, lacking):
    world.nodes[lacking] = Node(lacking, backends=("criu",), transports=("ssh",))
    if source == "web" and lacking == "pi1":
        with pytest.raises(UsageError, match="no workload web"):
            world.plan("pi1:web", "pi2:")
        return
    with pytest.raises(PluginError, match=f"plugin runc is not enabled on node {lacking}") as caught:
        world.plan(f"pi1:{source}", "pi2:")
    assert caught.value.hint == f"reberth node enable {lacking} runc"
    assert caught.value.exit_code is Exit.PLUGIN
    assert bool(world.reached) is (source == "web")  # a backend that is named is judged before any node is reached


# The way


def test_a_named_transport_carries_what_it_can(world):
    assert world.plan(transports=("pages",)).routes == {Channel.FILES: "ssh", Channel.MEMORY: "pages"}
    assert world.plan(transports=("ssh", "pages")).routes == {Channel.FILES: "ssh", Channel.MEMORY: "pages"}
    assert world.plan(transports=("ssh", "ssh")).routes == {Channel.FILES: "ssh"}


FEW_MODES = """
@hookimpl
def reberth_describe():
    modes = frozenset({Mode.STOP_AND_COPY, Mode.PRE_COPY})
    return Declaration("pages", frozenset({Role.TRANSPORT}), carries=frozenset({Channel.MEMORY}), modes=modes)
"""
ALL_MODES = """
@hookimpl
def reberth_describe():
    modes = frozenset({Mode.STOP_AND_COPY, Mode.POST_COPY, Mode.HYBRID})
    return Declaration("a backend", frozenset({Role.BACKEND}), modes=modes, carries=frozenset({Channel.MEMORY}))
"""


@pytest.mark.parametrize(("order", "memory"), [(("pages", "ssh"), True), (("ssh", "pages"), False)])
def test_memory_has_its_own_way_where_it_stands_before_that_of_files(world, order, memory):
    for name in ("pi1", "pi2"):
        world.nodes[name] = Node(name, backends=("runc",), transports=order)
    routes = world.plan("pi1:runc/web", "pi2:").routes
    assert routes == {Channel.FILES: "ssh", **({Channel.MEMORY: "pages"} if memory else {})}
    world.nodes["pi2"] = Node("pi2", backends=("runc",), transports=("ssh",))
    assert world.plan("pi1:runc/web", "pi2:").routes == {Channel.FILES: "ssh"}
    for name in ("pi1", "pi2"):
        world.nodes[name] = Node(name, backends=("runc",), transports=("pages", "ssh"))
    assert world.plan("pi1:runc/web", "pi2:", transports=("ssh",)).routes == {Channel.FILES: "ssh"}


def test_a_mode_that_the_way_of_memory_does_not_do(world):
    """Listed: memory goes with the files. Named: refused, and `auto` keeps to what it does."""
    world.modules["pages"] = world.make_plugin("pages", "MEMORY", FEW_MODES)
    world.modules["runc"] = world.make_plugin("runc", "BACKEND", ALL_MODES)
    for name in ("pi1", "pi2"):
        world.nodes[name] = Node(name, backends=("runc",), transports=("pages", "ssh"))
    asked = {"mode": Mode.POST_COPY}
    assert world.plan("pi1:runc/web", "pi2:", **asked).routes == {Channel.FILES: "ssh"}
    with pytest.raises(UsageError, match="does not offer post-copy by transport pages") as caught:
        world.plan("pi1:runc/web", "pi2:", transports=("pages",), **asked)
    assert caught.value.hint == "it offers stop-and-copy"
    plan = world.plan("pi1:runc/web", "pi2:")
    assert plan.routes == {Channel.FILES: "ssh", Channel.MEMORY: "pages"}
    assert {"post-copy", "hybrid"} <= set(plan.facts["unfit"])  # `reberth set ID mode=post-copy` is told so


NO_PAGES = """
@hookimpl
def reberth_describe():
    return Declaration("a backend", frozenset({Role.BACKEND}), modes=frozenset({Mode.STOP_AND_COPY}))
"""


def test_a_backend_that_has_no_pages_for_a_transport(world):
    """As LXD's, whose server starts criu: listed, memory goes with the files; named, it is refused."""
    world.modules["runc"] = world.make_plugin("runc", "BACKEND", NO_PAGES)
    for name in ("pi1", "pi2"):
        world.nodes[name] = Node(name, backends=("runc",), transports=("pages", "ssh"))
    assert world.plan("pi1:runc/web", "pi2:").routes == {Channel.FILES: "ssh"}
    with pytest.raises(UsageError, match="gives no pages to transport pages"):
        world.plan("pi1:runc/web", "pi2:", transports=("pages",))


def test_a_named_transport_is_used_or_refused(world):
    world.modules["rsync"] = world.make_plugin("rsync", "TRANSPORT")
    for name in ("local", "pi2"):
        world.nodes[name] = Node(name, backends=("runc",), transports=("ssh", "rsync"))
    assert world.plan(transports=("rsync",)).routes == {Channel.FILES: "rsync"}
    with pytest.raises(UsageError, match="transport rsync would carry nothing beside ssh"):
        world.plan(transports=("ssh", "rsync"))


@pytest.mark.parametrize("lacking", ["local", "pi2"])
def test_a_named_transport_that_is_not_enabled(world, lacking):
    world.nodes[lacking] = Node(lacking, backends=("runc",), transports=("ssh",))
    with pytest.raises(PluginError, match=f"plugin pages is not enabled on node {lacking}") as caught:
        world.plan(transports=("pages",))
    assert caught.value.hint == f"reberth node enable {lacking} pages"
    assert world.reached == []


@pytest.mark.parametrize(("name", "message"), [("sssh", r"no transport 'sssh' \(did you"), ("runc", "is no transport")])
def test_a_named_transport_that_is_none(world, name, message):
    with pytest.raises(UsageError, match=message):
        world.plan(transports=(name,))


def test_nothing_carries_files(world):
    world.nodes["pi2"] = Node("pi2", backends=("runc",), transports=("pages",))
    with pytest.raises(PluginError, match="no transport that carries files is enabled on both nodes") as caught:
        world.plan()
    assert caught.value.hint == "reberth node enable pi2 ssh"
    assert world.reached == []


def test_a_broken_transport_is_passed_over_but_named_when_it_was_the_only_one(world):
    world.modules["bad"] = world.make_plugin("bad", "TRANSPORT", "@hookimpl\ndef reberth_describe(): 1 / 0")
    for name in ("local", "pi2"):
        world.nodes[name] = Node(name, backends=("runc",), transports=("bad", "ssh"))
    assert world.plan().routes == {Channel.FILES: "ssh"}
    for name in ("local", "pi2"):
        world.nodes[name] = Node(name, backends=("runc",), transports=("bad",))
    with pytest.raises(PluginError, match="plugin bad: at load: ZeroDivisionError"):
        world.plan()


# The mode


def offering(world, *modes: str) -> None:
    names_of = ", ".join(f"Mode.{mode}" for mode in modes)
    describe = f"""
        @hookimpl
        def reberth_describe():
            return Declaration("b", frozenset({{Role.BACKEND}}), modes=frozenset([{names_of}]))
        """
    world.modules["runc"] = world.make_plugin("runc", "BACKEND", describe)


def test_a_mode_that_the_backend_lacks(world):
    with pytest.raises(UsageError, match="backend runc does not offer pre-copy") as caught:
        world.plan(mode=Mode.PRE_COPY)
    assert caught.value.hint == "it offers stop-and-copy"
    assert world.plan(mode=Mode.STOP_AND_COPY).why == "stop-and-copy: as asked"


def test_auto_takes_the_plainest(world):
    offering(world, "PRE_COPY", "STOP_AND_COPY")
    plan = world.plan()
    assert plan.mode is Mode.STOP_AND_COPY
    assert plan.why == "stop-and-copy: the plainest that the backend offers"
    assert world.plan(mode=Mode.PRE_COPY).mode is Mode.PRE_COPY
    offering(world, "POST_COPY")
    assert world.plan().mode is Mode.POST_COPY
    offering(world)
    with pytest.raises(PluginError, match="it declares no mode"):
        world.plan()


# The id


def test_ids_are_names_and_differ():
    ids = {planner.run_id() for _ in range(5)}
    assert len(ids) > 1
    assert all(names.is_name(id) for id in ids)


def test_an_id_that_is_no_name_is_refused(world):
    stage = Stage(Catalog(extra=world.modules, environ={"REBERTH_PLUGINS": ""}))
    shells = world.shells
    world.machine("local"), world.machine("pi2")
    with pytest.raises(UsageError, match="is no run id"):
        planner.make_plan(Request("web", "pi2:"), Config(world.nodes), stage, shells.__getitem__, lambda: "../x")


@pytest.mark.parametrize(
    ("error", "want", "exit_code"),
    [
        (CommandError("so it is"), CommandError, Exit.REFUSED),
        (HelperError("so it is"), HelperError, Exit.REFUSED),
        (ConnectionLostError("so it is"), UnreachableError, Exit.UNREACHABLE),
        (BusyError("so it is"), BusyError, Exit.BUSY),
    ],
)
def test_errors_while_planning_say_that_nothing_was_touched(world, mocker, error, want, exit_code):
    stage = Stage(Catalog(extra=world.modules, environ={"REBERTH_PLUGINS": ""}))
    mocker.patch.object(Stage, "survey", autospec=True, side_effect=error)
    world.machine("local"), world.machine("pi2")
    with pytest.raises(want) as caught:
        planner.make_plan(Request("web", "pi2:"), Config(world.nodes), stage, world.shells.__getitem__)
    assert caught.value.exit_code is exit_code
    assert caught.value.message == "so it is"


DEAF = """
@hookimpl
def reberth_describe():
    modes, ignores = frozenset({Mode.STOP_AND_COPY}), frozenset({"bandwidth", "lazy_restore"})
    return Declaration("a backend", frozenset({Role.BACKEND}), modes=modes, ignores=ignores, knows=frozenset({"mine"}))
"""


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"bandwidth_bytes_s": 9, "given": ("bandwidth",)}, "--bandwidth"),
        ({"lazy_restore": False, "given": ("lazy_restore",)}, "--no-lazy-restore"),
        ({"backend_args": {"keep_source": True}}, "--keep-source"),
    ],
)
def test_a_wish_that_would_have_no_effect_is_refused(world, options, flag):
    world.modules["runc"] = world.make_plugin("runc", "BACKEND", DEAF)
    with pytest.raises(UsageError, match=f"backend runc does not know {flag}"):
        world.plan("pi1:web", "pi2:", **options)
    reached = list(world.reached)
    with pytest.raises(UsageError, match=flag):
        world.plan("pi1:runc/web", "pi2:", **options)
    assert world.reached == reached  # where the backend is named, no node is asked


def test_a_default_that_has_no_effect_is_told(world):
    world.modules["runc"] = world.make_plugin("runc", "BACKEND", DEAF)
    plan = world.plan("pi1:web", "pi2:", bandwidth_bytes_s=9, backend_args={"mine": True})
    told = [(check.level, check.reason) for check in plan.checks if check.id == "default-ignored"]
    assert told == [(Level.WARN, "bandwidth of the configuration has no effect: backend runc does not know it")]
    assert plan.refused == ()
