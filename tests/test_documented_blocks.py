"""Runs or, if a reason is given, parses every code block of the documentation; see the helper `documented`."""

import contextlib
import io
import re
import shlex
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from documented import ROOT, blocks_of, check_command, check_options, commands_of, is_run, run_command
from named_weights import named_state_dict, read_golden, read_shapes

import recon4d
from recon4d.datasets.synthetic import SyntheticConfig, SyntheticScenes
from recon4d.eval import headline_table
from recon4d.heads import DENSE_HEADS
from recon4d.io import (
    PointSelection,
    SceneInfo,
    export_results,
    read_results,
    write_results,
)
from recon4d.models import Model
from recon4d.zoo.vggt import from_vggt

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*.md")),
]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
FILES_OF_THE_READER: dict[str, tuple[str, ...]] = {
    "docs/export.md": ("out",),
    "docs/getting_started.md": ("photos", "walk.mp4"),
    "docs/reconstructing.md": ("clip.mp4", "clips", "photos", "colmap", "masks", "lidar.npz"),
    "docs/viewing.md": ("out",),
}
"""Files and folders that exist before the first block of a page runs: out/ is a reconstruction."""
EXTRAS = {"docs/viewing.md": "rerun"}
"""Optional packages that a page requires; the page is skipped without them."""

WORLD = SyntheticConfig(num_frames=4, height=192, width=256)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a folder with clips and with a synthetic scene that has exact cameras and depth."""
    folder = tmp_path_factory.mktemp("reader")
    sample = SyntheticScenes(WORLD).sample(1)
    (folder / "out").mkdir()
    info = SceneInfo("truth", True, recon4d.__version__, None, sample.clip.size, {})
    write_results(folder / "out", sample.clip, sample.scene, info)
    export_results(folder / "exported", read_results(folder / "out"), ["colmap"], PointSelection(max_points=500))
    (folder / "exported" / "colmap" / "images").rename(folder / "photos")
    (folder / "exported" / "colmap" / "sparse" / "0").rename(folder / "colmap")
    (folder / "masks").mkdir()
    for photo in (folder / "photos").iterdir():
        recon4d.io.write_jpeg(folder / "masks" / photo.name, torch.zeros_like(sample.clip.images[0]))
    np.savez(folder / "lidar.npz", depths=sample.scene.depths.numpy())
    # Every third frame of the example at half its size, with the same duration.
    dog = recon4d.read_clip(ROOT / "examples" / "dog.mp4", num_frames=None)
    (folder / "examples").mkdir()
    recon4d.io.write_video(folder / "examples" / "dog.mp4", dog.images[::3, :, ::2, ::2].permute(0, 2, 3, 1), 10.0)
    for other in (ROOT / "examples").iterdir():
        if other.name != "dog.mp4":
            (folder / "examples" / other.name).symlink_to(other)
    (folder / "clips").mkdir()
    for name in ("clip.mp4", "walk.mp4", "clips/monday.mp4", "clips/tuesday.mp4"):
        shutil.copy(folder / "examples" / "dog.mp4", folder / name)
    return folder


@pytest.fixture
def in_a_folder(tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Create a working directory with the examples and a reduced clip; the default model is recon4d_tiny."""
    (tmp_path / "examples").symlink_to(files / "examples")
    monkeypatch.chdir(tmp_path)
    # The command line changes the way warnings are shown.
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    create = recon4d.create_model

    def quick(name: str = "recon4d_mini", **options) -> Model:
        return create("recon4d_tiny", pretrained=False) if name == "recon4d_mini" else create(name, **options)

    monkeypatch.setattr("recon4d.zoo.create_model", quick)
    monkeypatch.setattr("recon4d.zoo.registry.create_model", quick)
    with mock.patch.dict(DENSE_HEADS):  # a page registers a head
        yield tmp_path


def names_given(page: str) -> dict[str, object]:
    """Return the names that the Python blocks of a page assume to exist."""
    if page != "docs/published_models.md":
        return {}
    golden = read_golden("vggt_small")
    weights = named_state_dict(read_shapes("vggt_small"), int(golden["salt"]))
    images = torch.from_numpy(golden["images_uint8"])[None, [0, 1, 2, 0]]
    query_pixels = torch.tensor([[[10.5, 20.5], [30.5, 12.5]]])
    return {"model": from_vggt(weights, taps=(0, 1, 2, 3)), "images": images, "query_pixels": query_pixels}


def run_page(page: Path) -> dict[str, object]:
    """Run the blocks of a page in order in the working directory and return the names its Python blocks define."""
    names = names_given(page.relative_to(ROOT).as_posix())
    for block in blocks_of(page):
        if block.kind == "python":
            lines_before = "\n" * block.line
            exec(compile(lines_before + block.text, str(page), "exec"), names)
        elif block.kind == "sh" and block.reason is None:
            for command in filter(is_run, commands_of(block.text)):
                run_command(command)
    return names


def expect_readme(names: dict) -> None:
    scene = names["scene"]
    assert scene.size == (180, 320)
    assert scene.tracks.anchors.tolist() == [0, 8]
    torch.testing.assert_close(scene.cameras.world_from_cam[8], torch.eye(4))
    assert names["again"].num_frames == 8


def expect_getting_started(names: dict) -> None:
    assert names["points"].shape == (int(names["near"].sum()), 3)
    assert names["path"].shape == (8, 3)
    assert names["tracked"].shape == (8, names["height"] * names["width"], 3)
    assert names["again"].num_frames == 8
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        run_command(["recon4d", "info", "out/dog"])
    shown = re.findall(r"```text\n(.*?)```", (ROOT / "docs" / "getting_started.md").read_text(), re.DOTALL)[0]
    # This model is untrained and not calibrated, so numbers and indented lines differ.
    assert _topics(shown) == _topics(printed.getvalue())


def _topics(facts: str) -> list[str]:
    return [line.split(":")[0] for line in facts.splitlines() if not line.startswith(" ")]


def expect_datasets(names: dict) -> None:
    sample = names["sample"]
    assert sample.clip.images.shape == (4, 3, 96, 128)
    assert sample.scene.tracks.points.shape == (2, 4, 12288, 3)


def expect_evaluation(names: dict) -> None:
    assert names["scores"]["registered"] == 1.0
    assert names["scores"]["auc_5"] < 0.1


def expect_long_clips(names: dict) -> None:
    assert names["index"].cameras.world_from_cam.shape == (30, 4, 4)
    assert names["scene"].num_frames == 4
    torch.testing.assert_close(
        names["scene"].cameras.world_from_cam, names["index"].cameras.world_from_cam[10:14], atol=1e-4, rtol=1e-4
    )


def expect_export(names: dict) -> None:
    assert {"colmap", "depth-png", "splats"} <= {path.name for path in Path("out_elsewhere").iterdir()}
    metric = names["metric"]
    one, other = (metric.points_from_depth[0, y, x] for x, y in ((40, 150), (90, 150)))
    assert (one - other).norm() == pytest.approx(1.5, rel=1e-4)


def expect_reconstructing(names: dict) -> None:
    """Verify that priors hold in the result."""
    told = recon4d.load_scene("out/clip").cameras.resized(recon4d.load_scene("out/clip").size, (180, 320))
    torch.testing.assert_close(told.intrinsics[0, 0, 0], torch.tensor(1050.0), atol=0.01, rtol=0)
    answered, truth = recon4d.load_scene("out/photos"), SyntheticScenes(WORLD).sample(1).scene
    torch.testing.assert_close(answered.cameras.world_from_cam, truth.cameras.world_from_cam, atol=1e-3, rtol=1e-3)
    assert Path("out/tuesday/scene.npz").is_file()


def expect_evaluate_your_method(names: dict) -> None:
    """Verify that the plane is better than the constant depth that it is made of, and stored predictions than both."""
    printed = headline_table(names["evaluation"])
    assert Path("out/stored/report.html").is_file()
    errors = {
        line.split()[0]: float(line.split()[5]) for line in printed.splitlines() if re.match("plane|static", line)
    }
    assert errors["plane"] < errors["static"]


EXPECTED: dict[str, Callable[[dict], None]] = {
    "README.md": expect_readme,
    "docs/add_a_data_set.md": lambda names: _expect(names["batch"].clip.images.shape == (2, 3, 3, 32, 48)),
    "docs/add_a_head.md": lambda names: _expect(isinstance(names["model"].dense_heads[0], names["LastLayerHead"])),
    "docs/datasets.md": expect_datasets,
    "docs/evaluate_your_method.md": expect_evaluate_your_method,
    "docs/evaluation.md": expect_evaluation,
    "docs/export.md": expect_export,
    "docs/getting_started.md": expect_getting_started,
    "docs/long_clips.md": expect_long_clips,
    "docs/published_models.md": lambda names: _expect(names["pixels"].shape[-2:] == (2, 2)),
    "docs/reconstructing.md": expect_reconstructing,
    "docs/viewing.md": lambda names: _expect(Path("scene.rrd").stat().st_size > 10_000),
}
"""Checks after the last block of a page, on the defined names and on the working directory."""


def _expect(holds: bool) -> None:
    assert holds


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_is_one(page: Path) -> None:
    for block in blocks_of(page):
        if block.kind == "sh":
            for command in commands_of(block.text):
                check_command(command)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_that_sentences_mention_take_these_options(page: Path) -> None:
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for mentioned in re.findall(r"`([^`]+)`", prose):
        words = shlex.split(mentioned) if mentioned.startswith(("recon4d ", "python ", "pip ")) else []
        if words[:1] == ["recon4d"]:
            check_options(words)
        elif words[:3] == ["pip", "install", "-e"] or words[:1] == ["python"]:
            check_command(words)


@pytest.mark.end_to_end
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_runs(page: Path, in_a_folder: Path, files: Path) -> None:
    name = page.relative_to(ROOT).as_posix()
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    for given in FILES_OF_THE_READER.get(name, ()):
        (in_a_folder / given).symlink_to(files / given)
    names = run_page(page)
    EXPECTED.get(name, lambda names: None)(names)


def test_getting_started_leads_to_every_page_and_the_readme_to_it() -> None:
    links = {
        (ROOT / "docs" / link).resolve()
        for link in re.findall(r"\]\(([^):#]+\.md)", (ROOT / "docs" / "getting_started.md").read_text())
    }
    # The pages in docs/project are files of the repository, included.
    links |= {ROOT / name for link in links for name in re.findall(r'^--8<-- "(.+)"$', link.read_text(), re.MULTILINE)}
    links -= set((ROOT / "docs" / "project").iterdir())
    assert set(PAGES) - links == {ROOT / "docs" / "getting_started.md", ROOT / "README.md"}
    assert "(docs/getting_started.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not link.startswith(("http:", "https:")):
            target, _, section = link.partition("#")
            file = (page.parent / target).resolve() if target else page
            assert file.exists(), f"{page.name} links to {link}"
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if section else []
            anchors = [re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings]
            assert not section or section in anchors, f"{page.name} links to {link}"


@pytest.mark.parametrize("fence", ["bash", "", "sh parsed-only", "sh parsed-only:", "python parsed-only: slow"])
def test_a_block_that_nobody_checks_is_refused(fence: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"```{fence}\nrecon4d models\n```\n")
    with pytest.raises(ValueError, match=r"page\.md:1 opens with"):
        blocks_of(tmp_path / "page.md")


@pytest.mark.parametrize(
    "line",
    [
        "recon4d reconstruct clip.mp4 --out out/ --no-such-option",
        "accelerate launch -m recon4d.cli reconstrct clip.mp4 --out out/",
        "pip install -e '.[no-such-extra]'",
        "pytest tests/test_no_such_file.py",
        "python -m benchmarks.worlds --no-such-option 3",
        "sudo reboot",
    ],
)
def test_a_command_that_is_none_is_refused(line: str) -> None:
    (command,) = commands_of(line)
    with pytest.raises((ValueError, AssertionError)):
        check_command(command)
