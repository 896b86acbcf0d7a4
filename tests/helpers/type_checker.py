"""The type checker of the tests: beartype, which accepts integers for floats (the numeric tower of PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
