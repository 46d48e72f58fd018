"""S4: no name is ever read by a shell or taken for an option, and bad words start nothing at all."""

from __future__ import annotations

import contextlib
import io
import shlex

import pytest

from reberth.cli.app import root
from reberth.config.names import is_name
from reberth.connect import process
from reberth_hooks import Route

STRINGS = [
    *("", " ", "-", "--", "-rf", "-oProxyCommand=reboot", "--root=/", "a b", "a\tb", "a\nb", "a\rb", "a\0b"),
    *(
        "a;reboot",
        "$(reboot)",
        "`reboot`",
        "${IFS}",
        "a|b",
        "a&b",
        "a>b",
        "a<b",
        "a*b",
        "a?b",
        "[a]",
        "{a,b}",
        "~",
        "~root",
    ),
    *("../x", "/etc/passwd", "a/b/c", "\x1b[2J", "\u202eabc", "\uff41", "\u0430pi", "café", "x" * 64, "x" * 4000),
    *("'", '"', "\\", "%s", "!", "#x"),
]
COMMANDS = [
    ("move", "pi1:runc/{}", "pi2:"),
    ("move", "{}:web", "pi2:"),
    ("move", "pi1:runc/web", "{}:"),
    ("move", "pi1:runc/web", "pi2:{}"),
]
# Empty words mean something: a move to the same name, a workload of this machine.
MEANS_SOMETHING = {(3, ""), (1, "")}
VALUES = [
    *(("--mode", word) for word in ("warp", "-1")),
    *(("--timeout", word) for word in ("5", "-1s", "1x", "1e9s")),
    *(("--verify", word) for word in ("tcp:0", "tcp:65536", "exec:", "ftp://x", "exec:'")),
    *(("--move-address", word) for word in ("300.1.1.1", "127.0.0.1", "fe80::1", "x", "10.0.0.1/99")),
    *(("--on-failure", word) for word in ("explode", "hold,rollback")),
    ("--warp", "9"),
]


def run(*words: str) -> tuple[int, str]:
    """The command in this process: exit code, and all that it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as caught:
        root.main(args=list(words))
    return int(caught.value.code or 0), out.getvalue() + err.getvalue()


@pytest.mark.parametrize("text", STRINGS, ids=ascii)
def test_such_a_text_is_no_name(text):
    assert not is_name(text)


def test_good_names_are_names():
    assert all(is_name(text) for text in ("web", "pi-2", "A.b_c", "1", "x" * 63))


@pytest.mark.parametrize(
    ("at", "text"),
    [(at, text) for at in range(len(COMMANDS)) for text in STRINGS if (at, text) not in MEANS_SOMETHING],
    ids=ascii,
)
def test_a_bad_word_is_a_usage_error_and_starts_nothing(at, text, started, config):
    code, said = run("move", "--", *(word.format(text) if "{}" in word else word for word in COMMANDS[at][1:]))
    assert code == 2, said
    assert "Traceback" not in said and "\x1b" not in said and "\0" not in said
    assert started() == []


@pytest.mark.parametrize("option", VALUES, ids=" ".join)
def test_a_bad_value_is_a_usage_error_and_starts_nothing(option, started, config):
    code, said = run("move", *option, "--", "pi1:runc/web", "pi2:")
    assert code == 2, said
    assert "Traceback" not in said
    assert started() == []


def test_there_are_enough_of_them():
    assert len(STRINGS) * len(COMMANDS) - len(MEANS_SOMETHING) + len(VALUES) >= 150


def test_a_good_word_starts_a_connection(started, config):
    """The twin: what is recorded is really recorded."""
    code, _ = run("move", "--quiet", "--", "pi1:runc/web", "pi2:")
    assert code == 13
    assert any(line.startswith("ssh ") for line in started())


@pytest.mark.parametrize("text", [text for text in STRINGS if "\0" not in text], ids=ascii)
def test_a_login_shell_gets_quoted_words(text):
    route = Route(control=("ssh", "--", "host"), quoted=True)
    *_, line = process.route_argv(route, ["tool", "--", text])
    assert shlex.split(line) == ["tool", "--", text]
