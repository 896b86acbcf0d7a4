"""What is compiled stays compiled, however many shapes come."""

import torch

from recon4d.models import allow_many_graphs


def test_every_shape_gets_a_graph_of_its_own() -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(inputs)
        return graph.forward

    allow_many_graphs()
    compiled = torch.compile(lambda x: x * 2, backend=backend, dynamic=False)
    for length in range(2, 14):
        assert compiled(torch.ones(length)).sum() == 2 * length
    assert len(graphs) == 12


def test_a_higher_limit_of_the_user_stays() -> None:
    import torch._dynamo.config as dynamo

    with dynamo.patch(recompile_limit=1000):
        allow_many_graphs()
        assert dynamo.recompile_limit == 1000
