"""The words of options, and how defaults and the command line make one Options."""

from __future__ import annotations

import dataclasses

import pytest

from reberth.config import options
from reberth_hooks import Mode, Options, UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300ms", 0.3), ("1.5s", 1.5), ("2m", 120), ("1h", 3600), ("250us", 0.00025), ("0", 0), ("2 min", 120), (0, 0)],
)
def test_times(text, seconds):
    assert options.duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["300", "ms", "-1s", "1 week", "", "1s/s", "nan", "1e3s", 300, None, "\uff1300ms"])
def test_what_is_no_time(text):
    with pytest.raises(UsageError, match="is not a time"):
        options.duration_s(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("50MiB", 50 * 1024**2),
        ("6MB/s", 6_000_000),
        ("100Mbit", 12_500_000),
        ("1gbit", 125_000_000),
        ("1.5 KiB", 1536),
        ("10B", 10),
        ("0", 0),
        ("1TB", 10**12),
    ],
)
def test_bandwidths(text, rate):
    assert options.bandwidth_bytes_s(text) == rate


@pytest.mark.parametrize("text", ["50", "MiB", "-1MB", "5 apples", "", "5M", 50, None])
def test_what_is_no_bandwidth(text):
    with pytest.raises(UsageError, match="is not a bandwidth"):
        options.bandwidth_bytes_s(text)


@pytest.mark.parametrize(
    ("word", "value", "want"),
    [
        ("mode", "pre-copy", ("mode", Mode.PRE_COPY)),
        ("policy", "lxd", ("policy", "lxd")),
        ("goal", "70%", ("goal", 70)),
        ("goal", 70, ("goal", 70)),
        ("iterations", "10", ("iterations", 10)),
        ("max_downtime", "300ms", ("max_downtime_s", 0.3)),
        ("tcp_established", "yes", ("tcp_established", True)),
        ("tcp_established", False, ("tcp_established", False)),
        ("skip", "a, b", ("skip", ("a", "b"))),
        ("skip", ["a"], ("skip", ("a",))),
        ("on_failure", "rollback", ("on_failure", "rollback")),
    ],
)
def test_words(word, value, want):
    assert options.read(word, value, "here") == want


@pytest.mark.parametrize(
    ("word", "value", "message"),
    [
        ("mode", "precopy", "here: mode: 'precopy' is none of auto, stop-and-copy"),
        ("goal", "101", "here: goal: '101' is not a whole number from 0 to 100"),
        ("goal", True, "is not a whole number"),
        ("goal", "-1", "is not a whole number"),
        ("iterations", 0, "is not a whole number from 1 to 999"),
        ("keep_images", "maybe", "is neither true nor false"),
        ("skip", [1], "is not a list of words"),
        ("max_dovntime", "1s", r"here: unknown key 'max_dovntime' (did you mean max_downtime"),
        ("backend_args", {}, "unknown key 'backend_args'"),
    ],
)
def test_a_wrong_word_names_its_place(word, value, message):
    with pytest.raises(UsageError) as caught:
        options.read(word, value, "here")
    assert message in caught.value.message


def test_every_field_of_options_has_a_word():
    fields = {field.name for field in dataclasses.fields(Options)} - {"backend_args", "given"}
    assert {field for field, _ in options.WORDS.values()} == fields
    for word, (field, _) in options.WORDS.items():
        assert field in (word, f"{word}_s", f"{word}_bytes_s")


def test_what_is_given_wins_over_defaults():
    made = options.make_options({"max_downtime_s": 2.0, "iterations": 5}, {"max_downtime": "1s", "mode": None})
    assert (made.max_downtime_s, made.iterations, made.mode) == (1.0, 5, Mode.AUTO)


def test_nothing_given_is_the_defaults_of_the_contract():
    assert options.make_options({}, {}) == Options()


def test_a_goal_selects_the_lxd_policy_or_is_refused():
    assert options.make_options({"policy": "fixed"}, {"goal": "70%"}).policy == "lxd"
    assert options.make_options({}, {"goal": "80", "policy": "lxd"}).goal == 80
    assert options.make_options({"goal": 60}, {}).policy == "downtime"
    with pytest.raises(UsageError, match="--goal is the measure of --policy lxd, not of fixed"):
        options.make_options({}, {"goal": "70", "policy": "fixed"})


def test_connections_are_kept_or_cut():
    with pytest.raises(UsageError, match="--tcp-established keeps"):
        options.make_options({"tcp_close": True}, {"tcp_established": True})


def test_a_wrong_option_is_named_as_it_was_typed():
    with pytest.raises(UsageError, match=r"^--max-downtime: max_downtime: '5' is not a time|^--max-downtime: '5'"):
        options.make_options({}, {"max_downtime": "5"})
