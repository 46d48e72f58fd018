"""A held copy whose source is gone."""

from __future__ import annotations

import pytest

from reberth.run.decide import Step, Want, decide


@pytest.mark.parametrize("want", Want)
@pytest.mark.parametrize(("vote", "step"), [(None, Step.ASK_READY), ("READY", Step.PERMIT), ("RESUME", Step.ABORT)])
def test_the_only_copy_there_is_goes_on(want, vote, step):
    """The source's node restarted while the target held the whole, verified copy: it must not be taken back."""
    source = {"role": "source", "vote": vote, "froze": True, "held": True, "gone": True, "holding": False}
    target = {"role": "target", "verdict": None, "ended": "", "holding": True}
    assert decide(source, target, want).step is step
