"""The workloads of the benchmark of modes: each starts on the first node and tells its own longest silence."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import small
from livekit.stand import remove_empty_cgroups
from workloads import driver

from reberth_lab import demo_bundle
from reberth_lab.demo_client import Client
from reberth_lab.demo_redis import Connection
from reberth_lab.node import Node

FILES = """
import os, sys
for number in range(5000):
    folder = f"{sys.argv[1]}/{number % 50}"
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/{number}", "wb") as file:
        file.write(os.urandom(1024))
"""
VALUES, VALUE_BYTES = 1024, 64 << 10
START_S = 10.0


class Load(Protocol):
    """What the benchmark does with a workload; `options` are words of its own for `plan` and `move`."""

    word: str
    options: Sequence[str]

    def start(self) -> None:
        """Start it on the first node."""

    def forget(self) -> None:
        """Begin a new record of silences."""

    def gap_s(self) -> float:
        """Its longest silence, as it tells on the second node; RuntimeError when it is damaged."""

    def stop(self) -> None:
        """End it wherever it is."""


class Hog:
    """small.c: memory, some of it written, as a process or a container."""

    options: Sequence[str] = ()

    def __init__(self, nodes: Sequence[Node], name: str, words: Sequence[str], backend: str) -> None:
        self.nodes, self.name, self.words, self.backend = nodes, name, list(words), backend
        self.one = small.Small(0, "")
        self.word = ""

    def start(self) -> None:
        """Start it on the first node."""
        if self.backend == "runc":
            self.one = small.start_container(self.nodes[0], self.name, self.words)
            self.word = f"node1:runc/{self.name}"
        else:
            self.one = small.start(self.nodes[0], list(self.nodes[1:]), self.name, self.words)
            self.word = f"node1:criu/{self.one.pid}"

    def forget(self) -> None:
        """Begin a new record of silences."""
        small.forget(self.nodes[0], self.one)

    def gap_s(self) -> float:
        """Its longest silence."""
        return small.gap_s(self.nodes[1], self.one)

    def stop(self) -> None:
        """End it."""
        for node in self.nodes:
            if self.one.directory:
                small.stop(node, self.one)
            remove_empty_cgroups(node)


class Files(Hog):
    """The same beside many files in its root."""

    def start(self) -> None:
        """Start it, and make the files."""
        super().start()
        self.nodes[0].run(["python3", "-I", "-c", FILES, f"{self.one.bundle}/rootfs/many"])


class Tree:
    """Many processes with memory of their own; the first one beats."""

    options: Sequence[str] = ()

    def __init__(self, nodes: Sequence[Node], name: str, words: Sequence[str], backend: str) -> None:
        self.nodes, self.name = nodes, name
        self.words = (*words, "--without-stopped", "--without-zombie")
        self.handle = driver.Handle("tree", "")
        self.word = ""

    def start(self) -> None:
        """Start it on the first node."""
        others = list(self.nodes[1:])
        self.handle = driver.start(self.nodes[0], "tree", self.words, name=self.name, others=others)
        self.word = f"node1:criu/{self.handle.pid}"

    def forget(self) -> None:
        """Begin a new record of silences."""
        driver.forget_gaps(self.nodes[0], self.handle)

    def gap_s(self) -> float:
        """Its longest silence."""
        found = driver.verify(self.nodes[1], self.handle)
        if not found["ok"]:
            raise RuntimeError(f"the workload is damaged: {found['problems']}")
        return driver.longest_silence_s(found)

    def stop(self) -> None:
        """End it."""
        for node in self.nodes:
            if self.handle.directory:
                driver.stop(node, self.handle)
                node.run(["rm", "-rf", "--", self.handle.directory])
            remove_empty_cgroups(node)


class Redis:
    """A Redis whose client writes and reads at a fixed rate, come what may; the silence is the client's."""

    options: Sequence[str] = ("--tcp-close",)

    def __init__(self, nodes: Sequence[Node], name: str, words: Sequence[str], backend: str) -> None:
        self.nodes, self.word = nodes, f"node1:runc/{demo_bundle.CONTAINER}"
        self.client: Client | None = None

    def start(self) -> None:
        """Start server and client; the values do not compress."""
        node = self.nodes[0]
        demo_bundle.build(node)
        words = ["sh", demo_bundle.BUNDLE, demo_bundle.CONTAINER]
        node.run(["sh", "-c", 'exec runc run -d -b "$1" "$2" </dev/null >/dev/null 2>&1', *words])
        connection = _patiently(lambda: Connection(node.address, demo_bundle.PORT))
        for number in range(VALUES):
            connection.ask("SET", f"preload:{number}", random.Random(number).randbytes(VALUE_BYTES))
        connection.close()
        self._begin()

    def _begin(self) -> None:
        self.client = Client({node.name: node.address for node in self.nodes}, demo_bundle.PORT)
        self.client.start()
        time.sleep(1)

    def forget(self) -> None:
        """A new client begins a new record."""
        assert self.client is not None
        self.client.stop()
        self._begin()

    def gap_s(self) -> float:
        """The longest silence that the client saw."""
        assert self.client is not None
        time.sleep(1)
        self.client.stop()
        tally = self.client.tally
        if tally.wrong_reads or tally.errors or tally.served_by[-1:] != [self.nodes[1].name]:
            raise RuntimeError(f"the client saw {tally.wrong_reads[:3]} {tally.errors[:3]} {tally.served_by}")
        return tally.longest_silence_s

    def stop(self) -> None:
        """End both."""
        if self.client is not None:
            self.client.stop()
        for node in self.nodes:
            node.run(["runc", "delete", "--force", demo_bundle.CONTAINER], check=False)
            node.run(["rm", "-rf", demo_bundle.BUNDLE], check=False)


def _patiently(connect: Callable[[], Connection]) -> Connection:
    end_s = time.monotonic() + START_S
    while True:
        try:
            return connect()
        except OSError:
            if time.monotonic() > end_s:
                raise
            time.sleep(0.05)


KINDS: dict[str, Callable[[Sequence[Node], str, Sequence[str], str], Load]] = {
    "hog": Hog,
    "files": Files,
    "tree": Tree,
    "redis": Redis,
}
