"""LXD or Incus: by the extensions of the API, and remedies that name the client that there is."""

from __future__ import annotations

import pytest

from reberth_hooks import Check, Level
from reberth_lxd.api import kinds


@pytest.mark.parametrize(
    ("extensions", "kind"),
    [(["restrict_devlxd"], "lxd"), (["etag", "restrict_dev_incus"], "incus"), (["etag"], ""), ([], "")],
)
def test_which_it_is(extensions, kind):
    assert kinds.kind_of(extensions) == kind


def test_what_it_lacks():
    assert kinds.lacking(kinds.NEEDED) == ""
    assert kinds.lacking(["instances"]) == "its API has no migration_pre_copy"
    assert kinds.lacking([]) == "its API has no instances and no migration_pre_copy"


@pytest.mark.parametrize(
    ("remedy", "for_incus"),
    [
        ("restart it once: lxc restart c1", "restart it once: incus restart c1"),
        ("lxc delete or lxc rename the one", "incus delete or incus rename the one"),
        (
            "lxc config set c1 raw.lxc 'lxc.console.path = none'",
            "incus config set c1 raw.lxc 'lxc.console.path = none'",
        ),
        ("lxc config trust add client.crt", "incus config trust add-certificate client.crt"),
        ("detach it first", "detach it first"),
    ],
)
def test_the_remedy_names_the_client(remedy, for_incus):
    check = Check("id", Level.FAIL, "a reason", remedy, "n1")
    assert [one.remedy for one in kinds.in_words_of("incus", [check])] == [for_incus]
    assert [*kinds.in_words_of("lxd", [check])] == [check]
