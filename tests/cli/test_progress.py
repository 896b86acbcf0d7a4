"""The progress line of `recon4d reconstruct`: stages, time left, and silence when stderr is not a terminal."""

import io
import time

import pytest

from recon4d.cli.progress import CLEAR_LINE, StageProgress
from recon4d.runs import stages as module
from recon4d.runs.stages import REFINEMENT_STAGES, TYPICAL_FRAMES, TYPICAL_SECONDS


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run_stages(progress: StageProgress, clock: Clock, pace: float, until: str) -> None:
    """Run the stages before `until` with `pace` times their typical durations, and start that one."""
    for name, seconds in TYPICAL_SECONDS.items():
        progress.start(name)
        if name == until:
            return
        clock.now += pace * seconds


class TestTimeLeft:
    def test_the_network_tells_its_own_rest_and_the_typical_rest_follows(self, clock: Clock) -> None:
        progress = StageProgress(is_refined=False)
        run_stages(progress, clock, 1, "network")
        assert progress.estimate_left(clock.now) is None
        clock.now += 30
        progress.advance(0.25)
        assert progress.estimate_left(clock.now) == pytest.approx(90 + TYPICAL_SECONDS["writing"])
        assert progress.describe(clock.now) == "network, 32 s, about 93 s left"

    @pytest.mark.parametrize("pace", [0.5, 1, 3])
    def test_stages_of_refinement_tell_how_long_the_next_ones_take(self, clock: Clock, pace: float) -> None:
        progress = StageProgress(is_refined=True)
        run_stages(progress, clock, pace, "fitting cameras")
        clock.now += 1
        stages = REFINEMENT_STAGES[REFINEMENT_STAGES.index("fitting cameras") :]
        later = pace * sum(TYPICAL_SECONDS[stage] for stage in stages)
        assert progress.estimate_left(clock.now) == pytest.approx(later - 1 + TYPICAL_SECONDS["writing"])

    def test_it_is_proportional_to_the_number_of_frames(self, clock: Clock) -> None:
        progress = StageProgress(is_refined=True)
        progress.expect_frames(3 * TYPICAL_FRAMES)
        run_stages(progress, clock, 3, "computing depth")
        stages = REFINEMENT_STAGES[REFINEMENT_STAGES.index("computing depth") :]
        rest = sum(TYPICAL_SECONDS[stage] for stage in (*stages, "writing"))
        assert progress.estimate_left(clock.now) == pytest.approx(3 * rest)

    def test_a_stage_that_takes_longer_promises_nothing(self, clock: Clock) -> None:
        progress = StageProgress(is_refined=True)
        run_stages(progress, clock, 1, "fitting cameras")
        clock.now += 2 * TYPICAL_SECONDS["fitting cameras"]
        assert progress.estimate_left(clock.now) is None
        progress.start("fitting cameras again")
        assert progress.describe(clock.now) == "fitting cameras again, 13 s"

    def test_a_clip_that_is_not_refined_expects_no_stages_of_it(self, clock: Clock) -> None:
        progress = StageProgress(is_refined=True)
        progress.skip_refinement()
        run_stages(progress, clock, 1, "network")
        clock.now += 1
        progress.advance(1.0)
        assert progress.estimate_left(clock.now) == pytest.approx(TYPICAL_SECONDS["writing"])


class TestLine:
    def test_nothing_is_written_unless_stderr_is_a_terminal(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(module, "INTERVAL", 0.001)
        with StageProgress(is_refined=True) as progress:
            progress.start("network")
            time.sleep(0.02)
            progress.print("a line")
        assert capsys.readouterr() == ("a line\n", "")

    def test_a_terminal_shows_the_stage_and_is_left_clean(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setattr(module, "INTERVAL", 0.001)
        with StageProgress(is_refined=True) as progress:
            progress.start("network")
            time.sleep(0.05)
        shown = terminal.getvalue()
        assert f"{CLEAR_LINE}network, 0 s" in shown
        assert shown.endswith(CLEAR_LINE)
        assert "\n" not in shown
