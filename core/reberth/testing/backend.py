"""The contract of a backend: one copy, always; a failure at any moment leaves the source as it was."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from reberth.testing.judge import NAMES, Mover
from reberth.testing.lab import Lab, Started, as_plain
from reberth.testing.plain import PluginContract
from reberth.testing.saboteur import PHASES, ControllerDiedError, Saboteur
from reberth_hooks import Checkpoint, Declaration, Exit, Found, ReberthError, Restored, Role, Tree

Start = Callable[[str], Started]
# The last transfer is another one than the first: by then the source is frozen.
BREAKABLE = [*(phase for phase in PHASES if phase not in ("commit", "rollback")), "final transfer"]


class BackendContract(PluginContract):
    """Override `plugin`, `tools` and `start`; the rest has defaults that suit a backend without peculiarities."""

    @pytest.fixture
    def tools(self, reberth_lab: Lab) -> None:
        """Puts fake tools on the nodes: `reberth_lab.tool("runc", tools.OCI)`. Override this one."""
        raise NotImplementedError("override the fixture `tools`: which fake tools does the backend run?")

    @pytest.fixture
    def start(self, reberth_lab: Lab) -> Start:
        """Return how one more workload is started on a node: a function of the node's name. Override this one."""
        raise NotImplementedError("override the fixture `start`: how does a workload begin to run on a node?")

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        """The backend's table in the configuration of both nodes."""
        return {}

    @pytest.fixture
    def lasting(self) -> tuple[str, ...]:
        """A declared deviation: patterns of paths that may stay on a node after a move beside the workload's own."""
        return ()

    @pytest.fixture
    def failing(self) -> dict[str, str]:
        """The word of the tool's argument list that a failing checkpoint or restore has."""
        return {"checkpoint": "checkpoint", "restore": "restore"}

    @pytest.fixture
    def secrets(self) -> tuple[str, ...]:
        """Return words that must appear in no journal, event or argument list; override it to name yours."""
        return ()

    @pytest.fixture
    def mover(
        self, reberth_lab: Lab, plugin: str, module: ModuleType, tools: None, start: Start, options: dict[str, Any]
    ) -> Mover:
        """A workload on node1, ready to be moved."""
        return Mover(reberth_lab, plugin, module, start("node1"), options=options)

    # What it says

    def test_it_is_a_backend(self, said: Declaration) -> None:
        """It declares the role, what it can do, and which programs it runs."""
        assert Role.BACKEND in said.roles
        assert said.modes, "a backend offers at least one mode"
        assert said.tools, "a backend names the programs that it runs on a node"

    def test_looking_touches_nothing(self, mover: Mover) -> None:
        """Listing, probing and planning leave both nodes as they are."""
        host = mover.host()
        plan = mover.plan(host)
        assert plan.refused == ()
        assert as_plain(plan)["details"] == as_plain(plan.details)
        host.list_workloads(None)
        mover.check_as_before()
        mover.check_one_copy("node1")

    def test_the_list_shows_it(self, mover: Mover, plugin: str) -> None:
        """Check that what runs is found, by the name with which it can be moved."""
        found: dict[str, list[str]] = {name: [] for name in NAMES}
        for node, entry in mover.host().list_workloads(None):
            assert isinstance(entry, Found) and entry.backend == plugin
            found[node].append(entry.name)
        assert mover.started.name in found["node1"]
        assert mover.started.name not in found["node2"]

    def test_an_unknown_name_is_refused(self, mover: Mover) -> None:
        """There is no such workload: an error that says that nothing was touched."""
        with pytest.raises(ReberthError) as caught:
            mover.plan(mover.host(), name="4099")
        assert caught.value.exit_code in (Exit.USAGE, Exit.REFUSED)
        mover.check_as_before()

    def test_a_name_that_is_taken_is_refused(self, mover: Mover) -> None:
        """The target has a workload of that name already: it lives on, and nothing is moved."""
        task = mover.lab.machines["node1"].task(mover.started.pid)
        assert task is not None
        other = mover.lab.machines["node2"]
        for path in mover.started.paths:
            if mover.lab.machines["node1"].path(path).is_file():
                other.path(path).parent.mkdir(parents=True, exist_ok=True)
                other.path(path).write_bytes(mover.lab.machines["node1"].path(path).read_bytes())
        other.make_cgroup(task["cgroup"])
        other.put({**task, "memory": "of another workload"})
        plan = mover.plan(mover.host())
        assert plan.refused, "the target has a workload of this name"
        assert other.task(mover.started.pid) is not None

    # A move that succeeds

    def test_it_arrives_and_the_source_is_gone(self, mover: Mover, lasting: tuple[str, ...]) -> None:
        """One copy, on the target, with the memory that it had; nothing else is left on either node."""
        report = mover.move()
        assert (report.outcome, report.exit_code) == ("moved", Exit.DONE), report.error
        mover.check_one_copy("node2")
        mover.check_arrived(lasting)

    def test_there_and_back(self, mover: Mover, lasting: tuple[str, ...]) -> None:
        """Check that what one move leaves behind is in no later move's way."""
        for _ in range(3):
            mover.remember()
            report = mover.move()
            assert report.outcome == "moved", report.error
            mover.check_one_copy(mover.where)
            mover.check_arrived(lasting)

    def test_nobody_runs_between_freeze_and_permit(self, mover: Mover) -> None:
        """Frozen, but there: the source. Complete, but held: the copy. So a failure can choose either."""
        report = mover.move()
        moments = dict(mover.seen)
        assert moments["before checkpoint"] == ["node1"]
        for moment in ("after checkpoint", "before restore", "after restore"):
            assert moments[moment] == [], f"{moment} it runs on {moments[moment]}"
        assert report.outcome == "moved", report.error

    def test_answers_are_what_the_phases_promise(self, mover: Mover) -> None:
        """They have the promised types, pass through JSON unharmed, and name a parcel that the target needs."""
        mover.move()
        answers = dict(mover.witness.answers)
        for answer in answers.values():
            assert as_plain(answer) is not None
        got, restored = answers["checkpoint"], answers.get("restore")
        assert isinstance(got, Checkpoint) and got.parcels, "what does the target restore from?"
        assert all(isinstance(p, Tree) or p.port for p in got.parcels)
        assert isinstance(restored, Restored) and restored.pid > 0

    def test_only_declared_tools_are_run(self, mover: Mover, said: Declaration) -> None:
        """`Declaration.tools` is what an administrator reads before he enables the plugin."""
        mover.move()
        mover.move(Saboteur("restore", "after"))
        ran = {words[0] for words in mover.lab.calls()}
        assert ran <= set(said.tools)

    def test_secrets_stay_secret(self, mover: Mover, secrets: tuple[str, ...]) -> None:
        """Check that what the author names as secret is in no journal, event or argument list."""
        host = mover.host()
        plan = mover.plan(host)
        host.move(plan)
        kept = mover.texts_kept(plan.id)
        assert [s for s in secrets if s in kept] == []

    # A move that fails

    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("phase", BREAKABLE)
    def test_a_failure_in_any_phase_leaves_the_source(self, mover: Mover, phase: str, when: str) -> None:
        """Whatever fails before the point of no return: the source runs, the target has nothing, no litter."""
        hook = phase.removeprefix("final ")
        saboteur = Saboteur(hook, when, since="checkpoint" if hook != phase else "")
        report = mover.move(saboteur)
        if phase == "sync" and not hasattr(mover.module, "reberth_sync"):
            assert report.outcome == "moved", "a backend without files of its own has no such phase"
            return
        assert saboteur.struck
        assert (report.outcome, report.exit_code) == ("rolled-back", Exit.ROLLED_BACK), report.error
        mover.check_one_copy("node1")
        mover.check_as_before()

    @pytest.mark.parametrize(("phase", "node"), [("checkpoint", "node1"), ("restore", "node2")])
    def test_a_failing_tool_leaves_the_source(
        self, mover: Mover, failing: dict[str, str], phase: str, node: str
    ) -> None:
        """The tool's own words reach the user, and the move can be tried again."""
        mover.lab.fail(node, failing[phase], "Error: the tool says no")
        report = mover.move()
        assert (report.outcome, report.exit_code) == ("rolled-back", Exit.ROLLED_BACK), report.error
        assert "the tool says no" in str(report.error)
        mover.check_one_copy("node1")
        mover.check_as_before()
        mover.lab.machines[node].failures.unlink()
        assert mover.move().outcome == "moved"

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_failing_commit_leaves_the_copy(self, mover: Mover, lasting: tuple[str, ...], when: str) -> None:
        """The copy runs: a clean-up that fails is pending, and `recover` calls it again."""
        saboteur = Saboteur("commit", when)
        host = mover.host(saboteur)
        plan = mover.plan(host)
        report = host.move(plan)
        mover.where = mover.there
        assert (report.outcome, report.exit_code) == ("moved", Exit.CLEANUP_PENDING), report.error
        mover.check_one_copy("node2")
        report = mover.host(saboteur).recover_run(plan)
        assert (report.outcome, report.exit_code) == ("moved", Exit.DONE), report.error
        mover.check_one_copy("node2")
        mover.check_arrived(lasting)

    def test_rolling_back_twice_is_harmless(self, mover: Mover) -> None:
        """`reberth_rollback` is called again after a crash that left no word of the first call."""
        host = mover.host(Saboteur("restore", "after"))
        plan = mover.plan(host)
        with mover.lab.kernel_of(plan):
            host.move(plan)
            session = host.session(plan)
            for _ in range(2):
                assert host.stage.rollback(session) is True
        mover.check_one_copy("node1")
        mover.check_as_before()

    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("phase", ["prepare", "checkpoint", "restore", "commit"])
    def test_a_dead_controller_loses_nothing(
        self, mover: Mover, lasting: tuple[str, ...], phase: str, when: str
    ) -> None:
        """The nodes act by themselves, and `recover` finishes from the journals alone: one copy, no litter."""
        host, plan = mover.die(Saboteur(phase, when, ControllerDiedError()))
        report = host.recover_run(plan)
        if phase == "commit":
            assert report.outcome == "moved", report.error
            mover.where = mover.there
            mover.check_one_copy("node2")
            mover.check_arrived(lasting)
        else:
            assert report.outcome == "rolled-back", report.error
            mover.check_one_copy("node1")
            mover.check_as_before()
