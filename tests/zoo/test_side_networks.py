"""Models with a side network: the frozen part stays what it is, and only fitting weights are accepted."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from named_weights import golden_state_dict
from networks import assert_scenes_close, random_images
from safetensors.torch import save_file

from recon4d.errors import UserError
from recon4d.inference import reconstruct, reconstruct_and_match
from recon4d.models import Model, ModelConfig
from recon4d.records import Clip, Scene
from recon4d.zoo import (
    add_side_network,
    create_model,
    from_da3,
    has_side_network,
    load_model,
    model_config,
    save_model,
    start_from,
)
from recon4d.zoo.da3.with_motion import TINY_SIDE, with_motion

NAME, BASE = "recon4d_da3_tiny", "da3_tiny"


@pytest.fixture(scope="module")
def base() -> Model:
    model = create_model(BASE, pretrained=False, seed=3)
    assert isinstance(model, Model)
    with torch.no_grad():  # cameras start at the identity otherwise
        for parameter in model.camera_head.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return model


@pytest.fixture(scope="module")
def clip() -> Clip:
    images = random_images(4, size=(56, 70)).mul(255).byte()
    return Clip.from_images(images.movedim(1, -1).numpy())


def without_motion(scene: Scene) -> Scene:
    return replace(scene, tracks=None, dynamic=torch.zeros_like(scene.dynamic))


class TestComposition:
    def test_cameras_and_depth_are_those_of_the_frozen_model(self, base: Model, clip: Clip) -> None:
        model = start_from(NAME, base)
        frozen = reconstruct(base, clip, anchors=())
        scene = reconstruct(model, clip)
        assert_scenes_close(without_motion(scene), without_motion(frozen), tolerance=0.0)
        assert scene.cameras.world_from_cam[1:, :3, 3].abs().max() > 1e-3
        assert scene.tracks is not None
        assert scene.tracks.points.shape == (1, 4, scene.depths[0].numel(), 3)
        assert ((scene.dynamic > 0) & (scene.dynamic < 1)).all()

    def test_published_weights_of_any_shape(self) -> None:
        published = from_da3(golden_state_dict("da3_small"))
        assert isinstance(published, Model)
        assert published.reference_view == "saddle_balanced"
        model = add_side_network(published, TINY_SIDE)
        assert model.config == with_motion(published.config, TINY_SIDE)
        images = random_images(1, 3, size=(56, 70)).float()
        with torch.no_grad():
            scene, frozen = model(images), published(images)
        assert_scenes_close(without_motion(scene), without_motion(frozen), tolerance=0.0)

    def test_known_cameras_reach_the_frozen_model(self, base: Model, clip: Clip) -> None:
        scene = reconstruct(base, clip, anchors=())
        priors = replace(clip.priors, intrinsics=scene.cameras.intrinsics) if clip.priors is not None else None
        given = replace(clip, priors=priors)
        frozen, mine = (reconstruct(model, given, anchors=()) for model in (base, start_from(NAME, base)))
        torch.testing.assert_close(mine.cameras.world_from_cam, frozen.cameras.world_from_cam, atol=0, rtol=0)

    def test_chunks_of_frames_do_not_matter(self, base: Model) -> None:
        model, images = start_from(NAME, copy.deepcopy(base)).double(), random_images(1, 4, size=(56, 70))
        with torch.no_grad():
            whole, parts = (model.outputs(images, frame_chunk=chunk).scene for chunk in (None, 1))
        assert_scenes_close(parts, whole, tolerance=1e-6)

    def test_matches_for_refinement(self, base: Model, clip: Clip) -> None:
        scene, matches = reconstruct_and_match(start_from(NAME, base), clip)
        assert matches.pixels.shape[0] == clip.num_frames
        assert matches.pixels.shape[1] == 4 * 4 * (scene.size[0] // 14) * (scene.size[1] // 14)


class TestStart:
    def test_a_complete_model_is_returned_as_it_is(self, base: Model) -> None:
        model = start_from(NAME, base, seed=4)
        assert start_from(NAME, model, seed=5) is model

    def test_the_seed_determines_new_weights_only(self, base: Model) -> None:
        state = torch.random.get_rng_state()
        first, again, other = (start_from(NAME, base, seed).state_dict() for seed in (1, 1, 2))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert all(torch.equal(first[name], again[name]) for name in first)
        different = {name for name in first if not torch.equal(first[name], other[name])}
        assert different
        assert all(name.startswith(("side.", "matching.", "motion_head.")) for name in different)

    def test_another_size_is_refused_in_one_line(self, base: Model) -> None:
        with pytest.raises(
            UserError, match=r"^recon4d_da3_small starts from da3_small, but da3_tiny is .* 192, not 384$"
        ):
            start_from("recon4d_da3_small", base)

    def test_another_network_is_refused_in_one_line(self) -> None:
        with pytest.raises(UserError, match=r"^recon4d_da3_tiny starts from da3_tiny, but recon4d_tiny is a network"):
            start_from(NAME, create_model("recon4d_tiny", pretrained=False))

    def test_models_with_matching_get_no_side_network(self) -> None:
        with pytest.raises(UserError, match="has matching already"):
            add_side_network(create_model("recon4d_tiny", pretrained=False))


class TestFiles:
    def test_round_trip(self, base: Model, clip: Clip, tmp_path: Path) -> None:
        model = start_from(NAME, base)
        save_model(model, tmp_path / "model.safetensors")
        loaded = load_model(tmp_path / "model.safetensors")
        assert loaded.config == model.config
        assert_scenes_close(reconstruct(loaded, clip), reconstruct(model, clip), tolerance=0.0)

    def test_published_file(self, tmp_path: Path) -> None:
        save_file(golden_state_dict("da3_small"), tmp_path / "small.safetensors")
        with pytest.warns(UserWarning, match="Apache"):
            published = load_model(tmp_path / "small.safetensors")
        model = add_side_network(published, TINY_SIDE)
        assert model.name == "recon4d_small"
        assert torch.equal(
            model.get_parameter("backbone.embed.weight"), published.get_parameter("backbone.embed.weight")
        )


def test_names() -> None:
    for size in ("small", "base", "large"):
        config, frozen = model_config(f"recon4d_da3_{size}"), model_config(f"da3_{size}")
        assert has_side_network(f"recon4d_da3_{size}")
        assert not has_side_network(f"da3_{size}")
        assert isinstance(config, ModelConfig)
        assert replace(config, side=None, matching=None, motion=None) == frozen


def test_a_side_network_requires_matching_and_predicts_the_dynamic_mask_alone() -> None:
    config = model_config(NAME)
    assert isinstance(config, ModelConfig)
    for change in ({"matching": None, "motion": None}, {"dense_groups": (("depth", "moving"),)}):
        with pytest.raises(UserError, match="side network requires matching"):
            replace(config, **change)
