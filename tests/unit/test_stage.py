"""The stage calls one plugin and its wrappers, and nobody else; it believes no answer that it did not check."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from reberth.plugin.catalog import Catalog
from reberth.plugin.stage import Stage
from reberth_hooks import (
    Channel,
    Checkpoint,
    Event,
    Exit,
    Mode,
    Node,
    Options,
    Plan,
    PluginError,
    Receipt,
    RefusedError,
    Restored,
    Round,
    Route,
    Tree,
    UsageError,
    Workload,
)

TREE = Tree("images", "/a", "/b")


def node(name: str, *, wrappers=(), backends=("runc", "criu"), transports=("ssh", "pages"), **more) -> Node:
    return Node(name, f"{name}.example", "ssh", "none", backends, transports, wrappers, **more)


@pytest.fixture
def theatre(make_plugin):
    """A stage with two backends, two transports, a wrapper and an observer, all loaded; modules by name."""
    sources = {"runc": "BACKEND", "criu": "BACKEND", "ssh": "TRANSPORT", "pages": "MEMORY"}
    modules = {name: make_plugin(name, source) for name, source in sources.items()}
    modules |= {"wrap": make_plugin("wrap", "WRAPPER"), "spy": make_plugin("spy", "OBSERVER")}
    catalog = Catalog(extra=modules, environ={"REBERTH_PLUGINS": ""})
    assert len(catalog.load_all()) == 6
    return SimpleNamespace(stage=Stage(catalog), catalog=catalog, **modules)


def a_move(source=None, target=None, *, backend="runc", routes=None):
    plan = Plan(
        id="r1",
        workload=Workload("a", backend, "web"),
        source=source or node("a"),
        target=target or node("b"),
        target_name="web",
        mode=Mode.STOP_AND_COPY,
        why="",
        options=Options(),
        routes=routes or {Channel.FILES: "ssh"},
    )
    return SimpleNamespace(id="r1", plan=plan)


def others_are_silent(theatre, *names: str) -> bool:
    return all(not getattr(theatre, n).calls for n in ("runc", "criu", "ssh", "pages", "wrap", "spy") if n not in names)


def test_each_phase_reaches_the_one_plugin_of_the_plan(theatre):
    move, stage = a_move(), theatre.stage
    assert stage.prepare(move) is True
    assert stage.receive(move, Round(0)) is True
    assert isinstance(stage.checkpoint(move, Round(0)), Checkpoint)
    receipt = stage.transfer(move, TREE)
    assert receipt == Receipt("images", "/b", 1, 1)
    assert stage.restore(move, (receipt,)) == Restored("web", 1)
    assert stage.commit(move) is True
    assert stage.rollback(move) is True
    words = [call if isinstance(call, str) else call[0] for call in theatre.runc.calls]
    assert words == ["prepare", "checkpoint", "restore", "commit", "rollback"]
    assert [call[0] for call in theatre.ssh.calls] == ["receive", "transfer"]
    assert others_are_silent(theatre, "runc", "ssh")


def test_connect_probe_list_survey_are_for_one_plugin(theatre, make_shell):
    a, b = node("a"), node("b")
    assert theatre.stage.connect(a) == Route(("reach", "a.example"))
    assert theatre.stage.probe("runc", a, make_shell(a)) == {"version": "1"}
    assert theatre.stage.probe("ssh", a, make_shell(a)) == {}
    assert [f.backend for f in theatre.stage.list("criu", a, make_shell(a))] == ["criu", "criu"]
    work = Workload("a", "runc", "web")
    survey = theatre.stage.survey("runc", work, "new", make_shell(a), make_shell(b), {"f": 1}, Options())
    assert survey.details == {"key": "kept"}
    assert theatre.runc.calls[-1] == ("survey", "a:runc/web", "new", "a", "b", {"f": 1}, Options())
    assert others_are_silent(theatre, "runc", "ssh")


@pytest.mark.parametrize(
    ("on_source", "on_target", "wrapped"),
    [((), (), False), (("wrap",), (), False), ((), ("wrap",), False), (("wrap",), ("wrap",), True)],
)
def test_a_wrapper_takes_part_when_both_nodes_enable_it(theatre, on_source, on_target, wrapped):
    move = a_move(node("a", wrappers=on_source), node("b", wrappers=on_target))
    assert isinstance(theatre.stage.checkpoint(move, Round(0)), Checkpoint)
    assert theatre.wrap.calls == (["before", "after"] if wrapped else [])


@pytest.mark.parametrize(("actor", "other"), [("runc", "criu"), ("criu", "runc")])
def test_another_backend_listed_as_wrapper_does_not_answer(theatre, actor, other):
    both = [node(name, wrappers=(other, "wrap")) for name in "ab"]
    theatre.stage.checkpoint(a_move(*both, backend=actor), Round(0))
    assert getattr(theatre, other).calls == []
    assert theatre.wrap.calls == ["before", "after"]
    assert [call[0] for call in getattr(theatre, actor).calls] == ["checkpoint"]


def test_wrappers_take_part_in_calls_for_one_node(theatre, make_plugin, make_shell):
    probe = (
        "@hookimpl(wrapper=True)\ndef reberth_probe(node):\n    facts = yield\n    return facts | {'seen': node.name}"
    )
    theatre.catalog._extra["more"] = make_plugin("more", "WRAPPER", probe)
    a = node("a", wrappers=("more",))
    assert theatre.stage.probe("runc", a, make_shell(a)) == {"version": "1", "seen": "a"}
    assert theatre.stage.probe("runc", node("b"), make_shell(a)) == {"version": "1"}


@pytest.mark.parametrize("lacking", ["a", "b"])
def test_a_plugin_that_a_node_does_not_enable_is_refused(theatre, lacking):
    nodes = [node(name, backends=("criu",)) if name == lacking else node(name) for name in "ab"]
    with pytest.raises(PluginError, match=f"plugin runc is not enabled on node {lacking}") as caught:
        theatre.stage.prepare(a_move(*nodes))
    assert caught.value.hint == f"reberth node enable {lacking} runc"
    assert caught.value.exit_code is Exit.PLUGIN
    assert theatre.runc.calls == []


def test_a_transport_that_a_node_does_not_enable_is_refused(theatre):
    move = a_move(target=node("b", transports=("ssh",)), routes={Channel.FILES: "ssh", Channel.MEMORY: "pages"})
    with pytest.raises(PluginError) as caught:
        theatre.stage.receive(move, Round(0))
    assert caught.value.hint == "reberth node enable b pages"


def test_receive_is_called_once_on_each_transport(theatre):
    routes = {Channel.FILES: "ssh", Channel.MEMORY: "pages"}
    assert theatre.stage.receive(a_move(routes=routes), Round(3)) is True
    assert theatre.ssh.calls == [("receive", Round(3))]
    assert theatre.pages.calls == ["receive"]
    theatre.stage.receive(a_move(routes={Channel.FILES: "ssh", Channel.MEMORY: "ssh"}), Round(4))
    assert theatre.ssh.calls == [("receive", Round(3)), ("receive", Round(4))]


def test_receive_passes_over_a_transport_that_opens_nothing(make_plugin):
    module = make_plugin("ssh", "TRANSPORT", "del reberth_receive")
    stage = Stage(Catalog(extra={"ssh": module}, environ={"REBERTH_PLUGINS": ""}))
    assert stage.receive(a_move(), Round(0)) is True


def test_receive_says_no_when_one_transport_does(theatre, make_plugin):
    no = "@hookimpl\ndef reberth_receive():\n    return False"
    theatre.catalog._extra["never"] = make_plugin("never", "MEMORY", no)
    nodes = [node(name, transports=("ssh", "never")) for name in "ab"]
    assert theatre.stage.receive(a_move(*nodes, routes={"x": "never", "y": "ssh"}), Round(0)) is False
    assert theatre.ssh.calls == [("receive", Round(0))]


def test_sync_is_for_backends_that_have_a_filesystem(make_plugin):
    assert perform(make_plugin, "", "sync") == []
    sync = "@hookimpl\ndef reberth_sync(move):\n    return [Tree('filesystem', '/a', '/b')]"
    assert perform(make_plugin, sync, "sync") == [Tree("filesystem", "/a", "/b")]
    with pytest.raises(PluginError, match="reberth_sync gave '/a', not Tree"):
        perform(make_plugin, sync.replace("Tree('filesystem', '/a', '/b')", "'/a'"), "sync")


def test_a_parcel_without_a_route_is_refused(theatre):
    with pytest.raises(PluginError, match="no transport of the plan carries its memory parcel"):
        theatre.stage.transfer(a_move(), Tree("images", "/a", "/b", channel=Channel.MEMORY))


def perform(make_plugin, change: str, hook: str = "checkpoint", wrapper: str = ""):
    """Run a changed backend's hook; `wrapper` is the source of a plugin around it."""
    modules = {"runc": make_plugin("runc", "BACKEND", change), "ssh": make_plugin("ssh", "TRANSPORT")}
    if wrapper:
        modules["wrap"] = make_plugin("wrap", "WRAPPER", wrapper)
    stage = Stage(Catalog(extra=modules, environ={"REBERTH_PLUGINS": ""}))
    wrappers = ("wrap",) if wrapper else ()
    move = a_move(*(node(name, wrappers=wrappers) for name in "ab"))
    return stage.checkpoint(move, Round(0)) if hook == "checkpoint" else getattr(stage, hook)(move)


@pytest.mark.parametrize(
    ("hook", "answer", "want"),
    [
        ("checkpoint", "None", "None, not Checkpoint"),
        ("checkpoint", "Restored('web', 1)", "not Checkpoint"),
        ("prepare", "None", "None, not bool"),
        ("commit", "1", "1, not bool"),
        ("rollback", "'yes'", "'yes', not bool"),
    ],
)
def test_an_answer_of_the_wrong_type_names_plugin_and_hook(make_plugin, hook, answer, want):
    with pytest.raises(PluginError) as caught:
        perform(make_plugin, f"@hookimpl\ndef reberth_{hook}():\n    return {answer}", hook)
    assert caught.value.message.startswith(f"plugin runc: reberth_{hook} gave ")
    assert caught.value.message.endswith(want)


def test_a_list_of_something_else_is_refused(make_plugin, make_shell):
    module = make_plugin("runc", "BACKEND", "@hookimpl\ndef reberth_list():\n    return ['web']")
    stage = Stage(Catalog(extra={"runc": module}, environ={"REBERTH_PLUGINS": ""}))
    with pytest.raises(PluginError, match="reberth_list gave 'web', not Found"):
        stage.list("runc", node("a"), make_shell(node("a")))


def test_an_answer_spoiled_by_a_wrapper_says_who_wrapped(make_plugin):
    wrapper = "@hookimpl(wrapper=True)\ndef reberth_checkpoint():\n    yield\n    return 5"
    with pytest.raises(PluginError, match=r"reberth_checkpoint \(wrapped by wrap\) gave 5, not Checkpoint"):
        perform(make_plugin, "", wrapper=wrapper)


def test_an_exception_becomes_a_plugin_error_with_its_cause(make_plugin):
    with pytest.raises(PluginError) as caught:
        perform(make_plugin, "@hookimpl\ndef reberth_checkpoint():\n    return {}['pid']")
    assert caught.value.message == "plugin runc: reberth_checkpoint failed: KeyError: 'pid'"
    assert isinstance(caught.value.__cause__, KeyError)
    assert "reberth plugin show runc" in caught.value.hint


@pytest.mark.parametrize(
    ("inner", "outer", "culprit"),
    [
        ("return {}['pid']", "return (yield)", "runc"),
        ("return {}['pid']", "try:\n        return (yield)\n    finally:\n        calls.append('left')", "runc"),
        ("return None", "yield\n    return {}['pid']", "wrap"),
        ("return None", "{}['pid']\n    yield", "wrap"),
    ],
)
def test_the_plugin_whose_code_raised_is_named(make_plugin, inner, outer, culprit):
    with pytest.raises(PluginError) as caught:
        perform(
            make_plugin,
            f"@hookimpl\ndef reberth_checkpoint():\n    {inner}",
            wrapper=f"@hookimpl(wrapper=True)\ndef reberth_checkpoint():\n    {outer}",
        )
    assert caught.value.message.startswith(f"plugin {culprit}: reberth_checkpoint failed: KeyError")


def test_errors_of_ours_and_interrupts_pass_unchanged(make_plugin):
    with pytest.raises(RefusedError, match="no"):
        perform(make_plugin, "@hookimpl\ndef reberth_checkpoint():\n    raise RefusedError('no')")
    with pytest.raises(KeyboardInterrupt):
        perform(make_plugin, "@hookimpl\ndef reberth_checkpoint():\n    raise KeyboardInterrupt")


def test_a_hook_that_the_actor_lacks_is_named(theatre):
    with pytest.raises(PluginError, match="plugin pages: it has no reberth_transfer"):
        theatre.stage.transfer(a_move(routes={Channel.FILES: "pages"}), TREE)


def test_an_option_that_the_plugin_does_not_know_is_a_usage_error(make_plugin):
    describe = """
        @hookimpl
        def reberth_describe():
            roles = frozenset({Role.TRANSPORT, Role.CONNECTOR})
            return Declaration("t", roles, carries=frozenset({Channel.FILES}), options=frozenset({"port"}))
        """
    stage = Stage(Catalog(extra={"ssh": make_plugin("ssh", "TRANSPORT", describe)}, environ={"REBERTH_PLUGINS": ""}))
    stage.connect(node("a", options={"ssh": {"port": 22}}))
    with pytest.raises(UsageError, match=r"node a: plugin ssh has no option 'prt' \(did you mean port\?\)"):
        stage.connect(node("a", options={"ssh": {"prt": 22}}))


def test_observers_hear_events_and_cannot_stop_them(make_plugin, caplog):
    angry = "@hookimpl\ndef reberth_event(event):\n    raise RuntimeError('no ears')"
    modules = {
        "angry": make_plugin("angry", "OBSERVER", angry),
        "calm": make_plugin("calm", "OBSERVER"),
        "late": make_plugin("late", "OBSERVER"),
        "runc": make_plugin("runc", "BACKEND", "@hookimpl\ndef reberth_event(event):\n    calls.append(event)"),
    }
    stage = Stage(Catalog(extra=modules, environ={"REBERTH_PLUGINS": ""}))
    for name in ("angry", "calm", "runc"):
        stage.catalog.get(name)
    with caplog.at_level(logging.WARNING, "reberth"):
        stage.event(Event("phase", "prepare"))
    assert modules["calm"].calls == [Event("phase", "prepare")]
    assert modules["late"].calls == modules["runc"].calls == []
    assert "plugin angry: reberth_event failed" in caplog.text


def test_an_interrupt_passes_through_an_observer(make_plugin):
    stop = "@hookimpl\ndef reberth_event(event):\n    raise KeyboardInterrupt"
    stage = Stage(Catalog(extra={"spy": make_plugin("spy", "OBSERVER", stop)}, environ={"REBERTH_PLUGINS": ""}))
    stage.catalog.get("spy")
    with pytest.raises(KeyboardInterrupt):
        stage.event(Event("end"))


def test_commands_come_from_every_sound_plugin(make_plugin, caplog):
    commands = """
        @hookimpl
        def reberth_describe():
            return Declaration("c", frozenset({Role.COMMANDS}))

        @hookimpl
        def reberth_commands(app):
            app.append(NAME)
        """
    modules = {name: make_plugin(name, commands) for name in ("one", "two")}
    modules["bad"] = make_plugin("bad", commands, "@hookimpl\ndef reberth_commands(app):\n    1 / 0")
    modules["spy"] = make_plugin("spy", "OBSERVER")
    stage = Stage(Catalog(extra=modules, environ={"REBERTH_PLUGINS": ""}))
    app: list[str] = []
    with caplog.at_level(logging.WARNING, "reberth"):
        stage.commands(app)
    assert app == ["one", "two"]
    assert "plugin bad: reberth_commands failed: ZeroDivisionError" in caplog.text
    stage.commands(app, ["two"])
    assert app == ["one", "two", "two"]
