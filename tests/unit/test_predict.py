"""The model of costs, the fit of the dirty rate, and the limit of bytes: pure, or by a clock of the test's own."""

from __future__ import annotations

import math
import os
import threading
import time

import pytest

from reberth.node.daemon.loop import Daemon
from reberth.node.survey import measure
from reberth.node.survey.measure import fit, tracked_bytes
from reberth.node.system.rate_limit import Bucket
from reberth.plan import predict
from reberth.run.control import Wishes
from reberth_hooks import Mode, Options

MIB = 1 << 20
LINK = {"link_bytes_s": 100 * MIB}


def cost(mode, mib=1024, measured=LINK, backend="criu", **options):
    return predict.predict(mode, backend, mib * MIB, measured, Options(**options))


def test_downtime_grows_with_memory_only_where_it_stands_still():
    small, large = (cost(Mode.STOP_AND_COPY, mib, memory_ahead=False) for mib in (256, 1024))
    assert large.downtime_s > 3.5 * small.downtime_s
    assert cost(Mode.STOP_AND_COPY).downtime_s < 0.2 * large.downtime_s
    small, large = (cost(Mode.POST_COPY, mib) for mib in (256, 1024))
    assert large.downtime_s < 4 * small.downtime_s
    assert large.downtime_s < 0.3 * cost(Mode.STOP_AND_COPY).downtime_s
    assert large.total_s > 10


def test_rounds_help_a_slow_writer_and_not_one_that_outruns_the_link():
    slow = {**LINK, "dirty_bytes_s": 5 * MIB, "set_bytes": 64 * MIB}
    fast = {**LINK, "dirty_bytes_s": 400 * MIB, "set_bytes": 900 * MIB}
    plain = cost(Mode.STOP_AND_COPY, memory_ahead=False)
    assert cost(Mode.PRE_COPY, measured=slow).downtime_s < 0.2 * plain.downtime_s
    worse = cost(Mode.PRE_COPY, measured=fast)
    assert worse.bytes > 1.5 * plain.bytes
    assert worse.rounds <= 2, "a round that gains nothing is the last"
    assert cost(Mode.HYBRID, measured=fast).downtime_s < worse.downtime_s


def test_memory_that_is_written_straight_through_is_dirty_as_a_whole_after_one_pass():
    """A set as large as all memory was not seen to bend: then nothing is written twice before all is written once."""
    assert predict.dirty_bytes(1, 100, 1000, 1000) == 100
    assert predict.dirty_bytes(60, 100, 1000, 1000) == 1000
    assert predict.dirty_bytes(60, 100, 1000, 4000) < 1000
    straight = {"link_bytes_s": 12e6, "dirty_bytes_s": 21e6, "set_bytes": 256 * MIB, "resident_bytes": 256 * MIB}
    ahead, plain = (cost(Mode.STOP_AND_COPY, 256, straight, memory_ahead=on).downtime_s for on in (True, False))
    assert ahead == pytest.approx(plain, rel=0.1)


def test_in_huge_pages_a_written_byte_makes_two_mebibytes_dirty():
    """Rounds then gain nothing, while what is compared by content, page by page, is as little as ever."""
    assert tracked_bytes(0.01, 512 * MIB, 0) == pytest.approx(5.12 * MIB)
    assert tracked_bytes(0.01, 512 * MIB, 512 * MIB) > 500 * MIB
    assert tracked_bytes(0.0, 512 * MIB, 512 * MIB) == 0
    slow = {**LINK, "dirty_bytes_s": 2 * MIB, "set_bytes": 200 * MIB}
    huge = {**slow, "tracked_bytes_s": 500 * MIB, "tracked_set_bytes": 1000 * MIB}
    assert cost(Mode.PRE_COPY, measured=huge).downtime_s > 10 * cost(Mode.PRE_COPY, measured=slow).downtime_s
    assert cost(Mode.STOP_AND_COPY, measured=huge) == cost(Mode.STOP_AND_COPY, measured=slow)


def test_a_slow_node_needs_longer_for_everything_but_the_link():
    fast, slow = cost(Mode.POST_COPY), cost(Mode.POST_COPY, measured={**LINK, "copy_bytes_s": 300e6})
    assert slow.downtime_s == pytest.approx(10 * fast.downtime_s)
    assert cost(Mode.POST_COPY, measured={**LINK, "copy_bytes_s": 2e9}) == fast, "a busy machine is no slow one"


def test_pages_that_follow_take_as_long_as_their_own_way():
    both = {**LINK, "pages_link_bytes_s": 10 * MIB}
    assert cost(Mode.POST_COPY, measured=both).total_s > 100 > cost(Mode.POST_COPY).total_s
    assert cost(Mode.STOP_AND_COPY, measured=both) == cost(Mode.STOP_AND_COPY)


def test_a_fixed_number_of_rounds_and_a_limit():
    quiet = {**LINK, "dirty_bytes_s": MIB, "set_bytes": 64 * MIB}
    assert cost(Mode.PRE_COPY, measured=quiet, policy="fixed", iterations=3).rounds == 3
    assert cost(Mode.STOP_AND_COPY, bandwidth_bytes_s=10 * MIB).total_s > 100


def test_the_document_has_a_range():
    found = cost(Mode.POST_COPY).document()
    assert found["downtime_low_s"] < found["downtime_s"] < found["downtime_high_s"]
    assert predict.table([Mode.POST_COPY], "criu", {}, LINK, Options()) == {}


@pytest.mark.parametrize(("rate", "size"), [(20 * MIB, 64 * MIB), (5 * MIB, 512 * MIB), (200 * MIB, 100 * MIB)])
def test_the_fit_finds_rate_and_set(rate, size):
    seen = [(t, size * (1 - math.exp(-rate * t / size))) for t in (0.25, 0.5, 1.0, 2.0)]
    found_rate, found_size = fit(seen)
    assert found_rate == pytest.approx(rate, rel=0.05)
    assert found_size > 0.9 * size


def test_the_fit_of_a_quiet_and_of_a_straight_one():
    assert fit([(0.25, 0.0), (2.0, 0.0)]) == (0.0, 0.0)
    rate, size = fit([(0.25, 0.25 * MIB), (2.0, 2 * MIB)])
    assert rate == pytest.approx(MIB)
    assert size > 100 * MIB


def test_a_limit_makes_who_sends_wait_and_a_new_one_lets_it_go():
    bucket = Bucket()
    bucket.spend(1 << 40)  # no limit: no wait
    bucket.limit(1)
    passed = threading.Event()
    threading.Thread(target=lambda: (bucket.spend(1 << 20), passed.set()), daemon=True).start()
    assert not passed.wait(0.2)
    bucket.limit(0)
    assert passed.wait(10)


def test_a_limit_is_kept():
    bucket = Bucket()
    bucket.limit(1 << 20)
    started_s = time.monotonic()
    for _ in range(8):
        bucket.spend(1 << 16)
    assert time.monotonic() - started_s > 0.3


def test_wishes_are_heard_once_and_add_up(tmp_path):
    writer, reader = Wishes(tmp_path), Wishes(tmp_path)
    assert reader.news() == {}
    writer.add({"bandwidth_bytes_s": 5})
    assert reader.news() == {"bandwidth_bytes_s": 5}
    assert reader.news() == {}
    time.sleep(0.01)
    assert writer.add({"mode": "post-copy"}) == {"bandwidth_bytes_s": 5, "mode": "post-copy"}
    assert reader.news() == {"bandwidth_bytes_s": 5, "mode": "post-copy"}
    (tmp_path / "wishes.json").write_text("{")
    assert reader.news() == {}


def test_the_link_is_as_fast_as_its_bytes_and_not_as_its_end(mocker):
    """The end of the stream came when two ssh connections had ended, which is no time of the link."""
    daemon = mocker.create_autospec(Daemon, instance=True)
    daemon.probe, daemon.probe_ready, daemon.probe_over = os.pipe(), threading.Event(), threading.Event()
    daemon.probe_ready.set()
    mocker.patch.object(measure.os, "read", autospec=True, side_effect=[b"x" * 100, b"x" * 100, b""])
    mocker.patch.object(measure.time, "monotonic", autospec=True, side_effect=[1.0, 2.0, 60.0])
    assert measure.link_recv(daemon, None) == {"bytes": 100, "seconds": 1.0}


def test_of_a_link_counts_what_comes_when_it_has_found_its_pace():
    """A burst that buffers had held ready, and a connection whose window still grows, are no pace."""
    burst = [(0.0, 30), *((tenth / 10, 30 + tenth) for tenth in range(1, 11))]
    assert measure.steady(burst) == pytest.approx({"bytes": 6, "seconds": 0.6})
    slow_start = [(tenth / 10, tenth if tenth < 4 else 4 + 10 * (tenth - 4)) for tenth in range(11)]
    found = measure.steady(slow_start)
    assert found["bytes"] / found["seconds"] == pytest.approx(100)
    assert measure.steady([]) == {"bytes": 0, "seconds": 0.0}
    assert measure.steady([(1.0, 5)]) == {"bytes": 5, "seconds": 0.0}
    assert measure.steady([(1.0, 5), (1.0, 9)]) == {"bytes": 4, "seconds": 0.0}
