"""The tab key behind an alias of lxc or incus: the client's own words, ours beside them, and nothing else."""

from __future__ import annotations

import pytest

from reberth.complete import client, main

NATIVE = """#!/bin/sh
echo "$LXC_ALIASES$INCUS_ALIASES $*" >>{trace}
echo noise >&2
case $* in
*--iterations* | *--goal* | *--native*) echo :1; exit 1 ;;
*--) printf -- '--mode\\tTransfer mode\\n--storage\\tPool\\n:4\\n' ;;
*hang) exec sleep 600 ;;
*fail) exit 1 ;;
*odd) printf 'odd\\033[31m\\nodder\\n:4\\n' ;;
*) printf 'c1\\nc2\\nnode2:\\n:6\\n' ;;
esac
"""


@pytest.fixture
def complete(tmp_path, monkeypatch, capsys):
    """What a client that hands its words over gets: candidates and flags; `asked` is what it was asked itself."""
    trace = tmp_path / "trace"
    for name in client.GUARDS:
        (tmp_path / name).write_text(NATIVE.format(trace=trace))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("INCUS_ALIASES", "1")

    def answer(*words, name="incus"):
        main.main(["lxd", "shim", name, *words])
        *lines, last = capsys.readouterr().out.splitlines()
        return [line.partition("\t")[0] for line in lines], int(last.removeprefix(":"))

    answer.asked = lambda: trace.read_text().splitlines() if trace.exists() else []
    return answer


def test_the_clients_own_words_are_there_and_it_looks_at_no_alias(complete):
    assert complete("") == (["c1", "c2", "node2:"], 6)
    assert complete("no", "c1") == (["c1", "c2", "node2:"], 6)
    assert complete.asked() == ["1 __complete move ", "1 __complete move c1 no"]
    assert complete("x", name="lxc")[0] == ["c1", "c2", "node2:"]
    assert complete.asked()[-1] == "11 __complete move x"


def test_our_options_stand_beside_those_of_the_client(complete):
    assert complete("--")[0] == ["--mode", "--storage", *client.OURS]
    assert complete("--", "--goal=70", "c1")[0] == ["--mode", "--storage", *[o for o in client.OURS if o != "--goal"]]


def test_the_client_is_not_asked_about_options_that_it_does_not_know(complete):
    assert complete("no", "--iterations", "5", "--native", "--goal=7", "c1")[0] == ["c1", "c2", "node2:"]
    assert complete.asked() == ["1 __complete move c1 no"]


def test_values_of_options(complete):
    assert complete("", "--goal") == complete("3", "c1", "--iterations") == ([], main.NO_FILES)
    assert complete("pu", "--mode") == (["pull", "push"], main.NO_FILES | main.KEEP_ORDER)
    assert complete.asked() == []


def test_a_client_that_fails_or_hangs_or_is_away_costs_only_its_words(complete, monkeypatch, tmp_path):
    monkeypatch.setattr(client, "LIMIT_S", 0.5)
    for word in ("hang", "fail"):
        assert complete(word) == ([], main.NO_FILES)
    (tmp_path / "incus").unlink()
    assert complete("--na") == (["--native"], main.NO_FILES)


def test_what_could_steer_a_terminal_is_not_passed_on(complete):
    assert complete("odd")[0] == ["odder"]


def test_only_lxc_and_incus_are_asked(complete):
    main.main(["lxd", "shim", "sh", "-c", "touch x"])
    assert complete.asked() == []
