"""Fixtures of the phones' tests: two lab phones, an adb server that sees the first, setup in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
from livekit.command import Command, Done
from livekit.phones import MARKS, Adb, Killed, Mortal, make_key

from reberth_android import cli, files
from reberth_lab import android
from reberth_lab.android import Phone
from reberth_lab.lab import Lab


@pytest.fixture(scope="module")
def phones(lab: Lab) -> list[Phone]:
    """Both phones of the lab, fresh ones."""
    for phone in android.phones(lab.site):
        android.crash(phone)
    return android.up(lab)


@pytest.fixture(scope="module")
def adb(phones: list[Phone], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adb]:
    """An adb server that sees the first phone, and a home with one key."""
    if shutil.which("adb") is None:
        pytest.skip("adb is not installed (scripts/install-needs test)")
    one = Adb(tmp_path_factory.mktemp("home"))
    (one.home / ".ssh").mkdir(mode=0o700)
    make_key(one.home / ".ssh/id_ed25519")
    try:
        yield one
    finally:
        one.stop()


@pytest.fixture
def phone(phones: list[Phone], adb: Adb, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    """The first phone as it was made, the only one that adb sees; nothing that a test did there stays."""
    for key, value in adb.environment.items():
        monkeypatch.setenv(key, value)
    first = phones[0]
    adb.stop()  # a server remembers phones that were lost or refused it, and treats their successors otherwise
    adb.start()
    adb.connect(first)
    yield first
    android.crash(first)
    android.up(Lab(first.site.name, say=lambda _: None))


@pytest.fixture
def call(reberth: Command, adb: Adb, settings: Callable[[Callable[[str], str]], dict[str, str]]) -> Callable[..., Done]:
    """The command with an inventory of the test's own and the test's adb."""
    env = {**settings(lambda text: text), **adb.environment}
    return lambda *words: reberth.run(*words, env=env)


@pytest.fixture
def set_up(adb: Adb) -> Callable[..., Mortal]:
    """Setup in this process, by a controller that dies after so many changes (-1: never)."""

    def run(serial: str, die_after: int = -1, inventory: Mortal | None = None) -> Mortal:
        controller = Mortal(MARKS, die_after)
        controller.inventory = inventory.inventory if inventory else {}
        key = str(adb.home / ".ssh/id_ed25519.pub")
        place = ("phone", files.LOOPBACK, files.DEFAULT_PORT, "")
        try:
            cli.do_setup(controller, serial, key, place, dry_run=False, yes=True)
        except Killed:
            assert die_after >= 0
        return controller

    return run
