"""Schedules of the learning rate."""

import pytest

from recon4d.train.schedule import Schedule

# Schedules


def test_the_rate_warms_up_stays_constant_and_falls_to_zero() -> None:
    schedule = Schedule(warmup_steps=10, total_steps=100, decay_share=0.32)
    corners = {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 68: 1.0, 84: 0.5, 92: 0.25, 99: 1 / 32, 100: 0.0, 150: 0.0}
    for step, wanted in corners.items():
        assert schedule.multiplier(step) == pytest.approx(wanted), step


def test_the_default_decay_is_over_a_third_of_the_steps() -> None:
    assert Schedule(0, 1000).multiplier(680) == 1
    assert Schedule(0, 1000).multiplier(840) == pytest.approx(0.5)


def test_a_schedule_may_have_no_decay_or_no_warm_up() -> None:
    assert [Schedule(0, 100, decay_share=0.5).multiplier(step) for step in (0, 50, 75, 100, 200)] == [1, 1, 0.5, 0, 0]
    assert Schedule(0, 100, decay_share=0.0).multiplier(100) == 1
    assert Schedule(100, 100, decay_share=1.0).multiplier(49) == pytest.approx(0.5 * 0.51)


def test_a_fraction_of_a_step_lies_between_its_neighbors() -> None:
    assert Schedule(0, 100).multiplier(84.5) == pytest.approx(15.5 / 32)


@pytest.mark.parametrize("arguments", [(-1, 10), (11, 10), (0, 0), (0, 10, -0.1), (0, 10, 1.1)])
def test_schedules_out_of_range_are_rejected(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="wanted"):
        Schedule(*arguments)
