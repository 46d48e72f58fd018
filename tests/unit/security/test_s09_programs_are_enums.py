"""S9: an option that chooses a program is one of a few words, never a program."""

from __future__ import annotations

import pytest

from reberth.config.options import make_options
from reberth_hooks import UsageError


@pytest.mark.parametrize(
    "word", ["zstd --ultra", "/bin/sh", "zstd;reboot", "$(reboot)", "gzip", "ZSTD", "../zstd", "zstd\n", ""]
)
def test_another_compressor_is_refused(word):
    with pytest.raises(UsageError):
        make_options({}, {"compress": word})


@pytest.mark.parametrize("word", ["auto", "zstd", "zlib", "none"])
def test_these_are_taken(word):
    assert make_options({}, {"compress": word}).compress == word
