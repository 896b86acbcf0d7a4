"""The type checker of the tests: beartype, which accepts integers for floats (the numeric tower of PEP 484)."""

from collections.abc import Callable

from beartype import BeartypeConf, beartype

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
_local_checkers: dict[object, Callable] = {}


def check(function: Callable) -> Callable:
    """Return `function` with checks of its annotations.

    jaxtyping passes functions without a body, which do nothing but carry the annotations. A function inside another one
    is defined at every call of the outer one, and building its checks takes a millisecond: they are built once.
    """
    if "<locals>" not in function.__qualname__:
        return _checked(function)
    annotations = tuple(function.__annotations__.items())
    key = (function.__module__, function.__qualname__, function.__code__.co_varnames, annotations)
    try:
        if key not in _local_checkers:
            _local_checkers[key] = _checked(function)
    except TypeError:  # an annotation that cannot be hashed
        return _checked(function)
    return _local_checkers[key]
