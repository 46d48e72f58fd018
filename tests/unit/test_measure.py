"""What a move spends on looking at its link: a part of what it will carry, and no more."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from reberth.connect.helper import HelperShell
from reberth.plan import measure
from reberth_hooks import Mode

MIB = 1 << 20


@pytest.mark.parametrize(
    ("memory_mib", "figures", "limit_mib"),
    [(16, False, 8), (100, False, 25), (4096, False, 64), (16, True, 64), (8, False, None)],
)
def test_a_small_workload_is_not_moved_several_times_to_measure_the_link(mocker, memory_mib, figures, limit_mib):
    measured = mocker.patch.object(measure, "link_bytes_s", autospec=True, return_value=1e8)
    mocker.patch.object(measure, "straight_bytes_s", autospec=True, return_value=None)
    ends = [mocker.create_autospec(HelperShell, instance=True) for _ in range(2)]
    for end in ends:
        end.call.return_value = {"copy_bytes_s": 1e9}
    request = SimpleNamespace(options=SimpleNamespace(mode=Mode.AUTO), figures=figures)
    survey = SimpleNamespace(details={"memory_bytes": memory_mib * MIB})
    found = measure.look(request, *ends, survey, [Mode.STOP_AND_COPY, Mode.POST_COPY])
    assert [call.args[2] for call in measured.call_args_list] == ([] if limit_mib is None else [limit_mib * MIB])
    assert ("link_bytes_s" in found) is (limit_mib is not None)


@pytest.mark.parametrize("figures", [True, False])
def test_where_the_nodes_are_joined_straight_that_way_is_measured(mocker, figures):
    """Trees take it; pages that follow go through this machine, which a plan tells and no choice depends on."""
    mocker.patch.object(measure, "straight_bytes_s", autospec=True, return_value=4e8)
    through = mocker.patch.object(measure, "link_bytes_s", autospec=True, return_value=1e8)
    ends = [mocker.create_autospec(HelperShell, instance=True) for _ in range(2)]
    for end in ends:
        end.call.return_value = {"copy_bytes_s": 1e9}
    request = SimpleNamespace(options=SimpleNamespace(mode=Mode.AUTO), figures=figures)
    survey = SimpleNamespace(details={"memory_bytes": 100 * MIB})
    found = measure.look(request, *ends, survey, [Mode.STOP_AND_COPY, Mode.POST_COPY])
    assert found["link_bytes_s"] == 4e8
    assert found.get("pages_link_bytes_s") == (1e8 if figures else None)
    assert through.called is figures
