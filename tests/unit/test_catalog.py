"""The catalog finds plugins without importing them and judges each alone."""

from __future__ import annotations

import importlib
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from reberth.plugin.catalog import Catalog, _installed
from reberth_hooks import API, OLDEST_API, Exit, PluginError, Role

GOOD = """
from reberth_hooks import Declaration, Role, hookimpl

@hookimpl
def reberth_describe():
    return Declaration("good", frozenset({Role.OBSERVER}))

@hookimpl
def reberth_event(event):
    pass
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Install distributions: name, entry points (name = module) and the modules' sources."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def install(distribution: str, points: dict[str, str], modules: dict[str, str]) -> Path:
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        lines = "".join(f"{name} = {module}\n" for name, module in points.items())
        (info / "entry_points.txt").write_text(f"[reberth]\n{lines}")
        for module, source in modules.items():
            (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        return tmp_path

    yield install
    for name in set(sys.modules) - before:
        if name.startswith("fx_"):
            del sys.modules[name]


def only(*names: str) -> Catalog:
    return Catalog(environ={"REBERTH_PLUGINS": ",".join(names)})


def test_names_are_known_without_importing(site):
    site("fx-dist", {"fx-one": "fx_one", "fx-gone": "fx_gone", "fx-deep": "fx_nowhere.deep"}, {"fx_one": GOOD})
    assert only("fx-one", "fx-gone", "fx-deep").names() == ["fx-one"]
    assert "fx_one" not in sys.modules


def test_a_module_name_that_cannot_be_is_not_installed():
    assert not _installed(EntryPoint("x", ".relative", "reberth"))


def test_a_plugin_is_loaded_when_it_is_asked_for(site):
    site("fx-dist", {"fx-one": "fx_one"}, {"fx_one": GOOD})
    catalog = only("fx-one")
    assert catalog.loaded() == []
    plugin = catalog.get("fx-one")
    assert (plugin.name, plugin.distribution, plugin.version) == ("fx-one", "fx-dist", "1.2")
    assert plugin.declaration.roles == {Role.OBSERVER}
    assert catalog.get("fx-one") is plugin
    assert catalog.loaded() == [plugin]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("import sys; sys.exit('gone')", "SystemExit: gone"),
        ("import fx_absent", "No module named 'fx_absent'"),
        ("def broken(:", "SyntaxError"),
    ],
)
def test_one_that_cannot_be_imported_does_not_stop_the_rest(site, source, reason):
    site("fx-dist", {"fx-bad": "fx_bad", "fx-one": "fx_one"}, {"fx_bad": source, "fx_one": GOOD})
    catalog = only("fx-bad", "fx-one")
    assert [plugin.name for plugin in catalog.load_all()] == ["fx-one"]
    assert list(catalog.errors) == ["fx-bad"]
    seen = set()
    for _ in range(2):
        with pytest.raises(PluginError, match=r"^plugin fx-bad: import failed") as caught:
            catalog.get("fx-bad")
        assert caught.value not in seen  # one object raised twice would gather tracebacks
        seen.add(caught.value)
        assert reason in caught.value.message
        assert "reberth plugin show fx-bad" in caught.value.hint
        assert caught.value.exit_code is Exit.PLUGIN
        assert caught.value.__cause__ is not None


def test_a_name_of_two_distributions_is_used_from_neither(site):
    site("fx-dist", {"fx-one": "fx_one"}, {"fx_one": GOOD})
    site("fx-other", {"fx-one": "fx_two"}, {"fx_two": GOOD})
    with pytest.raises(PluginError, match="fx-dist and fx-other both offer it"):
        only("fx-one").get("fx-one")
    assert "fx_one" not in sys.modules


def test_an_absent_module_names_its_distribution(site):
    site("fx-dist", {"fx-gone": "fx_gone"}, {})
    with pytest.raises(PluginError, match="its module fx_gone is not installed") as caught:
        only("fx-gone").get("fx-gone")
    assert "fx-dist" in caught.value.hint


def test_the_environment_limits_the_plugins(site, make_plugin):
    site("fx-dist", {"fx-one": "fx_one", "fx-two": "fx_two"}, {"fx_one": GOOD, "fx_two": GOOD})
    assert {"fx-one", "fx-two"} <= set(Catalog(environ={}).names())
    assert only("fx-two").names() == ["fx-two"]
    assert Catalog(environ={"REBERTH_PLUGINS": ""}).names() == []
    spy = {"spy": make_plugin("spy", "OBSERVER")}
    assert Catalog(extra=spy, environ={"REBERTH_PLUGINS": ""}).names() == ["spy"]


def test_an_injected_module_wins_over_an_installed_one(site, make_plugin):
    site("fx-dist", {"fx-one": "fx_one"}, {"fx_one": GOOD})
    module = make_plugin("fx-one", "BACKEND")
    catalog = Catalog(extra={"fx-one": module}, environ={"REBERTH_PLUGINS": "fx-one"})
    assert catalog.get("fx-one").module is module
    assert "fx_one" not in sys.modules


def load(make_plugin, *sources: str) -> Catalog:
    return Catalog(extra={"bad": make_plugin("bad", *sources)}, environ={"REBERTH_PLUGINS": ""})


def of_api(number: int) -> str:
    """An observer that says which contract it is written for."""
    said = f"Declaration('x', frozenset({{Role.OBSERVER}}), api={number})"
    return f"from reberth_hooks import Declaration, Role\n@hookimpl\ndef reberth_describe(): return {said}"


@pytest.mark.parametrize(
    ("sources", "reason"),
    [
        (["OBSERVER", "@hookimpl\ndef reberth_event(event, colour): ..."], "colour"),
        (["OBSERVER", "@hookimpl\ndef reberth_evnt(event): ..."], "no hook reberth_evnt (did you mean reberth_event"),
        (["OBSERVER", "def reberth_probe(node): ..."], "reberth_probe lacks @hookimpl"),
        (["OBSERVER", "@hookimpl\ndef reberth_commit(move): ..."], "reberth_commit must be a wrapper"),
        (["WRAPPER", "@hookimpl\ndef reberth_restore(move): ..."], "reberth_restore must be a wrapper"),
        (["OBSERVER", "@hookimpl\ndef reberth_sync(move): ..."], "reberth_sync must be a wrapper"),
        (["WRAPPER", "@hookimpl(wrapper=True)\ndef reberth_restore(move): ..."], "not a generator"),
        (["BACKEND", "del reberth_rollback, reberth_list"], "lacks reberth_list, reberth_rollback"),
        (["TRANSPORT", "del reberth_transfer"], "lacks reberth_transfer"),
        (["TRANSPORT", "del reberth_connect"], "lacks reberth_connect"),
        (["MEMORY", "del reberth_receive"], "lacks reberth_receive"),
        (["OBSERVER", "del reberth_event"], "lacks reberth_event"),
        (["OBSERVER", "del reberth_describe"], "gave None, not a Declaration"),
        (["OBSERVER", "@hookimpl\ndef reberth_describe(): return 'me'"], "gave 'me', not a Declaration"),
        (["OBSERVER", "@hookimpl\ndef reberth_describe(): 1 / 0"], "ZeroDivisionError"),
        (["OBSERVER", of_api(API + 1)], "written for contract 2, and this reberth has 1: update reberth"),
        (["OBSERVER", of_api(OLDEST_API - 1)], "written for contract 0, and this reberth has 1: update the plugin"),
        (["BACKEND", "@hookimpl(wrapper=True)\ndef reberth_commit(): return (yield)"], "lacks reberth_commit"),
    ],
)
def test_a_plugin_that_breaks_the_contract_is_refused(make_plugin, sources, reason):
    catalog = load(make_plugin, *sources)
    with pytest.raises(PluginError) as caught:
        catalog.get("bad")
    assert caught.value.message.startswith("plugin bad: ")
    assert reason in caught.value.message
    assert catalog.errors == {"bad": caught.value.message}
    assert catalog.loaded() == []
    assert not catalog.pm.has_plugin("bad")
    assert all(not caller.get_hookimpls() for caller in vars(catalog.pm.hook).values())


def test_a_misspelt_plugin_does_not_spoil_the_next_one(make_plugin):
    bad = make_plugin("bad", "OBSERVER", "@hookimpl\ndef reberth_evnt(event): ...")
    good = make_plugin("good", "OBSERVER")
    catalog = Catalog(extra={"bad": bad, "good": good}, environ={"REBERTH_PLUGINS": ""})
    assert [plugin.name for plugin in catalog.load_all()] == ["good"]


def test_one_module_under_two_names_is_refused(make_plugin):
    module = make_plugin("one", "OBSERVER")
    catalog = Catalog(extra={"one": module, "two": module}, environ={"REBERTH_PLUGINS": ""})
    catalog.load_all()
    assert list(catalog.errors) == ["two"]


def test_wrappers_and_bundled_roles_are_accepted(make_plugin):
    sources = {"b": "BACKEND", "t": "TRANSPORT", "m": "MEMORY", "w": "WRAPPER", "o": "OBSERVER"}
    catalog = Catalog(extra={n: make_plugin(n, s) for n, s in sources.items()}, environ={"REBERTH_PLUGINS": ""})
    assert [plugin.name for plugin in catalog.load_all()] == sorted(sources)
    assert catalog.errors == {}
    assert catalog.implements("b", "reberth_checkpoint")
    assert not catalog.implements("w", "reberth_checkpoint")
    assert catalog.implements("w", "reberth_checkpoint", wrapper=True)


def test_an_unknown_plugin_names_the_near_ones(make_plugin):
    catalog = Catalog(extra={"runc": make_plugin("runc", "BACKEND")}, environ={"REBERTH_PLUGINS": ""})
    with pytest.raises(PluginError, match=r"no plugin 'runk' \(did you mean runc\?\)"):
        catalog.get("runk")


def test_the_trace_names_the_call_but_no_argument_value(make_plugin, capsys):
    module = make_plugin("spy", "OBSERVER")
    catalog = Catalog(extra={"spy": module}, environ={"REBERTH_PLUGINS": "", "REBERTH_TRACE": "1"})
    catalog.get("spy")
    catalog.call_one("spy", "reberth_event", event="s3cret")
    out, err = capsys.readouterr()
    assert out == ""
    assert "reberth_event(event) on spy" in err
    assert "reberth_describe -> Declaration" in err
    assert "s3cret" not in err
    assert module.calls == ["s3cret"]


def test_no_trace_unless_asked(make_plugin, capsys):
    Catalog(extra={"spy": make_plugin("spy", "OBSERVER")}, environ={"REBERTH_TRACE": "0"}).get("spy")
    assert capsys.readouterr().err == ""
