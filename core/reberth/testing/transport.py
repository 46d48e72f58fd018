"""The contract of a transport: a tree arrives whole, or not at all and with an error."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from reberth.testing.lab import Lab, LabHost, as_plain
from reberth.testing.plain import PluginContract
from reberth.testing.session import LabSession
from reberth_hooks import (
    Channel,
    Declaration,
    Mode,
    Node,
    Options,
    Plan,
    ReberthError,
    Receipt,
    Role,
    Round,
    Tree,
    Workload,
)

HERE, THERE = "/srv/tree", "/srv/copy"
ODD = ("two words", "-leading dash", "$HOME", "a\nnewline", "quote'\"", "*", "\u00e9\u2028")
SPARSE_BYTES = 1 << 20


class Carrier:
    """A move that consists of transfers alone, between node1 and node2."""

    def __init__(self, lab: Lab, plugin: str, module: ModuleType) -> None:
        self.lab, self.plugin = lab, plugin
        node = {
            name: Node(name, connector="wire", transports=(plugin,), backends=("none",)) for name in ("node1", "node2")
        }
        self.host: LabHost = lab.host({plugin: module}, (), node)
        self.plan = Plan(
            id=f"carry-{secrets.token_hex(3)}",
            workload=Workload("node1", "none", "tree"),
            source=node["node1"],
            target=node["node2"],
            target_name="tree",
            mode=Mode.STOP_AND_COPY,
            why="the contract",
            options=Options(),
            routes={Channel.FILES: plugin},
        )
        self.session: LabSession = self.host.session(self.plan)
        for side, (end, role) in enumerate(((self.session.source, "source"), (self.session.target, "target"))):
            self.session.opened[side] = end.call("open", run_id=self.plan.id, role=role, workload="none/tree")

    def open(self) -> None:
        """Do what precedes the freeze."""
        self.host.stage.receive(self.session, Round(0))

    def carry(self, kind: str = "filesystem", path: str = HERE, into: str = THERE) -> Receipt:
        """One parcel."""
        return self.host.stage.transfer(self.session, Tree(kind, path, into))

    def looks(self, node: str, path: str) -> dict[str, str]:
        """Everything below a path of a node, by relative name."""
        return {p[len(path) :]: how for p, how in self.lab.files(node).items() if p.startswith(path)}


class TransportContract(PluginContract):
    """Override `plugin`; for one that does not use the session's pipe, `uses_pipe` as well."""

    @pytest.fixture
    def uses_pipe(self) -> bool:
        """A declared deviation: False for a transport with a data path of its own, which the kit cannot damage."""
        return True

    @pytest.fixture
    def tools(self, reberth_lab: Lab) -> None:
        """Fake tools that the transport runs on the nodes; most run none."""

    @pytest.fixture
    def carrier(self, reberth_lab: Lab, plugin: str, module: ModuleType, tools: None) -> Iterator[Carrier]:
        """The transport between two nodes, with a tree on the first."""
        one = Carrier(reberth_lab, plugin, module)
        plant(reberth_lab.machines["node1"].path(HERE))
        reberth_lab.machines["node2"].path(THERE).mkdir()
        with reberth_lab.kernel_of(one.plan):
            yield one
            one.session.close_pipe()

    def test_it_is_a_transport(self, said: Declaration) -> None:
        """It declares the role and what it carries."""
        assert Role.TRANSPORT in said.roles
        assert Channel.FILES in said.carries

    def test_a_tree_arrives_whole(self, carrier: Carrier) -> None:
        """Content, modes, links, sparse and empty files, and names that a shell would stumble over."""
        carrier.open()
        receipt = carrier.carry()
        assert carrier.looks("node2", THERE) == carrier.looks("node1", HERE)
        holes = carrier.lab.machines["node2"].path(f"{THERE}/sparse").stat()
        assert holes.st_blocks * 512 < SPARSE_BYTES, "a sparse file must not fill up on its way"
        assert isinstance(receipt, Receipt)
        assert (receipt.kind, receipt.into) == ("filesystem", THERE)
        assert receipt.files > 0 and receipt.bytes_sent > 0
        assert as_plain(receipt) is not None

    def test_images_arrive_whole(self, carrier: Carrier) -> None:
        """CRIU has no checksums: the transport is the last that can tell."""
        images = carrier.lab.machines["node1"].path("/dev/shm/images")
        images.mkdir(mode=0o700)
        for name in ("inventory.img", "pages-1.img", "descriptors.json"):
            (images / name).write_bytes(secrets.token_bytes(70_000))
            (images / name).chmod(0o600)
        carrier.lab.machines["node2"].path("/dev/shm/images").mkdir(mode=0o700)
        carrier.open()
        receipt = carrier.carry("images", "/dev/shm/images", "/dev/shm/images")
        assert carrier.looks("node2", "/dev/shm/images") == carrier.looks("node1", "/dev/shm/images")
        assert receipt.files == 3

    def test_what_changed_arrives_too(self, carrier: Carrier) -> None:
        """The second of two trees of the same path is what changed since, by content: new, changed and gone."""
        carrier.open()
        first = carrier.carry()
        tree = carrier.lab.machines["node1"].path(HERE)
        (tree / "new").write_text("new")
        (tree / "text").write_text("changed")
        (tree / "gone").unlink()
        second = carrier.carry("filesystem-delta")
        assert carrier.looks("node2", THERE) == carrier.looks("node1", HERE)
        assert second.files < first.files

    @pytest.mark.parametrize("part", [0.0, 0.5, 0.97])
    def test_a_cut_connection_is_an_error(self, carrier: Carrier, uses_pipe: bool, part: float) -> None:
        """No receipt, and nothing that looks whole but is not."""
        size = self._size(carrier)
        carrier.lab.wire.cut_at = int(size * part)
        carrier.open()
        if not self._breakable(carrier, uses_pipe):
            return
        with pytest.raises(ReberthError):
            carrier.carry()
        assert carrier.lab.wire.struck, "it gave up before the fault"
        whole = carrier.looks("node1", HERE)
        for name, how in carrier.looks("node2", THERE).items():
            # Modes of directories and the like may come last, a file's content may not.
            assert " " not in how or how.split()[1:] == whole[name].split()[1:], f"{name!a} is there in part"

    @pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
    def test_a_flipped_bit_is_an_error(self, carrier: Carrier, uses_pipe: bool, part: float) -> None:
        """Wherever it is: 13 of 13 flipped bytes of an image went through CRIU unnoticed."""
        size = self._size(carrier)
        carrier.lab.wire.flip_at = int(size * part)
        carrier.open()
        if not self._breakable(carrier, uses_pipe):
            return
        with pytest.raises(ReberthError):
            carrier.carry()
        assert carrier.lab.wire.struck, "it gave up before the fault"

    def test_a_missing_tree_is_an_error(self, carrier: Carrier) -> None:
        """With words, within seconds, and never an empty receipt."""
        carrier.open()
        with pytest.raises(ReberthError) as caught:
            carrier.carry(path="/srv/nowhere")
        assert caught.value.message

    @staticmethod
    def _size(carrier: Carrier) -> int:
        """The least that travels, in bytes: each content once, without the hole of the sparse file."""
        tree = carrier.lab.machines["node1"].path(HERE)
        found = {p.lstat().st_ino: p.lstat().st_size for p in tree.rglob("*") if p.is_file() and p.name != "sparse"}
        return sum(found.values())

    @staticmethod
    def _breakable(carrier: Carrier, uses_pipe: bool) -> bool:
        assert bool(carrier.lab.wire.opened) is uses_pipe, "declare a data path of its own: fixture `uses_pipe`"
        return uses_pipe


def plant(tree: Path) -> None:
    """A tree with what gets lost on the way."""
    make: Callable[[str], Path] = lambda name: tree / name  # noqa: E731
    make("deep/er/est").mkdir(parents=True)
    make("empty folder").mkdir(mode=0o700)
    make("text").write_text("words\n" * 5000)
    make("gone").write_text("soon")
    make("random").write_bytes(secrets.token_bytes(300_000))
    make("none").write_bytes(b"")
    make("deep/er/est/program").write_text("#!/bin/sh\n")
    make("deep/er/est/program").chmod(0o755)
    make("secret").write_text("x")
    make("secret").chmod(0o600)
    for number, name in enumerate(ODD):
        make(name).write_text(str(number))
    make("link").symlink_to("deep/er")
    make("dangling").symlink_to("/nowhere at all")
    os.link(make("text"), make("hard link"))
    with make("sparse").open("wb") as file:
        file.seek(SPARSE_BYTES)
        file.write(b"end")
