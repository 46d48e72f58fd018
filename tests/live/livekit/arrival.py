"""One whole move of a workload, judged by the workload itself, with the twin that proves the judgement."""

from __future__ import annotations

from workloads import driver
from workloads.driver import Handle

from livekit.cases import Case
from livekit.command import Command, Done
from livekit.stand import gone, healthy, word_of
from reberth_lab.node import Node


def move_and_judge(handle: Handle, reberth: Command, here: Node, there: Node, *options: str) -> Done:
    """Move it; it must be whole there, gone here, and its own longest silence must be the reported downtime."""
    healthy(here, handle)
    driver.forget_gaps(here, handle)
    done = reberth.move(word_of(here, handle), f"{there.name}:", *options)
    assert done.code == 0, str(done)
    assert (done.report["outcome"], done.report["owner"]) == ("moved", "target"), str(done)
    result = healthy(there, handle)
    check_downtime(done, driver.longest_silence_s(result))
    assert gone(here, handle)
    return done


def check_downtime(done: Done, measured_s: float) -> None:
    """Within 20 % or 20 ms of what the workload measured, and the error bound of two clocks; for stop-and-copy.

    A copy whose pages follow it stands still longer than its downtime: its first steps wait for pages.
    """
    reported_s, error_s = done.report["downtime_s"], done.report["downtime_error_s"]
    print(f"downtime: reported {reported_s:.3f} s +- {error_s:.4f} s, measured {measured_s:.3f} s")
    most_s = max(driver.DOWNTIME_S, driver.DOWNTIME_SHARE * measured_s) + error_s
    assert abs(reported_s - measured_s) <= most_s


def check_twin(node: Node, handle: Handle, case: Case) -> None:
    """The same verification says no, and why, when something is lost."""
    driver.plant(node, handle, case.plant)
    damaged = driver.verify(node, handle)
    assert not damaged["ok"], f"{case.plant} was not noticed"
    assert driver.find_problem(damaged, case.problem), damaged["problems"]
