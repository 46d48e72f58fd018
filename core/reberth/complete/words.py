"""From the words of a command line to the candidates for the last of them; what the values are is in values.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reberth.complete.table import COMMANDS

Candidates = list[tuple[str, str]]


class Answer:
    """Candidates with their descriptions.

    `files`: offer `files` or `dirs` of this machine instead; `closed`: a single candidate that ends in a colon is
    complete; `ordered`: keep the order; `stale`: the nodes whose names are old or were never read; `flags`: the
    protocol's, where another program has answered.
    """

    # plain classes here and in cache.py: importing dataclasses takes longer than all the rest
    def __init__(self, candidates: Candidates | None = None, files: str = "", *, ordered: bool = False) -> None:
        self.candidates = candidates or []
        self.files, self.ordered, self.closed = files, ordered, False
        self.stale: list[str] = []
        self.flags: int | None = None


class Line:
    """What the words before the fragment mean: the command, its arguments so far, and an option that wants a value."""

    def __init__(self) -> None:
        self.path, self.wants, self.only_arguments = "", "", False
        self.arguments: list[str] = []
        self.used: set[str] = set()


def answer(words: Sequence[str], environ: Mapping[str, str]) -> Answer:
    """Return the candidates for the last word."""
    line, fragment = read(words[:-1]), words[-1]
    options = COMMANDS[line.path][2]
    if line.wants:
        found = _value(line.path, line.wants, environ)
    elif fragment.startswith("--") and "=" in fragment and not line.only_arguments:
        option = fragment.partition("=")[0]
        found = _value(line.path, option, environ) if option in options else Answer()
        found.candidates = [(f"{option}={value}", text) for value, text in found.candidates]
    elif fragment.startswith("-") and not line.only_arguments:
        found = Answer([(name, text) for name, (_, many, text) in options.items() if many or name not in line.used])
        # two spellings of one option: the short one is for those who know it
        found.candidates = [pair for pair in found.candidates if pair[0].startswith("--")]
    else:
        found = _argument(line, fragment, environ)
    found.candidates = [pair for pair in found.candidates if pair[0].startswith(fragment)]
    return found


def read(words: Sequence[str]) -> Line:
    """Follow the words as the parser does; unknown options are passed over as if they took no value."""
    line = Line()
    for word in words:
        options = COMMANDS[line.path][2]
        if line.wants:
            line.wants = ""
        elif word == "--" and not line.only_arguments:
            line.only_arguments = True
        elif word.startswith("-") and len(word) > 1 and not line.only_arguments:
            line.used.add(word.partition("=")[0])
            line.wants = word if options.get(word, ("",))[0] else ""
        elif f"{line.path} {word}".strip() in COMMANDS and not line.arguments and word:
            line.path, line.used = f"{line.path} {word}".strip(), set()
        else:
            line.arguments.append(word)
    return line


def below(path: str) -> Candidates:
    """Return the commands of a group with their help."""
    prefix = f"{path} " if path else ""
    found = [name for name in COMMANDS if name and name.startswith(prefix) and " " not in name[len(prefix) :]]
    return [(name[len(prefix) :], COMMANDS[name][0]) for name in found]


def _value(path: str, option: str, environ: Mapping[str, str]) -> Answer:
    from reberth.complete import values  # brings pathlib, which the names of commands and options do not need

    return values.of_option(path, option, environ)


def _argument(line: Line, fragment: str, environ: Mapping[str, str]) -> Answer:
    commands = below(line.path)
    if commands:
        return Answer(commands) if not line.arguments else Answer()
    words = [word.strip("[]") for word in COMMANDS[line.path][1]]
    place = min(len(line.arguments), len(words) - 1) if words and words[-1].endswith("...") else len(line.arguments)
    if place >= len(words):
        return Answer()
    from reberth.complete import values

    return values.of_argument(line.path, words[place].removesuffix("..."), line.arguments, fragment, environ)
