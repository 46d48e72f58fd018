"""What `runc migrate` becomes: the options of runc before the word are honoured or refused by name."""

from __future__ import annotations

import pytest

from reberth.cli.runtime import as_move
from reberth_hooks import UsageError


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("runc migrate web pi2:", "move --backend runc web pi2:"),
        ("runc migrate web pi2: --tcp-close -n", "move --backend runc web pi2: --tcp-close -n"),
        ("runc --debug migrate web pi2:", "--debug move --backend runc web pi2:"),
        ("runc --root /run/runc migrate web pi2:", "move --backend runc web pi2:"),
        ("runc --root=/run/runc/ migrate --help", "move --backend runc --help"),
        ("crun --root /run/crun migrate web pi2:", "move --backend crun web pi2:"),
    ],
)
def test_words_of_a_move(words, ours):
    assert as_move(words.split(), {}) == ours.split()


def test_the_root_of_the_configuration_is_the_one_that_counts():
    assert as_move(["runc", "--root", "/srv/r", "migrate", "web", "pi2:"], {"root": "/srv/r/"})[0] == "move"
    with pytest.raises(UsageError, match="'/srv/r' is not where reberth looks: /run/runc"):
        as_move(["runc", "--root", "/srv/r", "migrate", "web", "pi2:"], {})


@pytest.mark.parametrize("option", ["--criu /x", "--systemd-cgroup", "--rootless=true", "--log /x"])
def test_other_options_are_refused_by_name(option):
    with pytest.raises(UsageError, match=f"runc {option.split()[0].partition('=')[0]}: not with migrate"):
        as_move(["runc", *option.split(), "migrate", "web", "pi2:"], {})


@pytest.mark.parametrize("words", ["runc", "runc list", "runc --debug"])
def test_another_word_is_not_for_us(words):
    with pytest.raises(UsageError, match="for `migrate` alone"):
        as_move(words.split(), {})


def test_an_error_is_printed_as_every_other(world):
    done = world.process("__runtime", "runc", "--criu", "x", "migrate", "web", "pi2:")
    assert done.returncode == 2 and "hint: runc migrate ID NODE: [options of move]" in done.stderr
    done = world.process("__runtime", "runc", "migrate", "web", "pi9:")
    assert done.returncode == 2 and "there is no node 'pi9'" in done.stderr
