"""Recompilation limit of `torch.compile`: clips have many shapes, each of which is compiled to its own graph."""

RECOMPILE_LIMIT = 128
"""Largest number of graphs per function.

Training samples about ten shapes, and each kind of block has its own graphs in training and in validation.
"""


def raise_recompile_limit() -> None:
    """Raise torch's limit of 8 graphs per function, beyond which it silently runs uncompiled code.

    The limit is global to the process. A higher limit set by the user is kept.
    """
    import torch._dynamo.config as dynamo  # imported here because it takes about a second

    name = "recompile_limit" if hasattr(dynamo, "recompile_limit") else "cache_size_limit"  # before torch 2.7
    setattr(dynamo, name, max(getattr(dynamo, name), RECOMPILE_LIMIT))
