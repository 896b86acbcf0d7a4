"""Given lens distortion is removed from pictures, masks and depth; and priors on the command line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prior_examples import INTRINSICS, MASK, POSES, priors_from, three_frames, tum_file
from scenes import make_clip

from recon4d.cli.main import main
from recon4d.errors import UserError
from recon4d.inference import (
    PriorFiles,
    with_prior_files,
)
from recon4d.io import load_scene, write_jpeg, write_raster
from recon4d.io.cameras.lenses import Lens, brown_lens
from recon4d.io.long_clips import as_long_clip
from recon4d.io.undistortion import undistort, undistort_long_clip
from recon4d.records import (
    Clip,
    Priors,
)


@pytest.fixture
def clip() -> Clip:
    """Return three frames, every third of a video."""
    return three_frames()


LENS = (0.25, -0.08, 0.004, -0.003, 0.01)


def distorted(x: np.ndarray, y: np.ndarray, lens: tuple[float, ...] = LENS) -> tuple[np.ndarray, np.ndarray]:
    """Distort pinhole pixels (x, y) of a camera with intrinsics 50, 52, 31, 19, by Brown's formula."""
    k1, k2, p1, p2, k3 = lens
    x, y = (x - 31) / 50, (y - 19) / 52
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    across = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
    down = y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
    return 50 * across + 31, 52 * down + 19


class TestDistortion:
    FILES = PriorFiles(intrinsics="50,52,31,19", distortion=",".join(map(str, LENS)))
    X, Y = np.meshgrid(np.arange(60) + 0.5, np.arange(40) + 0.5)

    def test_every_pixel_is_sampled_at_its_distorted_position(self) -> None:
        """Colors are four times the pixel coordinates, so they tell where each pixel was sampled."""
        x, y = np.broadcast_to(4 * self.X, (3, 40, 60)), np.broadcast_to(4 * self.Y, (3, 40, 60))
        images = torch.from_numpy(np.stack([x, y, y], axis=1).astype(np.uint8))
        straight = with_prior_files(Clip(images, torch.arange(3) / 10), self.FILES)
        assert straight.priors is not None
        assert straight.priors.ignore is not None
        from_x, from_y = distorted(self.X, self.Y)
        outside = (from_x < 0) | (from_x >= 60) | (from_y < 0) | (from_y >= 40)
        assert np.array_equal(straight.priors.ignore[1].numpy(), outside)
        within = (from_x > 0.5) & (from_x < 59.5) & (from_y > 0.5) & (from_y < 39.5)
        for channel, expected in ((0, from_x), (1, from_y)):
            error = straight.images[2, channel].numpy() - 4 * expected
            assert np.abs(error[within]).max() < 0.51  # rounding to gray levels
        assert within.mean() > 0.7
        assert 0.05 < outside.mean() < 0.3
        # Black outside the image, and not darkened at its border.
        white = with_prior_files(Clip(torch.full_like(images, 255), torch.arange(3) / 10), self.FILES)
        assert np.array_equal(white.images[1, 0].numpy(), np.where(outside, 0, 255))

    def test_zero_distortion_changes_nothing(self, clip: Clip) -> None:
        known = priors_from(clip, intrinsics="50,52,31,19")
        straight = undistort(replace(clip, priors=known), [Lens("OPENCV", (0.0,) * 4)] * 3)
        assert torch.equal(straight.images, clip.images)
        assert straight.priors is not None
        assert straight.priors.ignore is not None
        assert not straight.priors.ignore.any()

    def test_depth_and_masks_are_undistorted(self, clip: Clip, tmp_path: Path) -> None:
        places = [(6, 4), (52, 35), (31, 19)]
        frames, pixels = np.arange(3), np.array([distorted(x + 0.5, y + 0.5) for x, y in places])
        np.savez(tmp_path / "d.npz", depths=np.array([1.0, 2, 3]), pixels=pixels, frames=frames)
        mask = np.zeros((40, 60), dtype=np.uint8)
        column, row = np.floor(pixels[1]).astype(int)
        mask[row, column] = 255
        write_raster(tmp_path / "mask.png", mask)
        known = priors_from(
            clip,
            intrinsics=self.FILES.intrinsics,
            distortion=self.FILES.distortion,
            depth=tmp_path / "d.npz",
            mask=tmp_path / "mask.png",
        )
        assert known.depths is not None
        assert known.ignore is not None
        found = known.depths.isfinite().nonzero()
        assert found[:, 0].tolist() == [0, 1, 2]
        for (x, y), (_, found_row, found_column) in zip(places, found.tolist(), strict=True):
            assert abs(found_row - y) <= 1
            assert abs(found_column - x) <= 1
        assert known.depths[known.depths.isfinite()].tolist() == [1, 2, 3]
        assert known.ignore[0, 35, 52]
        assert not known.ignore[0, 19, 31]

    @pytest.mark.parametrize("lens", [LENS, (-0.35, 0.02, 0.0, 0.0, 0.0)])
    def test_depths_are_moved_to_undistorted_pixels(self, lens: tuple[float, ...]) -> None:
        """Depth encodes the pixel. The second lens cannot be inverted in the corners."""
        depths = torch.full((2, 40, 60), torch.nan)
        depths[0] = 1 + torch.arange(2400.0).reshape(40, 60)
        found = self._undistorted_depths(depths, lens)
        assert found[1].isnan().all()
        row, column = found[0].isfinite().nonzero().numpy().T
        index = found[0, row, column].long().numpy() - 1
        assert len(index) > 1200
        x, y = distorted(column + 0.5, row + 0.5, lens)
        apart = np.hypot(x - index % 60 - 0.5, y - index // 60 - 0.5)
        assert apart.max() < 1.1  # half of the diagonal of a pixel, possibly stretched

    def test_the_nearest_of_coinciding_depths_is_kept(self) -> None:
        """Undistorting all pixels equals the minimum of undistorting two halves of them separately."""
        generator = torch.Generator().manual_seed(0)
        depths = 1 + torch.rand(1, 40, 60, generator=generator)
        is_first = torch.rand(1, 40, 60, generator=generator) < 0.5
        halves = [depths.where(is_half, torch.tensor(torch.nan)) for is_half in (is_first, ~is_first)]
        first, second, both = (self._undistorted_depths(known, LENS) for known in (*halves, depths))
        assert (first.isfinite() & second.isfinite()).sum() > 20
        torch.testing.assert_close(both, first.fmin(second), equal_nan=True)

    def _undistorted_depths(self, depths: torch.Tensor, lens: tuple[float, ...]) -> torch.Tensor:
        frames = len(depths)
        known = replace(Priors.unknown(frames), intrinsics=INTRINSICS.expand(frames, 3, 3), depths=depths)
        clip = replace(make_clip(frames, 40, 60), priors=known)
        straight = undistort(clip, [Lens("FULL_OPENCV", (*lens, 0.0, 0.0, 0.0))] * frames).priors
        assert straight is not None
        assert straight.depths is not None
        return straight.depths

    @pytest.mark.parametrize("with_masks", [False, True])
    def test_frames_of_a_long_clip_have_their_own_distortion(self, clip: Clip, with_masks: bool) -> None:
        zoom = torch.diag_embed(torch.tensor([[1.0, 1.0, 1.0], [1.2, 1.1, 1.0], [1.4, 1.5, 1.0]]))
        coefficients = [LENS, (-0.2, 0.0, 0.0, 0.0, 0.0), (0.1, 0.1, 0.0, 0.01, 0.0)]
        lenses = [brown_lens(torch.tensor(one, dtype=torch.float64)) for one in coefficients]
        ignore = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0)) < 0.2
        known = replace(Priors.unknown(3), intrinsics=zoom @ INTRINSICS, ignore=ignore if with_masks else None)
        short = undistort(replace(clip, priors=known), lenses)
        long = undistort_long_clip(as_long_clip(replace(clip, priors=known)), lenses)
        assert short.priors is not None
        assert short.priors.ignore is not None
        assert long.ignore is not None
        # Masks are sampled at the nearest pixel, and pixels outside the distorted image are ignored.
        x, y = distorted(self.X, self.Y)
        outside = (x < 0) | (x >= 60) | (y < 0) | (y >= 40)
        looked_up = ignore[0].numpy()[y.clip(0, 39).astype(int), x.clip(0, 59).astype(int)]
        wanted = outside | looked_up if with_masks else outside
        assert (short.priors.ignore[0].numpy() != wanted).mean() < 0.002  # rounding between two pixels
        assert torch.equal(torch.stack(list(long.images([1, 2]))), short.images[1:])
        assert torch.equal(torch.stack(list(long.ignore([1, 2]))), short.priors.ignore[1:])
        # A single frame with its own distortion.
        alone = replace(clip.frames([2]), priors=known.frames([2]))
        assert torch.equal(undistort(alone, lenses[2:]).images[0], short.images[2])

    def test_frames_without_intrinsics_are_an_error(self, clip: Clip) -> None:
        intrinsics = INTRINSICS.repeat(3, 1, 1)
        intrinsics[1] = torch.nan
        clip = replace(clip, priors=replace(Priors.unknown(3), intrinsics=intrinsics))
        for bare in (clip, replace(clip, priors=None)):
            with pytest.raises(UserError, match="not known for every frame"):
                undistort(bare, [Lens("PINHOLE")] * 3)
            with pytest.raises(UserError, match="not known for every frame"):
                undistort_long_clip(as_long_clip(bare), [Lens("PINHOLE")] * 3)

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            (
                PriorFiles(distortion="0.1,0,0,0"),
                "needs the intrinsics of every frame, and 0 of 3 .*; give intrinsics too",
            ),
            (PriorFiles(intrinsics="50,52,31,19", distortion="0.1,0,0"), "expected k1,k2,p1,p2"),
            (PriorFiles(intrinsics="50,52,31,19", distortion="a,b,c,d"), "expected k1,k2,p1,p2"),
        ],
    )
    def test_invalid_values(self, clip: Clip, files: PriorFiles, message: str) -> None:
        with pytest.raises(UserError, match=message):
            with_prior_files(clip, files)


class TestCommand:
    QUICK = ("--model", "recon4d_tiny", "--processing-size", "32", "--refine", "off")

    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        (tmp_path / "photos").mkdir()
        for number, image in enumerate(make_clip(3, 40, 60).images):
            write_jpeg(tmp_path / "photos" / f"{number}.jpg", image)
        return tmp_path / "photos"

    def test_all_priors_at_once(self, photos: Path, tmp_path: Path, capsys) -> None:
        write_raster(tmp_path / "mask.png", MASK)
        np.savez(tmp_path / "d.npz", depths=np.full((3, 40, 60), 5.0))
        cameras = tum_file(tmp_path / "tum.txt", [0.0, 1.0, 2.0], POSES[:3])
        options = ["--intrinsics", "50,52,31,19", "--distortion=-0.1,0,0,0", "--cameras", cameras]
        options += ["--depth", tmp_path / "d.npz", "--mask", tmp_path / "mask.png", "--full-resolution"]
        arguments = ["reconstruct", photos, "--out", tmp_path / "out", *options, *self.QUICK]
        assert main([str(argument) for argument in arguments]) == 0
        scene = load_scene(tmp_path / "out")
        torch.testing.assert_close(scene.cameras.intrinsics, INTRINSICS.expand(3, 3, 3))
        torch.testing.assert_close(scene.cameras.world_from_cam, POSES[:3].float(), atol=1e-5, rtol=1e-5)
        confident = scene.depth_confidence > 0
        assert 0.8 < confident.float().mean() < 1
        assert float(scene.depths[confident].median()) == pytest.approx(5, rel=0.05)
        printed = capsys.readouterr().out
        assert "priors: intrinsics of 3 of 3 frames, cameras of 3 of 3 frames, depth at " in printed

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--intrinsics", "1,2"], "wanted fx fy cx cy"),
            (["--mask", "none.png"], "none.png does not exist"),
            (["--distortion", "0,0,0,0"], "give intrinsics too"),
        ],
    )
    def test_errors_are_one_line(self, photos: Path, tmp_path: Path, capsys, options: list[str], message: str) -> None:
        assert main(["reconstruct", str(photos), "--out", str(tmp_path / "out"), *options, *self.QUICK]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
        assert message in line
        assert not (tmp_path / "out").exists()
