"""A function in a separate process returns, raises, times out and survives a crash."""

import os
import time
from collections.abc import Iterator

import pytest
import torch
from scenes import make_clip
from torch import Tensor

from recon4d.errors import DataError, UserError
from recon4d.eval import Method, Request
from recon4d.eval.isolation import CrashError, IsolatedFunction
from recon4d.records import Scene


class UnpicklableError(Exception):
    """Its constructor needs two arguments, which pickling does not keep."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def misbehave(how: str, number: Tensor) -> object:
    """Run in a worker process: return, raise, take too long or die."""
    if how == "sleep":
        time.sleep(30)
    if how == "die":
        os._exit(9)
    if how == "raise":
        raise ValueError("no such thing")
    if how == "data error":
        raise DataError("clip", "depth.png", "is damaged")
    if how == "unpicklable error":
        raise UnpicklableError("two", "words")
    if how == "unpicklable value":
        return lambda: None
    return float(number) + 1


@pytest.fixture(scope="module")
def call() -> Iterator[IsolatedFunction]:
    """Return one function for all tests: it starts a new process after a crash."""
    function = IsolatedFunction(misbehave, max_seconds=60.0)
    yield function
    function.close()


def test_an_isolated_function_returns_and_raises(call: IsolatedFunction) -> None:
    assert call("return", torch.tensor(1.0)) == 2.0
    with pytest.raises(ValueError, match="no such thing") as raised:
        call("raise", torch.tensor(1.0))
    (note,) = raised.value.__notes__
    assert 'raise ValueError("no such thing")' in note
    assert call("return", torch.tensor(2.0)) == 3.0


def test_a_worker_that_died_between_calls_is_replaced(call: IsolatedFunction) -> None:
    call._process.kill()
    call._process.join(30)
    assert call("return", torch.tensor(1.0)) == 2.0


def test_a_call_that_takes_too_long_is_stopped_and_the_next_one_runs(
    call: IsolatedFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(call, "_max_seconds", 0.5)
        with pytest.raises(TimeoutError, match=r"longer than 0\.5 seconds"):
            call("sleep", torch.tensor(1.0))
    assert call("return", torch.tensor(3.0)) == 4.0


class DiesOnArrival:
    """A function whose process dies while it starts."""

    __name__ = "dies_on_arrival"

    def __call__(self) -> None:
        raise AssertionError("the process never gets here")

    def __reduce__(self) -> tuple:
        return os._exit, (3,)


def test_a_worker_that_dies_while_it_starts_is_a_crash() -> None:
    call = IsolatedFunction(DiesOnArrival(), max_seconds=20.0)
    with pytest.raises(CrashError, match=r"dies_on_arrival died \(exit code 3\)"):
        call()


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("data error", UserError, "clip: depth.png: is damaged"),
        ("unpicklable error", RuntimeError, "UnpicklableError: two words"),
        ("unpicklable value", Exception, "lambda"),
    ],
)
def test_what_cannot_be_pickled_is_reported_with_a_traceback(
    call: IsolatedFunction, how: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as raised:
        call(how, torch.tensor(1.0))
    assert "Traceback" in raised.value.__notes__[0]
    assert call("return", torch.tensor(1.0)) == 2.0


class Isolated(Method):
    """A method that runs in a worker process."""

    name = key = "isolated"

    def __init__(self, call: IsolatedFunction, how: str) -> None:
        self.call, self.how = call, how

    def predict_scene(self, request: Request) -> Scene:
        return self.call(self.how, torch.tensor(1.0))


def test_user_errors_of_a_worker_are_failed_predictions(call: IsolatedFunction) -> None:
    prediction = Isolated(call, "data error").predict(Request("clip", make_clip(), (0,)))
    assert (prediction.scene, prediction.status) == (None, "failed")
    assert prediction.reason == "clip: depth.png: is damaged"


def test_a_defect_in_a_worker_surfaces_with_its_traceback(call: IsolatedFunction) -> None:
    with pytest.raises(ValueError, match="no such thing") as raised:
        Isolated(call, "raise").predict(Request("clip", make_clip(), (0,)))
    assert "in misbehave" in raised.value.__notes__[0]


def test_the_death_of_a_worker_is_a_crash(call: IsolatedFunction) -> None:
    with pytest.raises(CrashError, match=r"the process of misbehave died \(exit code 9\)"):
        call("die", torch.tensor(1.0))
