"""Every example does what its page says, in the small: true distances, scores beside the trivial answer, a model."""

import importlib.util
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from documented import ROOT

import recon4d
from recon4d.datasets import Sample
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.eval import Benchmark
from recon4d.eval.metrics.depth import depth_scores
from recon4d.losses import normalized
from recon4d.records import Clip, Scene

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
WORLD = SyntheticConfig(num_frames=4, height=48, width=64)


def example(name: str) -> ModuleType:
    """An example as a module, whose functions can be called."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def world() -> Sample:
    return SyntheticScenes(WORLD).sample(1)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_help_says_what_it_does(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(file), "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(file), run_name="__main__")
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    first_sentence = example(file.stem).Arguments.__doc__.split(".")[0]
    assert first_sentence in printed.replace("│ ", "")


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_page_names_it(file: Path) -> None:
    assert f"`{file.name}`" in (ROOT / "examples" / "README.md").read_text()


def test_measured_distances_are_true(
    tmp_path: Path, world: Sample, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A world whose unit is not the meter, from the place of a reconstruction: one true distance tells all others."""
    measure = example("measure")
    far, near = world.scene.points[0, 10, 20], world.scene.points[0, 40, 30]
    corner = world.scene.points[0, 45, 60]
    assert world.scene.depth_confidence[0, [10, 40, 45], [20, 30, 60]].all()
    in_other_units = world.scene.scaled(0.37)
    monkeypatch.setattr(recon4d, "read_clip", lambda path, num_frames: world.clip, raising=False)
    monkeypatch.setattr(recon4d, "reconstruct", lambda model, clip: in_other_units, raising=False)
    arguments = measure.Arguments(
        clip=Path("world.mp4"),
        out=tmp_path / "out",
        known=(20, 10, 30, 40),
        meters=float((far - near).norm()),
        wanted=(20, 10, 60, 45),
        model="recon4d_tiny",
    )
    measure.main(arguments)
    printed = capsys.readouterr().out
    assert f"from pixel (20, 10) to (60, 45): {float((far - corner).norm()):.2f} m" in printed
    assert "untrained weights" in printed
    assert (tmp_path / "out" / "metric" / "colmap" / "sparse" / "0" / "cameras.bin").is_file()
    assert (tmp_path / "out" / "metric" / "ply" / "static.ply").is_file()
    assert float(recon4d.load_scene(tmp_path / "out").metres_per_unit) == 1


class TestAMethodOfYourOwn:
    def test_a_level_camera_over_a_floor_is_answered_exactly(self) -> None:
        """Its own model, seen from the other side: every point below the horizon is on the plane y = 1, or far away."""
        own = example("score_a_method")
        clip = Clip(torch.zeros(2, 3, 48, 64, dtype=torch.uint8), torch.arange(2) / 10)
        scene = own.flat_ground(clip)
        floor = scene.points_from_depth[:, 25:]
        near = floor[..., 2] < own.MAX_DEPTH
        assert near.float().mean() > 0.5
        torch.testing.assert_close(floor[near][:, 1], torch.full_like(floor[near][:, 1], own.CAMERA_HEIGHT))
        torch.testing.assert_close(scene.points, scene.points_from_depth)

    @pytest.mark.end_to_end
    def test_it_stands_beside_the_trivial_answer(
        self, tmp_path: Path, world: Sample, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A function that knows the truth scores nearly best, in the row of its name."""
        own = example("score_a_method")

        def knows_the_truth(clip: Clip) -> Scene:
            return world.scene

        monkeypatch.setattr(own, "flat_ground", knows_the_truth)
        small = Benchmark("worlds-v1", "8", ("world_00",), lambda name: world)
        monkeypatch.setattr(own, "load_benchmark", lambda name, config: small)
        own.main(own.Arguments(out=tmp_path / "out", clips=1))
        rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.split()}
        column = rows["auc_30"].index("abs_rel") + 1
        assert float(rows["knows_the_truth"][column]) < 0.001
        trivial = own.static_scene(world.clip, (0,))
        (score,) = (score for score in depth_scores(trivial, world.scene) if score.metric == "abs_rel")
        assert float(rows["static"][column]) == pytest.approx(score.value, abs=6e-4)
        assert (tmp_path / "out" / "report.html").stat().st_size > 1000


class TestTrainingOnOwnClips:
    @pytest.fixture
    def folder(self, tmp_path: Path, world: Sample) -> Path:
        cameras = world.scene.cameras
        for name, frames in (("one", slice(0, 4)), ("two", slice(1, 4))):
            np.savez(
                tmp_path / f"{name}.npz",
                images=world.clip.images[frames],
                depths=world.scene.depths[frames],
                world_from_cam=cameras.world_from_cam[frames],
                intrinsics=cameras.intrinsics[frames],
            )
        return tmp_path

    def test_clips_are_read_as_they_are(self, folder: Path, world: Sample) -> None:
        """Any three frames in a row, in the world of their first; the same for the same seed."""
        source = example("train_on_own_clips").OwnClips(folder, num_frames=3)
        samples = [source.sample(seed) for seed in range(20)]
        firsts = set()
        for seed, sample in enumerate(samples):
            (first,) = (i for i in (0, 1) if torch.equal(sample.clip.images, world.clip.images[i : i + 3]))
            firsts.add(first)
            truth = world.scene.frames(slice(first, first + 3)).in_frame(0)
            torch.testing.assert_close(sample.scene.cameras.world_from_cam, truth.cameras.world_from_cam)
            torch.testing.assert_close(sample.scene.depths, truth.depths)
            assert torch.equal(source.sample(seed).clip.images, sample.clip.images)
        assert firsts == {0, 1}

    def test_it_writes_a_model_that_has_learned(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        training = example("train_on_own_clips")
        out = folder / "mine.safetensors"
        torch.manual_seed(0)
        untrained = recon4d.create_model("recon4d_tiny", pretrained=False)
        training.main(training.Arguments(folder, out, steps=2, batch_size=2, num_frames=3, size=(48, 64)))
        model = recon4d.load_model(out)
        assert model.trained
        changed = [not torch.equal(a, b) for a, b in zip(model.parameters(), untrained.parameters(), strict=True)]
        assert sum(changed) > 0.5 * len(changed)
        losses = [float(line.split()[3]) for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
        assert len(losses) == 2
        assert np.isfinite(losses).all()

    def test_an_empty_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="holds no npz files"):
            example("train_on_own_clips").OwnClips(tmp_path, num_frames=3)


class TestTwoBranches:
    @pytest.fixture(scope="class")
    def moving(self) -> Scene:
        return normalized(SyntheticScenes(replace(WORLD, static_scene_share=0.0)).sample(0).scene)

    def test_both_branches_of_the_truth_describe_the_same_points(self, moving: Scene) -> None:
        """At the first frame they are the same map. Later they meet where a point is visible, unless one is wrong."""
        branches = example("two_branches")
        truth = moving
        at_start = is_known = branches.is_tracked(truth, 0)
        assert is_known.float().mean() > 0.5
        torch.testing.assert_close(
            branches.tracking_branch(truth, 0)[at_start], branches.reconstruction_branch(truth, 0)[at_start]
        )
        still = branches.held_still(truth)
        for j in range(1, 4):
            assert branches.branch_difference(truth, truth, j) < 0.02
            assert branches.tracking_error(truth, truth, j) == branches.reconstruction_error(truth, truth, j) == 0
            assert branches.tracking_error(still, truth, j, only_dynamic=True) > 0.02
        assert truth.tracks is not None
        displaced = replace(truth, tracks=replace(truth.tracks, points=truth.tracks.points + 0.1))
        assert branches.branch_difference(displaced, truth, 3) > 4 * branches.branch_difference(truth, truth, 3)

    def test_each_loss_is_that_of_its_branch(self, moving: Scene) -> None:
        """0 for the truth; the loss of one branch does not notice an error of the other."""
        branches = example("two_branches")
        truth = moving
        assert truth.tracks is not None
        assert [float(loss) for loss in branches.branch_losses(truth, truth)] == pytest.approx([0, 0], abs=1e-4)
        reconstruction, tracking = branches.branch_losses(branches.held_still(truth), truth)
        assert float(reconstruction) == pytest.approx(0, abs=1e-4)
        assert float(tracking) > 0.01
        reconstruction, tracking = branches.branch_losses(replace(truth, points=truth.points + 0.1), truth)
        assert float(reconstruction) > 0.05
        assert float(tracking) == pytest.approx(0, abs=1e-4)

    def test_it_prints_every_frame_and_both_losses(self, capsys: pytest.CaptureFixture[str]) -> None:
        branches = example("two_branches")
        branches.main(branches.Arguments(model="recon4d_mini", frames=3, size=(48, 64)))
        _, _, *rows, of_truth, of_model = capsys.readouterr().out.splitlines()
        assert [row.split()[0] for row in rows] == ["1", "2"]
        assert all(len(row.split()) == 9 and float(row.split()[1]) < 2 < float(row.split()[3]) for row in rows)
        assert of_truth == "losses of the truth: reconstruction 0.0000, tracking 0.0000"
        assert of_model.startswith("losses of recon4d_mini: reconstruction ")


def test_the_contact_sheet_shows_five_panels_a_world(tmp_path: Path) -> None:
    sheet = example("worlds_contact_sheet")
    sheet.main(sheet.Arguments(out=tmp_path / "worlds.jpg", worlds=1))
    assert recon4d.io.read_photo(tmp_path / "worlds.jpg").shape == (3, 144, 5 * 192)


class TestOpenInBlender:
    """What does not need Blender; with it, the file is opened by hand (docs/export.md)."""

    def test_points_are_those_of_the_scene_with_z_up(self, tmp_path: Path, world: Sample) -> None:
        blender = example("open_in_blender")
        scene = world.scene
        arrays = {
            "depths": scene.depths.numpy(),
            "depth_confidence": scene.depth_confidence.numpy(),
            "intrinsics": scene.cameras.intrinsics.numpy(),
            "world_from_cam": scene.cameras.world_from_cam.numpy(),
        }
        points, pixels = blender.unproject(arrays, 2, 0.0, 10**6)
        x, y, z = scene.points_from_depth[2].reshape(-1, 3)[torch.from_numpy(pixels)].unbind(-1)
        torch.testing.assert_close(
            torch.from_numpy(points).float(), torch.stack([x, z, -y], dim=-1), atol=1e-4, rtol=1e-4
        )
        assert len(pixels) == int((scene.depth_confidence[2] > 0).sum())
        assert len(blender.unproject(arrays, 2, 0.0, 100)[1]) == 100

    def test_the_timeline_follows_the_clip(self) -> None:
        blender = example("open_in_blender")
        assert blender.timeline(np.array([2.5, 2.0, 3.0])) == ([13, 1, 25], 36)
        assert blender.timeline(np.full(3, np.nan)) == ([1, 13, 25], 36)
        assert blender.timeline(np.array([0.0, 0.0, 1.0])) == ([1, 1, 25], 48)

    def test_arguments_follow_those_of_blender(self) -> None:
        words = ["blender", "--python", "open_in_blender.py", "--", "out", "--max-points", "5"]
        arguments = example("open_in_blender").parse(words)
        assert (arguments.scene, arguments.max_points, arguments.save) == (Path("out"), 5, None)
