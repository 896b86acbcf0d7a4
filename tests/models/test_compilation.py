"""The recompilation limit: many input shapes stay compiled."""

import torch

from recon4d.models import raise_recompile_limit


def test_every_shape_is_compiled() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(inputs)
        return graph.forward

    raise_recompile_limit()
    compiled = torch.compile(lambda x: x * 2, backend=backend, dynamic=False)
    for length in range(2, 14):
        assert compiled(torch.ones(length)).sum() == 2 * length
    assert len(graphs) == 12


def test_a_higher_limit_of_the_user_is_kept() -> None:
    import torch._dynamo.config as dynamo

    with dynamo.patch(recompile_limit=1000):
        raise_recompile_limit()
        assert dynamo.recompile_limit == 1000
