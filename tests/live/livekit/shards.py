"""How tests with real nodes are dealt out to the workers of `pytest -n`: what stays together, and each worker's labs.

A file stays on one worker, since its fixtures make labs. Some files share one: those of LXD share its lab, and those
that hold a figure against another one run one after the other, so that they never disturb each other.
"""

from __future__ import annotations

import functools
import os
import string
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from reberth_lab.site import default_subnet

TESTS = Path(__file__).resolve().parents[2]
LABS = ("", *"adilpqrstvwxy")  # what the tests add to a worker's name for their further labs
NAME_LENGTH = 8  # one letter more is a lab of a test; a lab's name has at most ten
GROUPS = {
    "test_lxd.py": "lxd",
    "test_lxd_faults.py": "lxd",
    "test_lxd_https.py": "lxd",
    "test_lxd_near.py": "lxd",
    "test_faults.py": "faults",
    "test_postcopy_faults.py": "faults",
    "test_two_faults.py": "faults",
    "test_postcopy.py": "timing",
    "test_kit.py": "kit",  # quick; one pytest run inside, whose outcomes all of its tests read
}
TIMED = ("check_downtime", "move_and_judge")  # a file that has one of these words compares two measured times
# Begun first, because they take longest (docs/testing.md); the others follow in the order in which they were found.
LONGEST = ("vm", "lxd", "timing", "packaging", "test_address", "test_android", "faults", "test_rollback_signals")
ONE = ("vm", "packaging")  # folders whose files stay together
NODES = ("live", "shells")


@functools.cache
def group_of_file(name: str) -> str:
    """Return the name of what must stay on one worker with this file, which is named from the project's root."""
    path = Path(name)
    found = GROUPS.get(path.name) or next((part for part in path.parts if part in ONE), "")
    if found or not any(part in NODES for part in path.parts):
        return found
    text = (TESTS.parent / path).read_text("utf-8") if (TESTS.parent / path).exists() else ""
    return "timing" if any(word in text for word in TIMED) else path.stem


def group_of(nodeid: str) -> str:
    """Return the name of what must stay on one worker with this test; a test without nodes is its own group."""
    return group_of_file(nodeid.partition("::")[0]) or nodeid


def deal(items: list[pytest.Item]) -> None:
    """Put the long groups first, each in one piece; workers and the process that hands out agree on the order."""
    order = {name: number for number, name in enumerate(LONGEST)}
    for item in items:
        order.setdefault(group_of(item.nodeid), len(order))
    items.sort(key=lambda item: order[group_of(item.nodeid)])


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Return what hands out whole groups; xdist's own way changes the tests' ids, which pytest 9.2 does not allow."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)


def names(base: str) -> Iterator[str]:
    """Yield a name for each worker's labs; all labs of all workers have networks of their own."""
    taken: set[object] = set()
    for letters in product(string.ascii_lowercase, repeat=2):
        name = base[: NAME_LENGTH - 2] + "".join(letters)
        nets = [default_subnet(name + suffix) for suffix in LABS]
        if len({*nets}) == len(nets) and not taken & {*nets}:
            taken.update(nets)
            yield name


def name_of(worker: str, base: str) -> str:
    """Return the lab name of a worker, which pytest calls gw0, gw1, ..."""
    wanted = int(worker.removeprefix("gw"))
    return next(name for number, name in enumerate(names(base)) if number == wanted)


def take_name(environ: dict[str, str] | os._Environ[str] = os.environ) -> None:
    """Give this worker's labs a name of their own, before anything asks for one."""
    worker = environ.get("PYTEST_XDIST_WORKER", "")
    if worker.startswith("gw"):
        environ["REBERTH_LAB_NAME"] = name_of(worker, environ.get("REBERTH_LAB_NAME") or "live")


def whole(arguments: Iterable[str], root: Path) -> bool:
    """Return whether these arguments of pytest ask for all live tests, not for some files or single tests."""
    given: Sequence[str] = [word for word in arguments if ".py" in word or "::" in word]
    return not given and any((root / "live").is_relative_to(Path(word).resolve()) for word in arguments)
