"""`reberth set`: what can be changed of an open run, and what is no change."""

from __future__ import annotations

import pytest


def test_a_limit_and_a_mode(world):
    world.answers = {"change": {"id": "20250131-120000-1f2e", "mode": "post-copy"}}
    code, document = world.json(
        "set", "20250131-120000-1f2e", "bandwidth=20MiB", "compress=zlib", "mode=post-copy", "--json"
    )
    assert (code, document["mode"]) == (0, "post-copy")
    values = {"bandwidth_bytes_s": 20 << 20, "compress": "zlib", "mode": "post-copy"}
    assert ("change", "20250131-120000-1f2e", values) in [tuple(call) for call in world.calls]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("bandwidth", "cannot be set"),
        ("colour=red", "cannot be set"),
        ("bandwidth=quick", "is not a bandwidth"),
        ("compress=gzip", "is none of auto, zstd, zlib, none"),
        ("mode=pre-copy", "cannot become pre-copy"),
        ("mode=nonsense", "is none of"),
    ],
)
def test_what_cannot_be_set(world, word, text):
    done = world.run("set", "20250131-120000-1f2e", word)
    assert done.exit_code == 2
    assert text in done.stderr
