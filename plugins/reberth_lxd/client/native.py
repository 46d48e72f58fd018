"""`lxc move` as the native client has it, and what we add to it: one table, read by the shim and its tests; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reberth_hooks import UsageError

PULL, PUSH, RELAY = WAYS = ("pull", "push", "relay")  # the values of its --mode
HONOURED, REFUSED, NATIVE = "honoured", "refused", "native"


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its short word, whether a value follows, and what it means beside ours."""

    name: str
    short: str = ""
    value: bool = False
    beside: str = REFUSED
    why: str = ""


# Of `lxc move --help`, LXD 5.0.2; Incus 6.0.4 has the same but --force-local and --sub-commands.
OPTIONS = (
    Option("allow-inconsistent", beside=HONOURED, why="a live move does it always: the copy that counts is the last"),
    Option("config", "c", True, why="the configuration travels as it is"),
    Option("device", "d", True, why="the devices travel as they are"),
    Option("instance-only", why="snapshots travel along"),
    Option("mode", "", True, HONOURED, "pull, push or relay: which daemon connects"),
    Option("no-profiles", why="the profiles stay"),
    Option("profile", "p", True, why="the profiles stay"),
    Option("stateless", why="that is no live move"),
    Option("storage", "s", True, HONOURED, "our --lxd-pool"),
    Option("target", "", True, why="members of a cluster are moved by the native client"),
    Option("target-project", "", True, why="it stays in its project"),
    Option("debug", beside=HONOURED, why="passed on"),
    Option("force-local", why="both ends are named by remotes"),
    Option("help", "h", beside=NATIVE),
    Option("project", "", True, HONOURED, "the default project alone; another one is refused, or left to the client"),
    Option("quiet", "q", beside=HONOURED, why="passed on"),
    Option("sub-commands", beside=NATIVE),
    Option("verbose", "v", beside=HONOURED, why="there is nothing more to say"),
    Option("version", beside=NATIVE),
)
OURS = (
    Option("incremental-memory"),
    Option("iterations", value=True),
    Option("goal", value=True),
    Option("native"),
)


@dataclass
class Words:
    """A command line taken apart: places, our options, the native ones, by name (a flag has the value "")."""

    places: list[str] = field(default_factory=list)
    ours: dict[str, str] = field(default_factory=dict)
    native: dict[str, str] = field(default_factory=dict)

    @property
    def wants_native(self) -> bool:
        """Tell whether the user asked for the native client, or for what only that can say."""
        only = {option.name for option in OPTIONS if option.beside == NATIVE}
        return "native" in self.ours or bool(only & self.native.keys())

    def refused(self) -> list[str]:
        """Return what we cannot honour beside a live move of ours, each with the reason."""
        return [f"--{o.name}: {o.why}" for o in OPTIONS if o.beside == REFUSED and o.name in self.native]


def parse(words: Sequence[str]) -> Words:
    """Take a command line apart, in the ways that the native client allows; UsageError for an unknown option."""
    found, left, only_places = Words(), list(words), False
    while left:
        word = left.pop(0)
        if only_places or word == "-" or not word.startswith("-"):
            found.places.append(word)
        elif word == "--":
            only_places = True
        else:
            _take(found, word, left)
    return found


def _take(found: Words, word: str, left: list[str]) -> None:
    name, equals, value = word.lstrip("-").partition("=")
    if not word.startswith("--") and len(name) > 1:  # -qv, or -ppool with its value right behind
        name, behind = name[0], name[1:]
        if option := next((o for o in OPTIONS if o.short == name), None):
            if option.value:
                equals, value = "=", behind + (f"={value}" if equals else "")
            else:
                left.insert(0, f"-{behind}")
    for options, into in ((OURS, found.ours), (OPTIONS, found.native)):
        for option in options:
            if name in (option.name, option.short) and name:
                if option.value and not equals:
                    if not left:
                        raise UsageError(f"{word} needs a value")
                    value = left.pop(0)
                into[option.name] = value
                return
    raise UsageError(f"there is no option {word!a}", hint="lxc move --help; reberth lxd alias --help")


def split(place: str) -> tuple[str, str]:
    """Remote and name of a place; an empty remote is the client's default one."""
    remote, colon, name = place.partition(":")
    return (remote, name) if colon else ("", place)
