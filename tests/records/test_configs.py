"""Strict conversion of configurations to JSON and back."""

import json
from dataclasses import dataclass
from typing import Literal

import pytest

from recon4d.errors import UserError
from recon4d.records import config_from_json, config_to_json
from recon4d.zoo import list_models, model_config


@dataclass(frozen=True)
class Inner:
    size: int
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Other:
    rate: float


@dataclass(frozen=True)
class Outer:
    part: Inner | Other
    numbers: tuple[int, ...] = ()
    pair: tuple[int, str] = (1, "x")
    scale: float | None = None


@pytest.mark.parametrize(
    "config",
    [Outer(Inner(3)), Outer(Other(0.5), (1, 2, 3), (4, "y"), 2.0), Outer(Inner(1, "b"), (), (0, ""), None)],
)
def test_round_trip_through_text(config: Outer) -> None:
    assert config_from_json(Outer, json.loads(json.dumps(config_to_json(config)))) == config


def test_every_model_of_the_zoo() -> None:
    for name in list_models():
        for heads in ("linear", "dpt"):
            config = model_config(name, heads)
            assert config_from_json(type(config), json.loads(json.dumps(config_to_json(config)))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.update(extra=1), r"unknown fields \['extra'\]"),
        (lambda value: value.pop("part"), r"lacks \['part'\]"),
        (lambda value: value["part"].update(type="Nothing"), "Outer.part is Nothing, wanted Inner or Other"),
        (lambda value: value["part"].update(size="3"), "Outer.part.size is '3', wanted int"),
        (lambda value: value["part"].update(kind="c"), "Outer.part.kind is 'c'"),
        (lambda value: value.update(numbers=[1, True]), r"Outer.numbers\[1\] is True, wanted int"),
        (lambda value: value.update(pair=[1]), "Outer.pair has 1 items, wanted 2"),
        (lambda value: value.update(scale="big"), "Outer.scale is 'big', wanted float or NoneType"),
    ],
)
def test_errors_name_the_field(change, message: str) -> None:
    value = json.loads(json.dumps(config_to_json(Outer(Inner(3)))))
    change(value)
    with pytest.raises(UserError, match=message):
        config_from_json(Outer, value)


def test_a_missing_field_has_its_default() -> None:
    value = config_to_json(Outer(Inner(1, "b"), (), (0, "y")))
    del value["pair"], value["part"]["kind"]
    assert config_from_json(Outer, value) == Outer(Inner(1))


def test_integers_are_accepted_as_floats() -> None:
    value = config_to_json(Outer(Inner(1)))
    value["scale"] = 3
    assert config_from_json(Outer, value).scale == 3.0
