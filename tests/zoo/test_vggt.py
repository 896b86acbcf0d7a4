"""VGGT's weights run here: outputs of the published code, reached through conversion, network and tracker."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from named_weights import named_state_dict, read_golden, read_shapes, relative_error, shrunk_state_dict
from safetensors.torch import save_file
from torch import Tensor

from recon4d.errors import UserError
from recon4d.inference import reconstruct
from recon4d.models import Model, Outputs, match_feature_tracks
from recon4d.records import Clip
from recon4d.train.batches import Batches, RankInfo
from recon4d.train.config import DataConfig, TrainConfig
from recon4d.train.objective import TrainModule, objective
from recon4d.zoo import load_model, model_config, save_model
from recon4d.zoo.vggt import from_vggt, from_vggt_omega

CLOSE = 2e-5
"""Relative error that every stored output must stay under in float32."""
EVERY_THIRD = np.s_[:, ::3, ::3]
SMALL_TAPS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return read_golden("vggt_small")


@pytest.fixture(scope="module")
def state_dict(golden: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return named_state_dict(read_shapes("vggt_small"), int(golden["salt"]))


@pytest.fixture(scope="module")
def model(state_dict: dict[str, Tensor]) -> Model:
    return from_vggt(state_dict, taps=SMALL_TAPS)


@pytest.fixture(scope="module")
def images(golden: dict[str, np.ndarray]) -> Tensor:
    return torch.from_numpy(golden["images_uint8"])[None]


@pytest.fixture(scope="module")
def outputs(model: Model, images: Tensor) -> Outputs:
    with torch.no_grad():
        return model.outputs(images, anchors=(0,))


class TestParity:
    @pytest.mark.end_to_end
    def test_cameras_of_every_stage(self, outputs: Outputs, golden: dict[str, np.ndarray]) -> None:
        assert relative_error(_activated(outputs.camera_stages)[:, 0], golden["pose_stages"]) < CLOSE

    def test_tokens(self, model: Model, images: Tensor, outputs: Outputs, golden: dict[str, np.ndarray]) -> None:
        assert relative_error(outputs.features[0][0, :, :12, :32], golden["tokens_first"]) < CLOSE
        assert relative_error(outputs.features[-1][0, :, :12, :32], golden["tokens_last"]) < CLOSE

    def test_dense_maps(self, outputs: Outputs, golden: dict[str, np.ndarray]) -> None:
        scene = outputs.scene[0]
        assert relative_error(scene.depths[EVERY_THIRD], golden["depth"]) < CLOSE
        assert relative_error(scene.depth_confidence[EVERY_THIRD], golden["depth_conf"]) < CLOSE
        assert relative_error(scene.points[EVERY_THIRD], golden["world_points"]) < CLOSE
        assert relative_error(scene.point_confidence[EVERY_THIRD], golden["world_points_conf"]) < CLOSE

    def test_tracks(self, state_dict: dict[str, Tensor], images: Tensor, golden: dict[str, np.ndarray]) -> None:
        # In float64: in float32 the published code does not reach its own tracks again (goldens/README.md).
        exact = from_vggt({name: value.double() for name, value in state_dict.items()}, SMALL_TAPS).double()
        reference = read_golden("vggt_small_tracks_float64")
        queries = torch.from_numpy(golden["query_points"])[None].double() + 0.5
        with torch.no_grad():
            taps = exact.outputs(images.double() / 255, anchors=()).features
            tracked = exact.track_head(exact.track_features(taps, (140, 182), 2), queries)  # pyright: ignore[reportOptionalCall]
        for stage, wanted in zip(tracked.stages[0] - 0.5, reference["stages"], strict=True):
            assert relative_error(stage, wanted) < 1e-9
        assert relative_error(tracked.visibility, reference["vis"]) < 1e-9
        assert relative_error(tracked.confidence, reference["conf"]) < 1e-9
        # The float32 golden is the same computation, as far as float32 carries.
        assert relative_error(tracked.pixels[0] - 0.5, golden["track"]) < 0.01

    @pytest.mark.slow
    def test_all_parameters(self) -> None:
        golden = read_golden("vggt_1b")
        model = from_vggt(named_state_dict(read_shapes("vggt_1b"), int(golden["salt"])))
        assert model.config == model_config("vggt_1b")
        images = torch.from_numpy(golden["images_uint8"])[None]
        with torch.no_grad():
            outputs = model.outputs(images, anchors=())
            queries = torch.from_numpy(golden["query_points"])[None] + 0.5
            pixels, visibility, confidence = model.track(images, queries)
        scene = outputs.scene[0]
        assert relative_error(_activated(outputs.camera_stages)[:, 0], golden["pose_stages"]) < CLOSE
        assert relative_error(outputs.features[-1][0, :, :12, :32], golden["tokens_last"]) < CLOSE
        assert relative_error(scene.depths[EVERY_THIRD], golden["depth"]) < CLOSE
        assert relative_error(scene.depth_confidence[EVERY_THIRD], golden["depth_conf"]) < CLOSE
        assert relative_error(scene.points[EVERY_THIRD], golden["world_points"]) < CLOSE
        assert relative_error(scene.point_confidence[EVERY_THIRD], golden["world_points_conf"]) < CLOSE
        # Rounding grows from refinement to refinement, and with the number of threads it differs (goldens/README.md).
        assert relative_error(pixels[0] - 0.5, golden["track"]) < 0.01
        assert relative_error(visibility[0], golden["vis"]) < 0.2
        assert relative_error(confidence[0], golden["conf"]) < 0.2

    def test_every_name_of_omega_has_its_place(self) -> None:
        """Shapes only, without storage: what each name holds is told by the slow test below."""
        shapes = read_shapes("vggt_omega_1b")
        nothing = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        assert from_vggt_omega(nothing).config == model_config("vggt_omega_1b")
        for name in ("camera_head.trunk_norm.weight", "aggregator.patch_embed.rope_embed.periods"):
            with pytest.raises(UserError, match=f"does not fit VGGT-Omega: it lacks {name}$"):
                from_vggt_omega({other: value for other, value in nothing.items() if other != name})

    @pytest.mark.slow
    def test_all_parameters_of_omega(self) -> None:
        golden = read_golden("vggt_omega_1b")
        model = from_vggt_omega(named_state_dict(read_shapes("vggt_omega_1b"), int(golden["salt"])))
        assert model.config == model_config("vggt_omega_1b")
        with torch.no_grad():
            outputs = model.outputs(torch.from_numpy(golden["images_uint8"])[None], anchors=())
        scene = outputs.scene[0]
        assert relative_error(_activated(outputs.camera_stages, 0.01)[0, 0], golden["pose_enc"]) < CLOSE
        assert relative_error(outputs.features[-1][0, :, :24, :32], golden["tokens_last"]) < CLOSE
        assert relative_error(outputs.features[-1][0, :, :17, :64], golden["special"]) < CLOSE
        assert relative_error(scene.depths[EVERY_THIRD], golden["depth"]) < CLOSE
        assert relative_error(scene.depth_confidence[EVERY_THIRD], golden["depth_conf"]) < CLOSE


class TestScenes:
    def test_a_grid_of_pixels_is_lifted_to_the_point_maps(self, model: Model, outputs: Outputs) -> None:
        scene = outputs.scene[0]
        tracks = scene.tracks
        assert tracks is not None
        assert tracks.pixels.shape == (1, 10 * 13, 2)
        assert tracks.pixels[0, :2].tolist() == [[7.0, 7.0], [21.0, 7.0]]
        # At its own frame a query is where the point map has it.
        column, row = tracks.pixels[0].long().unbind(-1)
        assert torch.equal(tracks.points[0, 0], scene.points[0, row, column])
        assert (tracks.confidence >= 1).all()

    def test_moving_is_unknown(self, outputs: Outputs) -> None:
        assert outputs.scene.dynamic.isnan().all()

    def test_reconstruct_moves_the_first_camera_to_the_origin(self, model: Model, images: Tensor) -> None:
        clip = Clip(images[0], torch.arange(3.0))
        scene = reconstruct(model, clip, anchors=(), processing_size=84, precision="float32")
        assert torch.equal(scene.cameras.world_from_cam[0], torch.eye(4))
        assert scene.size == (70, 98)

    @pytest.mark.end_to_end
    def test_followed_points_are_feature_tracks(self, model: Model, outputs: Outputs) -> None:
        with torch.no_grad():
            tracks = match_feature_tracks(model, outputs)[0]
        assert tracks.pixels.shape == (3, 3 * 130, 2)
        assert (tracks.visibility[0, :130] == 1).all()


class TestShapes:
    """One frame, more than a chunk of them, odd sizes, and clips side by side."""

    @pytest.fixture(scope="class")
    @classmethod
    def shrunk(cls) -> Model:
        return from_vggt(shrunk_state_dict(), taps=(0, 1))

    @pytest.mark.parametrize(("time", "size"), [(1, (70, 98)), (9, (28, 42)), (2, (126, 14))])
    def test_any_number_of_frames_of_any_size(self, shrunk: Model, time: int, size: tuple[int, int]) -> None:
        with torch.no_grad():
            scene = shrunk.outputs(_pictures(1, time, size), anchors=()).scene
        assert scene.depths.shape == (1, time, *size)
        assert scene.points.isfinite().all()

    def test_chunks_of_frames_answer_the_same(self, shrunk: Model) -> None:
        images = _pictures(1, 9, (28, 42))
        with torch.no_grad():
            whole, parts = (shrunk.outputs(images, anchors=(), frame_chunk=chunk).scene for chunk in (None, 8))
        torch.testing.assert_close(parts.depths, whole.depths, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(parts.points, whole.points, rtol=1e-4, atol=1e-5)

    def test_clips_of_a_batch_are_strangers(self, shrunk: Model) -> None:
        images = _pictures(2, 3, (28, 42))
        with torch.no_grad():
            both = shrunk.outputs(images, anchors=()).scene
            alone = shrunk.outputs(images[1:], anchors=()).scene
        torch.testing.assert_close(both[1].depths, alone[0].depths, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            both[1].cameras.world_from_cam, alone[0].cameras.world_from_cam, rtol=1e-4, atol=1e-5
        )


class TestLearning:
    def test_published_models_can_be_fine_tuned(self) -> None:
        model = from_vggt(shrunk_state_dict(), taps=(0, 1)).train()
        config = TrainConfig(data=DataConfig(batch_size=1, shapes=("2x42x56",)), steps=100)
        batch = Batches(config, RankInfo()).synthetic_batch(50, 0)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        losses = []
        for _ in range(4):
            optimizer.zero_grad()
            loss, _ = objective(*TrainModule(model)(batch), config.losses)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
        for part in (model.backbone, model.aggregator, model.camera_head, *model.dense_heads):
            assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0


class TestRefusals:
    def test_a_part_of_a_joined_parameter_is_missing(self, state_dict: dict[str, Tensor]) -> None:
        without = {name: value for name, value in state_dict.items() if name != "aggregator.camera_token"}
        with pytest.raises(UserError, match=r"does not fit VGGT: it lacks aggregator.camera_token$"):
            from_vggt(without, SMALL_TAPS)

    def test_truncated(self, state_dict: dict[str, Tensor]) -> None:
        cut = dict(list(state_dict.items())[:-4])
        with pytest.raises(
            UserError, match=r"does not fit VGGT: it lacks track_head.tracker.vis_predictor.0.weight, .*"
        ):
            from_vggt(cut, SMALL_TAPS)

    def test_foreign(self) -> None:
        with pytest.raises(
            UserError, match=r"no state dict of VGGT: it has no aggregator.register_token, but conv.weight"
        ):
            from_vggt({"conv.weight": torch.zeros(3)})

    def test_wrong_shape_and_unknown_name(self, state_dict: dict[str, Tensor]) -> None:
        wrong = {**state_dict, "camera_head.embed_pose.bias": torch.zeros(5), "extra.weight": torch.zeros(2)}
        wanted = r"has camera_head.embed_pose.bias of shape \(5,\), wanted \(768,\); has the unknown extra.weight"
        with pytest.raises(UserError, match=wanted):
            from_vggt(wrong, SMALL_TAPS)

    def test_taps_that_are_not_there(self, state_dict: dict[str, Tensor]) -> None:
        with pytest.raises(UserError, match=r"taps are \(4, 11, 17, 23\); wanted numbers of the 4 blocks"):
            from_vggt(state_dict)


class TestFiles:
    def test_published_files_are_recognized(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("recon4d.zoo.hub.from_vggt", partial(from_vggt, taps=(0, 1)))
        state_dict = shrunk_state_dict()
        torch.save(state_dict, tmp_path / "mine.pt")
        torch.save({"model": state_dict, "epoch": 3}, tmp_path / "nested.pth")
        save_file(state_dict, tmp_path / "mine.safetensors", {"format": "pt"})  # as the Hugging Face libraries write it
        models = [load_model(tmp_path / name) for name in ("mine.pt", "nested.pth", "mine.safetensors")]
        assert [model.name for model in models] == ["mine", "nested", "mine"]
        states = [model.state_dict() for model in models]
        assert all(torch.equal(states[0][name], state[name]) for state in states for name in state)

    def test_a_converted_copy_is_a_checkpoint(self, model: Model, tmp_path: Path) -> None:
        save_model(model, tmp_path / "small.safetensors")
        again = load_model(tmp_path / "small.safetensors")
        assert again.config == model.config
        assert again.trained

    def test_unreadable_files(self, tmp_path: Path) -> None:
        (tmp_path / "text.pt").write_text("no weights")
        with pytest.raises(UserError, match=r"text.pt cannot be read as weights"):
            load_model(tmp_path / "text.pt")
        torch.save([1, 2], tmp_path / "list.pt")
        with pytest.raises(UserError, match=r"contains list, wanted a state dict of tensors by name"):
            load_model(tmp_path / "list.pt")


def _activated(stages: Tensor, offset: float = 0.0) -> Tensor:
    """Raw encodings with the published activation of the field of view, as the goldens have them."""
    return torch.cat([stages[..., :7], stages[..., 7:].relu() + offset], dim=-1)


def _pictures(batch: int, time: int, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, time, 3, *size, generator=generator)
