"""The aggregator: special tokens, attention within and across frames, and output features."""

from dataclasses import replace

import pytest
import torch
from networks import random_images, tiny_model

from recon4d.layers import BlockConfig, rotary_table
from recon4d.models import Aggregator, AggregatorConfig, Model
from recon4d.zoo import model_config

GRID = (2, 3)


@pytest.fixture
def aggregator() -> Aggregator:
    torch.manual_seed(0)
    config = AggregatorConfig(BlockConfig(16, 2, 32), depth=2, out_indices=(1,), registers=2)
    return Aggregator(config).double().requires_grad_(False)


def random_patch_tokens(frames: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, frames, 6, 16, dtype=torch.float64, generator=generator)


def test_the_first_frame_has_special_tokens_of_its_own(aggregator: Aggregator) -> None:
    special = aggregator.initial_state(random_patch_tokens(3), GRID).tokens[0, :, :3]
    assert torch.equal(special[1], special[2])
    assert not torch.allclose(special[0], special[1])


def test_frames_but_the_first_may_be_permuted(aggregator: Aggregator) -> None:
    tokens = random_patch_tokens(4)
    order = [0, 3, 1, 2]
    whole = aggregator(aggregator.initial_state(tokens, GRID), 0, 2).tokens
    permuted = aggregator(aggregator.initial_state(tokens[:, order], GRID), 0, 2).tokens
    torch.testing.assert_close(permuted, whole[:, order])
    swapped = aggregator(aggregator.initial_state(tokens[:, [1, 0, 2, 3]], GRID), 0, 2).tokens
    assert (swapped[:, [1, 0, 2, 3]] - whole).abs().max() > 1e-3


def test_global_blocks_attend_to_all_frames_with_positions_in_the_frame(aggregator: Aggregator) -> None:
    state = aggregator.initial_state(random_patch_tokens(2), GRID)
    after = aggregator(state, 0, 1)
    table = rotary_table(GRID, 3, 8)
    in_frame = torch.stack([aggregator.frame_blocks[0](state.tokens[0, i][None], table)[0] for i in range(2)])
    both = aggregator.global_blocks[0](in_frame.reshape(1, 18, 16), table.tiled(2))
    torch.testing.assert_close(after.tokens[0].reshape(1, 18, 16), both)


def test_features_of_output_indices_concatenate_frame_and_global_tokens(aggregator: Aggregator) -> None:
    state = aggregator(aggregator.initial_state(random_patch_tokens(2), GRID), 0, 2)
    assert len(state.features) == 1
    assert state.features[0].shape == (1, 2, 9, 32)
    assert torch.equal(state.features[0][..., 16:], state.tokens)


def test_running_blocks_in_two_steps_gives_the_same_result(aggregator: Aggregator) -> None:
    start = aggregator.initial_state(random_patch_tokens(2), GRID)
    two_steps = aggregator(aggregator(start, 0, 1), 1, 2)
    torch.testing.assert_close(two_steps.tokens, aggregator(start, 0, 2).tokens)


def test_additions_change_their_tokens_only(aggregator: Aggregator) -> None:
    state = aggregator.initial_state(random_patch_tokens(2), GRID)
    changed = state.add_to_camera_tokens(torch.ones(1, 2, 16)).add_to_patch_tokens(2 * torch.ones(1, 2, 6, 16))
    change = (changed.tokens - state.tokens)[0, 0, :, 0]
    assert change.tolist() == pytest.approx([1, 0, 0, 2, 2, 2, 2, 2, 2])


@pytest.mark.parametrize("name", ["recon4d_tiny", "recon4d_dinov3_small"])
def test_the_residual_stream_is_float32_under_autocast(name: str) -> None:
    config = model_config(name)
    if "dino" in name:
        config = replace(config, backbone=replace(config.backbone, blocks=1))  # pyright: ignore
    config = replace(config, aggregator=replace(config.aggregator, depth=2, out_indices=(0, 1)))
    model, dtypes = Model(config).eval(), []
    for block in (model.aggregator.frame_blocks[0], model.camera_head.blocks[0], model.motion_head.blocks[0]):
        block.register_forward_pre_hook(lambda _, inputs: dtypes.append(inputs[0].dtype))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(random_images(1, 2, size=(32, 32)).float())
    assert dtypes == [torch.float32] * 3


def test_the_network_is_deterministic() -> None:
    model, images = tiny_model(), random_images(1, 3)
    with torch.no_grad():
        assert torch.equal(model(images).depths, model(images).depths)
