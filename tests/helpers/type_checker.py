"""The type checker of the tests: beartype, with whole numbers where floats are asked for (PEP 484's tower)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
