"""`recon4d reconstruct` refines by default and tells in one line what it did; unsuitable clips keep the single pass."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import fails, run

import recon4d.refine
from recon4d.cli.reconstruct_options import spell_out_refine
from recon4d.errors import UserError
from recon4d.io import load_scene, load_scene_info, read_photo, write_raster, write_video
from recon4d.records import Clip, FeatureTracks, RefinementSummary, Scene
from recon4d.refine import RefineConfig, Refinement, upsample_scene

HEIGHT, WIDTH = 96, 128
TINY = ("--model", "recon4d_tiny", "--processing-size", "64")
pytestmark = pytest.mark.filterwarnings("ignore::recon4d.zoo.UntrainedWarning")


def texture(seed: int, width: int = WIDTH) -> np.ndarray:
    """Return a random picture with many corners."""
    coarse = np.random.default_rng(seed).integers(0, 255, (HEIGHT // 8, width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


def scenery(seed: int, height: int, width: int) -> np.ndarray:
    """Return a picture with rectangles of many sizes, in colors of its own for each seed."""
    generator = np.random.default_rng(seed)
    tint = generator.integers(0, 120, 3)
    picture = np.tile(tint.astype(np.uint8), (height, width, 1))
    for _ in range(width):
        x, y = generator.integers(0, width), generator.integers(0, height)
        size = (3 * np.exp(generator.uniform(0, 3, 2))).astype(int)
        picture[y : y + size[1], x : x + size[0]] = tint + generator.integers(0, 135, 3)
    return picture


def panorama(count: int = 5) -> list[np.ndarray]:
    """Return pictures of a texture that moves by three pixels from one to the next."""
    wide = texture(0, 2 * WIDTH)
    return [wide[:, 3 * i : 3 * i + WIDTH].copy() for i in range(count)]


def write_pictures(folder: Path, pictures: Sequence[np.ndarray]) -> Path:
    folder.mkdir()
    for number, picture in enumerate(pictures):
        write_raster(folder / f"{number:02d}.png", picture)
    return folder


def summary_of(out: Path) -> RefinementSummary:
    return load_scene_info(out).refinement


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures", panorama())


@pytest.fixture
def refined(monkeypatch: pytest.MonkeyPatch) -> list[Refinement]:
    """Replace refinement by one that doubles depth, darkens images and finds distortion; collect its results."""
    results: list[Refinement] = []

    def refine_clip(
        clip: Clip, scene: Scene, matches: FeatureTracks, config: RefineConfig, on_stage: Callable[[str], None]
    ) -> Refinement:
        assert config.map_side
        on_stage("tracking corners")
        doubled = replace(scene, depths=2 * scene.depths, distortion=torch.tensor([-0.2, 0.05, 0.0, 0.0, 0.0]))
        dark = replace(clip, images=clip.images // 8)
        results.append(
            Refinement(
                doubled,
                True,
                0.9,
                0.2,
                321,
                dark,
                static_fraction=0.8,
                inlier_fraction_before=0.1,
                inlier_fraction=0.5,
                parallax=0.4,
            )
        )
        return results[-1]

    monkeypatch.setattr(recon4d.refine, "refine_clip", refine_clip)
    return results


@pytest.mark.parametrize(
    ("given", "complete"),
    [
        ("reconstruct a.mp4 --refine", "reconstruct a.mp4 --refine on"),
        ("reconstruct --refine a.mp4 --out o", "reconstruct --refine on a.mp4 --out o"),
        ("reconstruct --refine --out o a.mp4", "reconstruct --refine on --out o a.mp4"),
        ("reconstruct a.mp4 --refine off --out o", "reconstruct a.mp4 --refine off --out o"),
        ("reconstruct a.mp4 --refine auto", "reconstruct a.mp4 --refine auto"),
        ("reconstruct a.mp4 --refine=on", "reconstruct a.mp4 --refine=on"),
        ("reconstruct a.mp4 --no-refine", "reconstruct a.mp4 --refine off"),
        ("evaluate --refine --method static", "evaluate --refine --method static"),
        ("reconstruct a --panorama", "reconstruct a --panorama 8"),
        ("reconstruct --panorama a --out o", "reconstruct --panorama 8 a --out o"),
        ("reconstruct --panorama 6 a", "reconstruct --panorama 6 a"),
        ("reconstruct --panorama --refine a", "reconstruct --panorama 8 --refine on a"),
        ("info --panorama", "info --panorama"),
        ("", ""),
    ],
)
def test_short_forms_of_options(given: str, complete: str) -> None:
    assert spell_out_refine(given.split()) == complete.split()


class TestDefault:
    def test_the_refined_scene_and_its_images_are_written(
        self, pictures: Path, tmp_path: Path, refined: list[Refinement], capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        assert run("reconstruct", pictures, "--out", out, *TINY) == 0
        (result,) = refined
        assert f"\n{result} (" in capsys.readouterr().out
        scene = load_scene(out)
        expected = upsample_scene(result.scene, result.clip, scene.size)
        torch.testing.assert_close(scene.depths, expected.depths)
        torch.testing.assert_close(scene.distortion, torch.tensor([-0.2, 0.05, 0.0, 0.0, 0.0]))
        assert summary_of(out) == result.summary
        picture = read_photo(next((out / "frames").iterdir()))
        assert picture.max() < 40  # the images that the scene refers to, not those that were read
        assert load_scene_info(out).settings["refine"] == "auto"

    def test_full_resolution_keeps_the_refined_scene(
        self, pictures: Path, tmp_path: Path, refined: list[Refinement]
    ) -> None:
        assert run("reconstruct", pictures, "--out", tmp_path / "out", "--full-resolution", *TINY) == 0
        scene = load_scene(tmp_path / "out")
        assert scene.size == (HEIGHT, WIDTH)
        assert scene.depths.mean() == pytest.approx(float(refined[0].scene.depths.mean()), rel=0.05)

    def test_off_is_a_single_pass(self, pictures: Path, tmp_path: Path, refined: list[Refinement]) -> None:
        assert run("reconstruct", pictures, "--out", tmp_path / "out", "--no-refine", *TINY) == 0
        assert not refined
        assert load_scene_info(tmp_path / "out").refinement is None

    def test_several_clips_are_refined_and_recognized_as_finished(
        self, pictures: Path, tmp_path: Path, refined: list[Refinement], capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = write_pictures(tmp_path / "others", panorama(3))
        for _ in range(2):
            assert run("reconstruct", pictures, other, "--out", tmp_path / "out", *TINY) == 0
        assert len(refined) == 2
        assert capsys.readouterr().out.count("(done before)") == 2
        assert summary_of(tmp_path / "out" / "others").num_tracks == 321

    def test_info_describes_it_and_names_problems(
        self, pictures: Path, tmp_path: Path, refined: list[Refinement], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("reconstruct", pictures, "--out", tmp_path / "out", *TINY) == 0
        capsys.readouterr()
        assert run("info", tmp_path / "out") == 0
        printed = capsys.readouterr().out
        for line in (
            "refinement: cameras fitted to 321 corners",
            "  static corners: 80 % of all",
            "  held-out corners: 50 % are explained by the cameras (10 % before)",
            "  reprojection error: 0.20 pixels of the maps, each clipped to 1 (0.90 before)",
            "  parallax: 0.4 degrees",
            "lens distortion: k1 -0.2000, k2 0.0500, p1 0.0000, p2 0.0000, k3 0.0000, removed from the pictures",
            "  - cameras: refinement explains only 50 % of the corners",
            "  - depth: parallax of only 0.4 degrees",
        ):
            assert f"\n{line}\n" in printed


class TestImpossible:
    """Clips that cannot be refined: the single pass with the reason, or an error if refinement is requested."""

    @pytest.fixture
    def depth(self, tmp_path: Path) -> Path:
        np.savez(tmp_path / "depth.npz", depths=np.ones((5, HEIGHT, WIDTH), np.float32))
        return tmp_path / "depth.npz"

    @pytest.mark.usefixtures("refined")
    def test_a_given_depth(self, pictures: Path, depth: Path, tmp_path: Path, capsys) -> None:
        command = ("reconstruct", pictures, "--out", tmp_path / "out", "--depth", depth, *TINY)
        assert "the depth of this clip is given" in fails(capsys, *command, "--refine")
        assert not (tmp_path / "out").exists()
        assert run(*command) == 0
        assert "cameras are as predicted: the depth of this clip is given" in capsys.readouterr().out
        assert "the depth of this clip is given" in summary_of(tmp_path / "out").reason
        assert run("info", tmp_path / "out") == 0
        assert "  - cameras and depth: not refined: the depth of this clip is given" in capsys.readouterr().out

    def test_an_error_of_the_refinement(
        self, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise UserError("the cameras of some frames are unknown")

        monkeypatch.setattr(recon4d.refine, "refine_clip", fail)
        assert "are unknown" in fails(capsys, "reconstruct", pictures, "--out", tmp_path / "a", "--refine", *TINY)
        assert run("reconstruct", pictures, "--out", tmp_path / "b", *TINY) == 0
        assert "cameras are as predicted: the cameras of some frames are unknown" in capsys.readouterr().out

    def test_a_broken_pycolmap(self, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
        monkeypatch.setitem(sys.modules, "pycolmap", None)
        assert "pycolmap cannot be imported" in fails(
            capsys, "reconstruct", pictures, "--out", tmp_path / "a", "--refine", *TINY
        )
        assert run("reconstruct", pictures, "--out", tmp_path / "b", *TINY) == 0
        assert "cameras are as predicted: pycolmap cannot be imported" in capsys.readouterr().out


class TestUnsuitableImages:
    """The result is complete, and one line gives the reason."""

    def reason(self, pictures: Path, out: Path, capsys: pytest.CaptureFixture[str], *options: object) -> str:
        assert run("reconstruct", pictures, "--out", out, *TINY, *options) == 0
        names = {path.name for path in out.iterdir()}
        assert names >= {"scene.npz", "frames", "depth.mp4", "cameras.png"}
        (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cameras are as predicted")]
        summary = summary_of(out)
        assert not summary.is_accepted
        assert summary.reason in line
        return summary.reason

    def test_one_frame(self, tmp_path: Path, capsys) -> None:
        pictures = write_pictures(tmp_path / "one", panorama(1))
        assert self.reason(pictures, tmp_path / "out", capsys) == "refinement needs at least 2 frames"

    def test_no_texture(self, tmp_path: Path, capsys) -> None:
        frames = [np.full((HEIGHT, WIDTH, 3), 120 + number, np.uint8) for number in range(4)]
        assert "only 0 tracks" in self.reason(write_pictures(tmp_path / "flat", frames), tmp_path / "out", capsys)

    def test_everything_is_masked(self, pictures: Path, tmp_path: Path, capsys) -> None:
        write_raster(tmp_path / "mask.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
        assert "only 0 tracks" in self.reason(pictures, tmp_path / "out", capsys, "--mask", tmp_path / "mask.png")


class TestFrames:
    """A video of two scenes: 40 frames of one, then 20 of the other."""

    @pytest.fixture
    def video(self, tmp_path: Path) -> Path:
        first, second = (scenery(seed, 180, 360) for seed in range(2))
        frames = [first[:, i : i + 320] for i in range(40)] + [second[:, i : i + 320] for i in range(20)]
        write_video(tmp_path / "cut.mp4", frames, 10.0)
        return tmp_path / "cut.mp4"

    def test_frames_of_the_longest_part_are_chosen_by_motion(self, video: Path, tmp_path: Path, capsys) -> None:
        out = tmp_path / "out"
        assert run("reconstruct", video, "--out", out, "--refine", "off", *TINY) == 0
        printed = capsys.readouterr()
        assert "has a cut at 4.00 s" in printed.err
        assert "(give --keep-cuts, or --start and --stop)" in printed.err
        source = load_scene_info(out).source
        assert max(source.numbers) < 40
        assert "of 40 frames, chosen by motion" in source.selection
        assert f"cut.mp4: {source.selection}, of 320 x 180 pixels" in printed.out
        assert run("info", out) == 0
        assert f"\nselection: {source.selection}\n" in capsys.readouterr().out

    def test_a_number_takes_so_many_and_cuts_can_be_kept(self, video: Path, tmp_path: Path) -> None:
        options = ("--keep-cuts", "--num-frames", 7, "--refine", "off", *TINY)
        assert run("reconstruct", video, "--out", tmp_path / "out", *options) == 0
        source = load_scene_info(tmp_path / "out").source
        assert source.numbers[0] == 0
        assert source.numbers[-1] == 59
        assert len(source.numbers) == 7
