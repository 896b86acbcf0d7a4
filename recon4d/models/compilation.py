"""How often torch may compile one function anew: clips come in many shapes, and each is a graph of its own."""

GRAPHS_OF_ONE_FUNCTION = 128
"""Training draws up to some ten shapes, and every kind of block, in training and in validation, has its own graphs."""


def allow_many_graphs() -> None:
    """Raise torch's limit of 8 graphs for one function, beyond which it would silently run uncompiled.

    The limit is torch's own and holds for the whole process.
    """
    import torch._dynamo.config as dynamo  # costs a second, and only those who compile need it

    name = "recompile_limit" if hasattr(dynamo, "recompile_limit") else "cache_size_limit"  # before torch 2.7
    setattr(dynamo, name, max(getattr(dynamo, name), GRAPHS_OF_ONE_FUNCTION))
