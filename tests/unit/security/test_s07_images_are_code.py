"""S7: only what this controller wrote is restored, and a configuration brings only what the target allows."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from reberth.archive import directory
from reberth.commands import checkpoint as halves
from reberth_hooks import Level, Options, RefusedError, UsageError
from reberth_hooks.criu.bundle import config_checks


@pytest.fixture
def checkpoint(tmp_path):
    """A directory as `reberth checkpoint` writes it."""
    place = tmp_path / "checkpoint"
    (place / "images").mkdir(parents=True)
    (place / "bundle").mkdir()
    (place / "images" / "core-1.img").write_bytes(b"core")
    (place / "images" / "pages-1.img").write_bytes(b"pages" * 100)
    (place / "bundle" / "config.json").write_text("{}")
    directory.write_signed(place, {"plan": {"workload": {}}})
    return place


class Nobody:
    """A host that must not be asked for anything but its inventory."""

    config = SimpleNamespace(nodes={})

    def __getattr__(self, name):
        raise AssertionError(f"{name} was asked for")


def edit(place, change):
    path = place / directory.SIGNED
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


CHANGES = {
    "an image": lambda place: (place / "images/core-1.img").write_bytes(b"Core"),
    "an image is gone": lambda place: (place / "images/pages-1.img").unlink(),
    "one more image": lambda place: (place / "images/extra.img").write_bytes(b"x"),
    "an image is a link": lambda place: (
        (place / "images/core-1.img").unlink(),
        (place / "images/core-1.img").symlink_to("/etc/passwd"),
    ),
    "the configuration": lambda place: (place / "bundle/config.json").write_text('{"hooks": {}}'),
    "a mode": lambda place: (place / "bundle/config.json").chmod(0o777),
    "the document": lambda place: edit(place, lambda d: d.update(checkpoint=d["checkpoint"].replace("core", "more"))),
    "the seal": lambda place: edit(place, lambda d: d.update(seal="0" * 64)),
    "no seal": lambda place: edit(place, lambda d: d.pop("seal")),
    "no document": lambda place: (place / directory.SIGNED).unlink(),
}


def test_what_was_written_is_read(checkpoint):
    assert directory.read_signed(checkpoint)["plan"] == {"workload": {}}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_refused_before_any_node_is_asked(checkpoint, change, started):
    CHANGES[change](checkpoint)
    with pytest.raises((RefusedError, UsageError)):
        halves.restore(Nobody(), checkpoint, "pi2:", Options())
    assert started() == []


def test_what_another_controller_wrote_is_refused(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    with pytest.raises(RefusedError):
        directory.read_signed(checkpoint)


def test_the_document_of_another_checkpoint_is_refused(checkpoint, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    (other / "images/core-1.img").write_bytes(b"else")
    directory.write_signed(other, {"plan": {"workload": {}}})
    shutil.copy(other / directory.SIGNED, checkpoint / directory.SIGNED)
    with pytest.raises(RefusedError):
        directory.read_signed(checkpoint)


CONFIGS = {
    "hooks": ({"hooks": {"prestart": [{"path": "/bin/x"}]}}, {"allow_hooks": True}),
    "mounts": ({"mounts": [{"type": "bind", "source": "/etc", "destination": "/e"}]}, {"allow_mounts": ["/etc"]}),
    "devices": ({"linux": {"devices": [{"path": "/dev/kvm"}]}}, {"allow_devices": ["/dev/kvm"]}),
}


@pytest.mark.parametrize("id", CONFIGS)
def test_a_configuration_needs_the_targets_leave(id):
    config, allowed = CONFIGS[id]
    base = {"root": {"path": "rootfs"}}
    found = list(config_checks({**base, **config}, "/srv/web", {}, "pi2", "runc"))
    assert [(check.id, check.level) for check in found] == [(id, Level.FAIL)]
    assert list(config_checks({**base, **config}, "/srv/web", allowed, "pi2", "runc")) == []


@pytest.mark.parametrize("source", ["/srv/web/../../etc", "/srv/web2", "../../etc"])
def test_a_mount_cannot_be_written_so_that_it_looks_inside(source):
    config = {"root": {"path": "rootfs"}, "mounts": [{"type": "bind", "source": source, "destination": "/e"}]}
    assert [check.id for check in config_checks(config, "/srv/web", {}, "pi2", "runc")] == ["mounts"]
