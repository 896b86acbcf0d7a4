"""The reference frame: which frame is chosen, and that the scene comes in the order of the pictures."""

import pytest
import torch
from da3_weights import tiny_state_dict
from networks import random_images
from torch import Tensor

from recon4d.errors import UserError
from recon4d.models import Model
from recon4d.models.aggregator import strided_key_indices
from recon4d.models.reference_view import reference_frame
from recon4d.zoo import create_model, from_da3


@pytest.fixture(scope="module")
def model() -> Model:
    model = from_da3(tiny_state_dict())
    assert isinstance(model, Model)
    return model


@pytest.fixture(scope="module")
def images() -> Tensor:
    return random_images(1, 5, size=(28, 42)).float()


def depths(model: Model, images: Tensor, strategy: str, **options: int) -> Tensor:
    before = model.reference_view
    model.reference_view = strategy  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with torch.no_grad():
            return model.outputs(images, anchors=(), **options).scene.depths
    finally:
        model.reference_view = before


def tokens_of(*frames: list[float]) -> Tensor:
    return torch.tensor(frames)[None]


def test_the_average_frame_is_chosen() -> None:
    # Lengths 1, 3, 2 on nearly the same axis: the third is in the middle of all measures.
    tokens = tokens_of([1.0, 0.0, 0.0], [3.0, 0.9, 0.0], [2.0, 0.3, 0.0])
    assert reference_frame(tokens, "saddle_balanced").tolist() == [2]


def test_the_first_of_equal_frames_is_chosen() -> None:
    tokens = tokens_of(*[[1.0, 2.0, 3.0]] * 4)
    assert reference_frame(tokens, "saddle_balanced").tolist() == [0]


def test_the_widest_frame_is_chosen() -> None:
    # The first is orthogonal to the second and opposite to the third: its similarities range from -1 to 0.
    tokens = tokens_of([0.0, 1.0], [1.0, 0.2], [-1.0, -0.1], [1.0, -0.9])
    similarity = torch.nn.functional.normalize(tokens[0], dim=-1)
    similarity = similarity @ similarity.T - torch.eye(4)
    expected = (similarity.amax(dim=1) - similarity.amin(dim=1)).argmax()
    assert reference_frame(tokens, "saddle_sim_range").tolist() == [int(expected)]


def test_positions_and_short_clips() -> None:
    tokens = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    assert reference_frame(tokens, "first").tolist() == [0, 0]
    assert reference_frame(tokens, "middle").tolist() == [2, 2]
    for strategy in ("middle", "saddle_balanced", "saddle_sim_range"):
        assert reference_frame(tokens[:, :2], strategy).tolist() == [0, 0]


def test_the_scene_has_the_order_of_the_pictures(model: Model, images: Tensor) -> None:
    """A chosen reference in place equals the same frame moved to the front, up to the order of the frames."""
    order = [2, 0, 1, 3, 4]
    in_place, moved = depths(model, images, "middle"), depths(model, images[:, order], "first")
    torch.testing.assert_close(in_place[:, order], moved, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(in_place, depths(model, images, "first"), rtol=1e-3)


def test_the_choice_does_not_depend_on_the_order(model: Model, images: Tensor) -> None:
    order = [3, 1, 4, 0, 2]
    straight, shuffled = (depths(model, part, "saddle_balanced") for part in (images, images[:, order]))
    torch.testing.assert_close(straight[:, order], shuffled, rtol=1e-4, atol=1e-6)


def test_clips_of_a_batch_have_their_own_reference(model: Model) -> None:
    images = random_images(3, 4, size=(28, 42)).float()
    together = depths(model, images, "saddle_balanced")
    alone = torch.cat([depths(model, clip[None], "saddle_balanced") for clip in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)


def test_a_key_stride_keeps_the_reference_frame(model: Model, images: Tensor) -> None:
    order = [2, 0, 1, 3, 4]
    in_place = depths(model, images, "middle", key_stride=2)
    moved = depths(model, images[:, order], "first", key_stride=2)
    torch.testing.assert_close(in_place[:, order], moved, rtol=1e-4, atol=1e-6)
    kept = strided_key_indices(3, (2, 2), 1, 2, reference=torch.tensor(1))
    assert kept.tolist() == [5, 6, 7, 8, 9, 0, 4, 10, 14]
    with pytest.raises(ValueError, match="needs one clip, not 2"):
        depths(model, images.repeat(2, 1, 1, 1, 1), "middle", key_stride=2)


def test_other_networks_have_the_first_frame() -> None:
    tiny = create_model("recon4d_tiny", pretrained=False)
    assert isinstance(tiny, Model)
    with pytest.raises(UserError, match="has the first frame as reference, not 'middle'"):
        tiny.reference_view = "middle"
    assert tiny.reference_view == "first"
    with pytest.raises(UserError, match="cameras from rays require a DualDPT head"):
        tiny.camera_source = "rays"
