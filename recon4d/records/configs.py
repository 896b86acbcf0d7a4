"""Strict conversion of frozen configuration dataclasses to JSON and back.

An unknown key is an error, and so is a missing key whose field has no default. If the JSON key of a field differs from
the field's name, the metadata of the field holds it: ``field(metadata={FILE_KEY: "taps"})``.
"""

import dataclasses
import types
import typing
from typing import Any, TypeVar

from recon4d.errors import UserError

Config = TypeVar("Config")

TYPE_KEY = "type"
"""JSON key that holds the name of the dataclass, since a field may accept one of several classes."""
FILE_KEY = "file_key"
"""Key of the field metadata that holds the JSON key of a field, if it is not the field's name."""


def config_to_json(config: Any) -> Any:
    """Convert a configuration to plain JSON values.

    Args:
        config: A configuration dataclass, possibly nested, or a plain value or tuple inside one.

    Returns:
        Dictionaries, lists and plain values. Each dictionary holds the name of its class under `TYPE_KEY`.
    """
    if dataclasses.is_dataclass(config):
        fields = {_file_key(field): config_to_json(getattr(config, field.name)) for field in dataclasses.fields(config)}
        return {TYPE_KEY: type(config).__name__, **fields}
    return [config_to_json(item) for item in config] if isinstance(config, tuple) else config


def config_from_json(config_type: type[Config] | types.UnionType, value: Any) -> Config:
    """Build a configuration from the values that `config_to_json` returned.

    Args:
        config_type: The dataclass to build, or a union of dataclasses of which the values name one.
        value: JSON values as read from a file.

    Returns:
        The configuration. Fields that are missing in `value` have their defaults.

    Raises:
        UserError: If a value does not fit `config_type`. The message names the place of the value.
    """
    path = _tag(value) if isinstance(config_type, types.UnionType) else config_type.__name__
    return _read(config_type, value, path)


def _read(expected: Any, value: Any, path: str) -> Any:
    options: tuple[Any, ...] = _options(expected)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, dict) and _tag(value) == _name(option):
            return _read_dataclass(option, value, path)
        if typing.get_origin(option) is tuple and isinstance(value, list):
            return _read_tuple(typing.get_args(option), value, path)
        if typing.get_origin(option) is typing.Literal and value in typing.get_args(option):
            return value
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return _to_float(value, path)
        if isinstance(option, type) and type(value) is option:
            return value
    wanted = " or ".join(map(_name, options))
    given = _tag(value) if isinstance(value, dict) else repr(value)
    raise UserError(f"{path} is {given}, wanted {wanted}")


def _to_float(value: float, path: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise UserError(f"{path} is a number of {len(str(value))} digits, wanted float") from error


def _tag(value: dict[str, Any]) -> str:
    return str(value.get(TYPE_KEY, "no type"))


def _name(option: Any) -> str:
    return getattr(option, "__name__", str(option))


def _options(expected: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(expected) in (typing.Union, types.UnionType)
    return tuple(option for part in typing.get_args(expected) for option in _options(part)) if is_union else (expected,)


def _read_dataclass(config_type: Any, value: dict[str, Any], path: str) -> Any:
    annotations = typing.get_type_hints(config_type)
    fields = {_file_key(field): field for field in dataclasses.fields(config_type)}
    given = set(value) - {TYPE_KEY}
    unknown = sorted(given - fields.keys())
    # A file written before a field existed implies the field's default.
    missing = sorted(key for key in fields.keys() - given if not _has_default(fields[key]))
    if unknown or missing:
        raise UserError(f"{path} has unknown fields {unknown} and lacks {missing}")
    names = {key: fields[key].name for key in given}
    return config_type(**{name: _read(annotations[name], value[key], f"{path}.{key}") for key, name in names.items()})


def _file_key(field: dataclasses.Field) -> str:
    return field.metadata.get(FILE_KEY, field.name)


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _read_tuple(items: tuple[Any, ...], value: list[Any], path: str) -> tuple[Any, ...]:
    item_types = [items[0]] * len(value) if items[-1] is Ellipsis else list(items)
    if len(item_types) != len(value):
        raise UserError(f"{path} has {len(value)} items, wanted {len(item_types)}")
    pairs = zip(item_types, value, strict=True)
    return tuple(_read(item, entry, f"{path}[{i}]") for i, (item, entry) in enumerate(pairs))
