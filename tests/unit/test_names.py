"""The words of the command line are read strictly; whatever is not a name is shown escaped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reberth.config import names
from reberth.config.config import Config
from reberth_hooks import Exit, Node, UsageError, Workload

CONFIG = Config(
    {
        "local": Node("local", connector="local", backends=("criu", "runc")),
        "pi1": Node("pi1"),
        "pi2": Node("pi2", backends=("podman",)),
    }
)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("web", Workload("local", "", "web")),
        ("runc/web", Workload("local", "runc", "web")),
        ("pi1:web", Workload("pi1", "", "web")),
        ("pi1:lxd/c1", Workload("pi1", "lxd", "c1")),
        ("criu/4711", Workload("local", "criu", "4711")),
        ("local:4711", Workload("local", "", "4711")),
        ("pi2:a.b_c-D", Workload("pi2", "", "a.b_c-D")),
        ("x" * 63, Workload("local", "", "x" * 63)),
    ],
)
def test_sources(text, want):
    assert names.parse_source(text, CONFIG) == want


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "/", "pi1:", "pi1:runc/", ":web", "pi1:a:b", "a/b/c", "/web", "runc//web", "-web", ".web", "_web",
        "--help", "pi1:-rf", "-pi1:web", "we b", "web\n", "web\x00", "wéb", "web\u202e", "x" * 64, "pi1 :web", "web;id",
        "$(id)", "../web", "pi1:../../etc", "\uff11\uff12", "runc/web/", "pi1:.", "..",
    ],
)  # fmt: skip
def test_what_is_no_source(text):
    with pytest.raises(UsageError) as caught:
        names.parse_source(text, CONFIG)
    assert caught.value.exit_code is Exit.USAGE
    assert caught.value.message.isascii() and caught.value.message.isprintable()
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "want"),
    [("pi2:", ("pi2", "")), ("pi2:web2", ("pi2", "web2")), ("web2", ("local", "web2")), ("nowhere:", ("nowhere", ""))],
)
def test_targets(text, want):
    assert names.parse_target(text) == want


@pytest.mark.parametrize("text", ["", ":", ":web", "pi2:a:b", "pi2:runc/web", "runc/web", "pi2:-x", "-x:", "pi2:a b"])
def test_what_is_no_target(text):
    with pytest.raises(UsageError) as caught:
        names.parse_target(text)
    assert caught.value.message.isascii() and caught.value.message.isprintable()
    assert caught.value.hint


def test_a_target_with_a_backend_says_what_to_write():
    with pytest.raises(UsageError, match="a target has no backend") as caught:
        names.parse_target("pi2:runc/web2")
    assert "pi2:web2" in caught.value.hint


@pytest.mark.parametrize("backend", ["runc", "podman"])
def test_a_backend_written_as_a_node_offers_the_right_words(backend):
    with pytest.raises(UsageError, match=f"there is no node '{backend}'") as caught:
        names.parse_source(f"{backend}:web", CONFIG)
    assert caught.value.hint == f"write {backend}/web"


def test_a_node_named_like_a_backend_is_a_node():
    config = Config({**CONFIG.nodes, "runc": Node("runc")})
    assert names.parse_source("runc:web", config) == Workload("runc", "", "web")


def test_an_unknown_node_names_the_close_ones():
    with pytest.raises(UsageError, match=r"no node 'pi3' \(did you mean pi") as caught:
        names.parse_source("pi3:web", CONFIG)
    assert "reberth node add" in caught.value.hint


@given(st.text(alphabet=st.sampled_from("ab1._-:/ \n\x1b\u202eé$'\""), max_size=12))
def test_every_text_is_a_workload_of_good_names_or_refused(text):
    try:
        found = names.parse_source(text, CONFIG)
    except UsageError as error:
        assert (error.message + error.hint).isascii() and (error.message + error.hint).isprintable()
        return
    assert found.node in CONFIG.nodes
    assert names.is_name(found.name)
    assert not found.backend or names.is_name(found.backend)


@given(st.text(max_size=70))
def test_every_target_is_of_good_names_or_refused(text):
    try:
        node, name = names.parse_target(text)
    except UsageError as error:
        assert (error.message + error.hint).isascii()
        return
    assert names.is_name(node) and (not name or names.is_name(name))
