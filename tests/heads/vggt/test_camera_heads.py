"""The camera heads that published weights run on, and our own beside them: what they say and what it means."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from layers import fill_constant_, record_inputs
from scenes import make_scene
from torch import Tensor, nn

from recon4d.geometry import intrinsics_from_field_of_view, rigid, rotation_from_axis_angle
from recon4d.heads.camera import CameraHead, CameraHeadConfig
from recon4d.heads.camera_base import FIELD_OF_VIEW_RANGE, CameraPredictor
from recon4d.heads.vggt.iterated_camera import IteratedCameraHead, IteratedCameraHeadConfig
from recon4d.heads.vggt.pose_encoding import decode_poses, encode_poses
from recon4d.heads.vggt.register_camera import RegisterCameraHead, RegisterCameraHeadConfig
from recon4d.layers import BlockConfig
from recon4d.records import Cameras

SIZE = (30, 50)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def camera_of(axis_angle: Sequence[float], center: Sequence[float], angles: Sequence[float]) -> Cameras:
    """One frame: a camera turned by `axis_angle` at `center`, with a horizontal and a vertical field of view."""
    middle = torch.tensor([[SIZE[1] / 2, SIZE[0] / 2]])
    return Cameras(
        rigid(rotation_from_axis_angle(torch.tensor([axis_angle]).float()), torch.tensor([center]).float()),
        intrinsics_from_field_of_view(torch.tensor([angles]), middle, *SIZE),
    )


class TestPoseEncoding:
    def test_the_translation_is_of_the_world_in_the_camera_and_the_vertical_angle_comes_first(self) -> None:
        encoding = encode_poses(camera_of([0, 0, 0], [1, 2, 3], [1.2, 0.7]), SIZE)[0]
        assert encoding.tolist() == pytest.approx([-1, -2, -3, 0, 0, 0, 1, 0.7, 1.2])

    def test_the_quaternion_is_of_the_world_in_the_camera_with_its_scalar_last(self) -> None:
        """A camera one step to the right that looks further to the right has the origin one step behind it."""
        cameras = camera_of([0, math.pi / 2, 0], [1, 0, 0], [1.2, 0.7])
        half = math.sqrt(0.5)
        expected = [0, 0, -1, 0, -half, 0, half]
        assert encode_poses(cameras, SIZE)[0, :7].tolist() == pytest.approx(expected, abs=1e-6)
        back = decode_poses(torch.tensor([[0, 0, -1, 0, -3 * half, 0, 3 * half, 0.7, 1.2]]), SIZE)
        torch.testing.assert_close(back.world_from_cam, cameras.world_from_cam)
        torch.testing.assert_close(back.intrinsics, cameras.intrinsics)

    def test_angles_have_an_offset_where_a_head_has_one(self) -> None:
        raw = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 0.7, 1.2]])
        horizontal, vertical = decode_poses(raw, SIZE, angle_offset=0.01).field_of_view(*SIZE)[0].tolist()
        assert (horizontal, vertical) == pytest.approx((1.21, 0.71))

    @pytest.mark.parametrize(("raw", "held"), [(-1.0, 0.05), (0.0, 0.05), (0.5, 0.5), (4.0, 3.0)])
    def test_angles_are_held_to_their_range(self, raw: float, held: float) -> None:
        encoding = torch.tensor([[0, 0, 0, 0, 0, 0, 1, raw, raw]])
        assert decode_poses(encoding, SIZE).field_of_view(*SIZE)[0].tolist() == pytest.approx([held, held], rel=1e-4)

    def test_gradient_reaches_every_part(self) -> None:
        encoding = encode_poses(make_scene().cameras, SIZE).double().requires_grad_()

        def everything(encoding: Tensor) -> Tensor:
            cameras = decode_poses(encoding, SIZE)
            return torch.cat([cameras.world_from_cam.flatten(), cameras.intrinsics.flatten()])

        assert torch.autograd.gradcheck(everything, encoding)

    def test_cameras_are_exact_under_autocast(self) -> None:
        encoding = encode_poses(make_scene().cameras, SIZE)
        plain = decode_poses(encoding, SIZE)
        with torch.autocast("cpu", torch.bfloat16):
            half = decode_poses(encoding, SIZE)
        assert torch.equal(half.world_from_cam, plain.world_from_cam)


BLOCK = BlockConfig(16, 2, 32, qk_norm="none", layer_scale=0.5, qkv_bias=True)


def iterated(blocks: int = 2, iterations: int = 4) -> IteratedCameraHead:
    return IteratedCameraHead(IteratedCameraHeadConfig(BLOCK, blocks, iterations), feature_width=16)


def register() -> RegisterCameraHead:
    return RegisterCameraHead(RegisterCameraHeadConfig(BLOCK, blocks=2), feature_width=16)


def ours() -> CameraHead:
    return CameraHead(CameraHeadConfig(BLOCK, blocks=2), feature_width=16)


class TestEveryCameraHead:
    HEADS = pytest.mark.parametrize("make", [ours, iterated, register])

    @HEADS
    def test_decoding_inverts_encoding(self, make: Callable[[], CameraPredictor]) -> None:
        head = make()
        turned = make_scene(frames=4).cameras.world_from_cam
        intrinsics = camera_of([0, 0, 0], [0, 0, 0], [1.2, 0.7]).intrinsics.expand(4, 3, 3)
        back = head.decode(head.encode(Cameras(turned, intrinsics), SIZE), SIZE)
        torch.testing.assert_close(back.world_from_cam, turned)
        torch.testing.assert_close(back.intrinsics, intrinsics)

    @HEADS
    def test_a_fresh_head_says_the_prior(self, make: Callable[[], CameraPredictor]) -> None:
        head = make()
        head.reset_parameters()
        cameras = head.decode(head(torch.randn(2, 3, 4, 16), (32, 32))[-1], (32, 32))
        torch.testing.assert_close(cameras.world_from_cam, torch.eye(4).expand(2, 3, 4, 4))
        torch.testing.assert_close(cameras.field_of_view(32, 32), torch.full((2, 3, 2), 1.1))

    @HEADS
    def test_frames_have_no_order_but_hear_each_other(self, make: Callable[[], CameraPredictor]) -> None:
        head, tokens = make(), torch.randn(1, 4, 3, 16)
        stages = head(tokens, SIZE)
        order = torch.tensor([2, 0, 3, 1])
        torch.testing.assert_close(head(tokens[:, order], SIZE), stages[:, :, order], atol=1e-5, rtol=1e-4)
        tokens[:, 3, 0] = torch.randn(16)
        assert (head(tokens, SIZE)[-1, 0, 0] - stages[-1, 0, 0]).abs().max() > 1e-4

    @HEADS
    def test_it_answers_in_float32_under_autocast(self, make: Callable[[], CameraPredictor]) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            assert make()(torch.randn(1, 2, 3, 16).bfloat16(), SIZE).dtype == torch.float32

    @pytest.mark.parametrize("make", [iterated, register])
    def test_published_heads_know_no_autocast(self, make: Callable[[], CameraPredictor]) -> None:
        head, tokens = make(), torch.randn(1, 2, 3, 16).bfloat16()
        plain = head(tokens.float(), SIZE)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(head(tokens, SIZE), plain)

    @pytest.mark.parametrize("make", [iterated, register])
    def test_the_answer_is_read_from_normalized_tokens_through_gelu(
        self, make: Callable[[], IteratedCameraHead | RegisterCameraHead]
    ) -> None:
        head = make()
        fill_constant_(head.hidden, 0.0, -0.5)
        before, after, hidden = record_inputs(head.blocks[0]), record_inputs(head.hidden), record_inputs(head.out)
        fill_constant_(head.token_norm, 1.0, 0.0)
        if isinstance(head, IteratedCameraHead):
            fill_constant_(head.modulation, 0.0, 0.0)
        head(5 * torch.randn(1, 2, 3, 16) + 3, SIZE)
        for tokens in (before[0], after[0]):
            torch.testing.assert_close(tokens.mean(dim=-1), torch.zeros(tokens.shape[:-1]), atol=1e-5, rtol=0)
            torch.testing.assert_close(tokens.var(dim=-1, correction=0), torch.ones(tokens.shape[:-1]))
        gelu = -0.5 * 0.5 * (1 + math.erf(-0.5 / math.sqrt(2)))
        torch.testing.assert_close(hidden[0], torch.full_like(hidden[0], gelu))

    def test_without_blocks_registers_say_nothing(self) -> None:
        head = RegisterCameraHead(RegisterCameraHeadConfig(BLOCK, blocks=0), feature_width=16)
        tokens = torch.randn(1, 2, 3, 16)
        before = head(tokens, SIZE)
        tokens[:, :, 1:] = torch.randn(1, 2, 2, 16)
        assert torch.equal(head(tokens, SIZE), before)

    def test_raw_angles_of_each_head(self) -> None:
        raw = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 0.7, 1.2]])
        assert iterated().decode(raw, SIZE).field_of_view(*SIZE)[0].tolist() == pytest.approx([1.2, 0.7])
        assert register().decode(raw, SIZE).field_of_view(*SIZE)[0].tolist() == pytest.approx([1.21, 0.71])

    @pytest.mark.parametrize(("make", "heard"), [(ours, False), (iterated, False), (register, True)])
    def test_who_hears_registers(self, make: Callable[[], CameraPredictor], heard: bool) -> None:
        head, tokens = make(), torch.randn(1, 2, 3, 16)
        before = head(tokens, SIZE)
        tokens[:, 1, 2] = torch.randn(16)
        assert ((head(tokens, SIZE) - before)[-1, 0, 0].abs().max() > 1e-4) == heard

    @pytest.mark.parametrize(
        ("kind", "config"),
        [(IteratedCameraHead, IteratedCameraHeadConfig(BLOCK)), (RegisterCameraHead, RegisterCameraHeadConfig(BLOCK))],
    )
    def test_blocks_of_another_width_are_refused(self, kind: type, config: object) -> None:
        with pytest.raises(ValueError, match="blocks of width 16; wanted 24"):
            kind(config, 24)


class TestIterations:
    def test_stages_are_sums_and_stay_raw(self) -> None:
        head = iterated()
        nn.init.zeros_(head.out.weight)
        step = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 1.0, -0.5, 2.0])
        with torch.no_grad():
            head.out.bias.copy_(step)
        stages = head(torch.randn(2, 3, 5, 16), SIZE)
        for stage in range(4):
            torch.testing.assert_close(stages[stage], ((stage + 1) * step).expand(2, 3, -1))
        angles = head.decode(stages[-1], SIZE).field_of_view(*SIZE)[0, 0]
        torch.testing.assert_close(angles, torch.tensor([FIELD_OF_VIEW_RANGE[1], FIELD_OF_VIEW_RANGE[0]]))

    def test_what_was_said_is_fed_back_raw(self) -> None:
        """An iteration that starts from the first stage adds what the second added, negative angles and all."""
        head, tokens = iterated(), torch.randn(1, 1, 1, 16)
        with torch.no_grad():
            head.out.bias[7:] = -1.0
        first, second = head(tokens, SIZE)[:2, 0, 0]
        assert (first[7:] < 0).all()
        with torch.no_grad():
            head.empty_encoding.copy_(first)
        again = head(tokens, SIZE)[0, 0, 0]
        torch.testing.assert_close(again, second - first)
        assert (again - first).abs().max() > 1e-4

    def test_a_stage_teaches_only_its_own_iteration(self) -> None:
        """The empty encoding is what the first iteration hears: no later stage may have a gradient there."""
        head = iterated()
        stages = head(torch.randn(1, 3, 1, 16), SIZE)
        for stage in range(4):
            (gradient,) = torch.autograd.grad(
                stages[stage].sum(), head.empty_encoding, retain_graph=True, materialize_grads=True
            )
            assert (gradient.abs().max() > 0) == (stage == 0)
            assert torch.autograd.grad(stages[stage].sum(), head.embed.bias, retain_graph=True)[0].abs().max() > 0

    @pytest.mark.parametrize("loudness", [1.0, 1e-3])
    def test_modulation_by_hand(self, loudness: float) -> None:
        """Shift 0.2, scale 0.5 and gate 3 for every channel; quiet tokens show the epsilon of the norm."""
        head = iterated(blocks=0, iterations=1)
        fill_constant_(head.token_norm, loudness, 0.0)
        nn.init.zeros_(head.modulation.weight)
        with torch.no_grad():
            head.modulation.bias.copy_(torch.tensor([0.2, 0.5, 3.0]).repeat_interleave(16))
        seen = record_inputs(head.norm)
        # Mean 0 and variance 1, so that the first norm only multiplies.
        token = torch.tensor([1.0, -1.0] * 8)
        head(token.expand(1, 1, 1, 16), SIZE)
        normed = loudness * token / math.sqrt(loudness**2 + 1e-6)
        expected = loudness * token + 3 * (normed * 1.5 + 0.2)
        torch.testing.assert_close(seen[0][0, 0], expected, atol=1e-4, rtol=1e-4)

    def test_an_encoding_acts_through_silu(self) -> None:
        head = iterated(blocks=0, iterations=1)
        seen = record_inputs(head.modulation)
        fill_constant_(head.embed, 0.0, -2.0)
        head(torch.randn(1, 1, 1, 16), SIZE)
        assert seen[0].flatten().tolist() == pytest.approx([-2 / (1 + math.exp(2))] * 16)
