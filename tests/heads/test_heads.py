"""Heads: the camera encoding, what raw numbers mean, and shapes for patches of 14 and 16."""

import math

import pytest
import torch
from scenes import make_scene
from torch import nn

from recon4d.geometry import invert
from recon4d.heads import (
    DENSE_FIELDS,
    DENSE_HEADS,
    CameraHead,
    CameraHeadConfig,
    DenseHead,
    DptHeadConfig,
    LinearHeadConfig,
    decode_cameras,
    decode_depth,
    decode_displacement,
    decode_points,
    encode_cameras,
)
from recon4d.heads.dense import ResidualConvolutions
from recon4d.layers import BlockConfig
from recon4d.records import Cameras


class TestCameraEncoding:
    def test_decoding_inverts_encoding_off_center_and_with_two_fields_of_view(self) -> None:
        cameras = make_scene(frames=4).cameras.in_frame(0)
        back = decode_cameras(encode_cameras(cameras, (12, 16)), (12, 16))
        torch.testing.assert_close(back.world_from_cam, cameras.world_from_cam)
        torch.testing.assert_close(back.intrinsics, cameras.intrinsics)

    def test_encoding_does_not_depend_on_the_picture_size(self) -> None:
        cameras = make_scene().cameras
        torch.testing.assert_close(
            encode_cameras(cameras.resized((12, 16), (30, 20)), (30, 20)), encode_cameras(cameras, (12, 16))
        )

    @pytest.mark.parametrize("angle", [-1.0, 0.0, 4.0])
    def test_field_of_view_is_held_to_its_range_where_cameras_are_made(self, angle: float) -> None:
        encoding = encode_cameras(make_scene().cameras, (12, 16))
        encoding[..., 7:9] = angle
        cameras = decode_cameras(encoding, (12, 16))
        assert cameras.intrinsics.isfinite().all()
        assert (cameras.intrinsics[..., 0, 0] > 0).all()
        assert (cameras.intrinsics[..., 0, 0] < 1000).all()

    def test_the_world_begins_at_the_first_camera_however_the_head_turns_it(self) -> None:
        head = CameraHead(CameraHeadConfig(BlockConfig(16, 2, 32), blocks=1), feature_width=24)
        with torch.no_grad():
            head.out.weight.normal_(std=0.3)
        encoding = head(torch.randn(2, 3, 5, 24), (12, 16))[-1]
        free, found = (decode(encoding, (12, 16)).world_from_cam for decode in (decode_cameras, head.decode))
        assert (free[:, 0] - torch.eye(4)).abs().max() > 0.1
        torch.testing.assert_close(found[:, 0], torch.eye(4).expand(2, 4, 4))
        for first, second in ((0, 1), (2, 1)):
            torch.testing.assert_close(
                invert(found[:, first]) @ found[:, second], invert(free[:, first]) @ free[:, second]
            )

    @pytest.mark.parametrize("size", [(224, 224), (192, 336), (336, 192)])
    def test_the_head_starts_at_the_origin_with_square_pixels(self, size: tuple[int, int]) -> None:
        head = CameraHead(CameraHeadConfig(BlockConfig(16, 2, 32), blocks=1), feature_width=24)
        head.reset_parameters()
        stages = head(torch.randn(2, 3, 5, 24), size)
        assert stages.shape == (1, 2, 3, 11)
        cameras = decode_cameras(stages[-1], size)
        torch.testing.assert_close(cameras.world_from_cam, torch.eye(4).expand(2, 3, 4, 4))
        intrinsics = cameras.intrinsics[0, 0]
        assert intrinsics[0, 0].item() == pytest.approx(intrinsics[1, 1].item())
        assert intrinsics[:2, 2].tolist() == pytest.approx([size[1] / 2, size[0] / 2])
        side = math.sqrt(size[0] * size[1])
        assert 2 * math.atan(side / 2 / intrinsics[0, 0].item()) == pytest.approx(1.1)

    def test_gradient_reaches_every_part(self) -> None:
        encoding = encode_cameras(make_scene(frames=2).cameras, (12, 16)).double().requires_grad_()

        def everything(encoding: torch.Tensor) -> torch.Tensor:
            cameras: Cameras = decode_cameras(encoding, (12, 16))
            return torch.cat([cameras.world_from_cam.flatten(), cameras.intrinsics.flatten()])

        assert torch.autograd.gradcheck(everything, encoding)


class TestFields:
    def test_depth(self) -> None:
        depth, confidence = decode_depth(torch.tensor([math.log(3.0), math.log(0.5)])[:, None, None])
        torch.testing.assert_close(depth, torch.tensor([[3.0]]))
        torch.testing.assert_close(confidence, torch.tensor([[1.5]]))

    def test_points_are_odd_and_log_scaled(self) -> None:
        raw = torch.tensor([math.log(3.0), -math.log(3.0), 0.0, 0.0])[:, None, None]
        points, confidence = decode_points(raw)
        torch.testing.assert_close(points[0, 0], torch.tensor([2.0, -2.0, 0.0]))
        assert confidence.item() == 2

    def test_displacement_has_no_activation(self) -> None:
        raw = torch.tensor([1.0, -2.0, 0.25, 0.7, 0.0])[:, None, None]
        (displacement, confidence), visible = decode_displacement(raw)
        assert displacement[0, 0].tolist() == [1.0, -2.0, 0.25]
        assert visible.item() == pytest.approx(0.7)
        assert confidence.item() == 2

    def test_nothing_an_untrained_head_says_is_infinite(self) -> None:
        for decode, channels in ((decode_depth, 2), (decode_points, 4)):
            for value in (-1e4, 1e4):
                values, confidence = decode(torch.full((channels, 1, 1), value))
                assert values.isfinite().all()
                assert confidence.isfinite().all()


class TestDenseHeads:
    CONFIGS = (LinearHeadConfig(width=24, channels=8), DptHeadConfig(channels=(8, 8, 8, 8), features=16))

    def make(self, config: LinearHeadConfig | DptHeadConfig, patch_size: int, skip_channels: int) -> DenseHead:
        torch.manual_seed(0)
        return DENSE_HEADS[type(config)](config, (20, 20), patch_size, skip_channels, 3)

    @pytest.mark.parametrize("config", CONFIGS, ids=["linear", "dpt"])
    @pytest.mark.parametrize("patch_size", [14, 16])
    @pytest.mark.parametrize("skip_channels", [0, 5])
    def test_maps_have_the_full_size(
        self, config: LinearHeadConfig | DptHeadConfig, patch_size: int, skip_channels: int
    ) -> None:
        head = self.make(config, patch_size, skip_channels)
        layers = [torch.randn(2, 6, 20) for _ in range(2)]
        skip = torch.randn(2, 5, 9, 13) if skip_channels else None
        assert head(layers, (2, 3), skip).shape == (2, 3, 2 * patch_size, 3 * patch_size)

    @pytest.mark.parametrize("config", CONFIGS, ids=["linear", "dpt"])
    def test_every_tap_and_the_skip_are_heard(self, config: LinearHeadConfig | DptHeadConfig) -> None:
        head = self.make(config, 16, 5)
        inputs = [torch.randn(1, 6, 20), torch.randn(1, 6, 20), torch.randn(1, 5, 8, 12)]
        for tensor in inputs:
            tensor.requires_grad_()
        head(inputs[:2], (2, 3), inputs[2]).sum().backward()
        assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in inputs)

    @pytest.mark.parametrize("config", CONFIGS, ids=["linear", "dpt"])
    def test_patches_come_out_where_they_lie(self, config: LinearHeadConfig | DptHeadConfig) -> None:
        head = self.make(config, 16, 0)
        layers = [torch.randn(1, 24, 20) for _ in range(2)]
        before = head(layers, (4, 6), None)
        changed = [layer.clone() for layer in layers]
        for layer in changed:
            layer[:, 6 * 2 + 4] = torch.randn(20)
        difference = (head(changed, (4, 6), None) - before).abs().sum(dim=(0, 1))
        row, column = (grid := torch.stack(torch.where(difference > 0.5 * difference.max()))).float().mean(dim=1)
        assert grid.shape[1] < 4 * 16 * 16
        assert abs(row - (2 * 16 + 7.5)) < 12
        assert abs(column - (4 * 16 + 7.5)) < 12

    @pytest.mark.parametrize("config", CONFIGS, ids=["linear", "dpt"])
    def test_maps_start_near_their_bias(self, config: LinearHeadConfig | DptHeadConfig) -> None:
        head = self.make(config, 16, 0)
        head.initialize(torch.tensor([0.0, 5.0, -3.0]))
        maps = head([torch.randn(1, 6, 20) for _ in range(2)], (2, 3), None)
        torch.testing.assert_close(maps.mean(dim=(0, 2, 3)), torch.tensor([0.0, 5.0, -3.0]), atol=0.2, rtol=0)

    def test_convolutions_add_to_what_comes_in(self) -> None:
        convolutions = ResidualConvolutions(4, torch.relu)
        nn.init.zeros_(convolutions.conv2.weight)
        nn.init.constant_(convolutions.conv2.bias, 0.5)  # pyright: ignore[reportArgumentType]
        maps = torch.randn(1, 4, 5, 5)
        torch.testing.assert_close(convolutions(maps), maps + 0.5)

    def test_a_fresh_model_says_depth_one_and_points_in_front(self) -> None:
        depth, _ = decode_depth(torch.tensor(DENSE_FIELDS["depth"])[:, None, None])
        points, _ = decode_points(torch.tensor(DENSE_FIELDS["points"])[:, None, None])
        assert depth.item() == 1
        torch.testing.assert_close(points[0, 0], torch.tensor([0.0, 0.0, 1.0]))
