"""Archives are read back bit for bit and open in plain numpy; foreign files are refused."""

import io
import json
import math
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from walls import HEIGHT, NUM_FRAMES, WIDTH, make_curves, make_info, make_scene, make_tracks, names_in, tensors_of

from recon4d.errors import UserError
from recon4d.io import (
    SceneInfo,
    load_scene,
    load_scene_info,
    load_times,
    save_scene,
)
from recon4d.io.archive import SHAPES, load_cameras
from recon4d.records import Scene


def test_times_and_info_are_optional(tmp_path):
    save_scene(tmp_path, make_scene())
    assert load_times(tmp_path).isnan().all()
    info = load_scene_info(tmp_path)
    assert (info.model, info.source, info.original_size) == ("custom", None, (HEIGHT, WIDTH))
    assert torch.equal(load_scene(tmp_path).depths, make_scene().depths)


def test_the_selection_of_frames_is_kept_and_may_be_missing(tmp_path):
    info = make_info()
    assert "selection" not in json.loads(info.to_json())["source"]  # earlier versions refuse unknown keys
    chosen = replace(info, source=replace(info.source, selection="24 of 289 frames, chosen by motion"))
    save_scene(tmp_path, make_scene(), info=chosen)
    assert load_scene_info(tmp_path) == chosen
    assert SceneInfo.from_json(info.to_json()) == info


@pytest.mark.parametrize("with_tracks", [False, True])
@pytest.mark.parametrize("curves", [None, make_curves(), make_curves(samples=False), make_curves(0)])
def test_scenes_are_read_back_bit_for_bit(tmp_path, with_tracks, curves):
    scene = replace(make_scene(), tracks=make_tracks() if with_tracks else None, trajectories=curves)
    # Bits that a comparison of numbers does not distinguish: -0 and 0, NaN with different payloads.
    scene.depths.view(torch.int32)[0, 0, :3] = torch.tensor([-(2**31), 0x7FC01234, 1], dtype=torch.int32)
    save_scene(tmp_path / "scene.npz", scene, torch.tensor([0.0, math.nan, 1 / 3]), make_info())

    for path in (tmp_path, tmp_path / "scene.npz", str(tmp_path)):
        loaded = load_scene(path)
        assert (loaded.tracks is not None) == with_tracks
        assert (loaded.trajectories is not None) == (curves is not None)
        for before, after in zip(tensors_of(scene), tensors_of(loaded), strict=True):
            assert before.dtype == after.dtype
            assert before.shape == after.shape
            assert before.numpy().tobytes() == after.numpy().tobytes()
        assert torch.equal(load_times(path)[[0, 2]], torch.tensor([0.0, 1 / 3]))
        assert load_scene_info(path) == make_info()
    assert names_in(tmp_path) == {"scene.npz"}


def test_other_precisions_and_layouts_are_kept(tmp_path):
    scene = make_scene().to(dtype=torch.float64)
    scene = replace(scene, dynamic=torch.rand(HEIGHT, WIDTH, NUM_FRAMES).double().permute(2, 0, 1).requires_grad_())
    save_scene(tmp_path, scene, torch.zeros(NUM_FRAMES), make_info())
    assert load_scene(tmp_path).depths.dtype == torch.float64
    assert torch.equal(load_scene(tmp_path).dynamic, scene.dynamic.detach())
    coarse = make_scene().to(dtype=torch.bfloat16)
    save_scene(tmp_path, coarse, torch.zeros(NUM_FRAMES), make_info())
    assert torch.equal(load_scene(tmp_path).points, coarse.points.float())


def test_plain_numpy_opens_the_archive_with_the_documented_names_and_shapes(tmp_path):
    scene = replace(make_scene(), tracks=make_tracks(), trajectories=make_curves())
    scene = replace(scene, distortion=torch.tensor([0.1, 0.02, 0.0, 0.0, 0.0]))
    save_scene(tmp_path / "named.npz", scene, torch.zeros(NUM_FRAMES), make_info())
    with np.load(tmp_path / "named.npz", allow_pickle=False) as arrays:
        shapes = {name: arrays[name].shape for name in arrays}
        info = json.loads(str(arrays["info"]))
    maps = (NUM_FRAMES, HEIGHT, WIDTH)
    assert shapes == {
        "world_from_cam": (NUM_FRAMES, 4, 4),
        "intrinsics": (NUM_FRAMES, 3, 3),
        "depths": maps,
        "depth_confidence": maps,
        "points": (*maps, 3),
        "point_confidence": maps,
        "moving": maps,
        "metres_per_unit": (),
        "times": (NUM_FRAMES,),
        "tracks_points": (2, NUM_FRAMES, 5, 3),
        "tracks_visible": (2, NUM_FRAMES, 5),
        "tracks_confidence": (2, NUM_FRAMES, 5),
        "tracks_anchors": (2,),
        "tracks_pixels": (2, 5, 2),
        "trajectories_control_points": (4, 5, 3),
        "trajectories_interval": (2,),
        "trajectories_times": (NUM_FRAMES,),
        "trajectories_visibility": (4, NUM_FRAMES),
        "trajectories_confidence": (4,),
        "trajectories_anchors": (4,),
        "trajectories_pixels": (4, 2),
        "trajectories_support": (4, 2),
        "trajectories_pieces": (4,),
        "trajectories_world_from_piece": (1, NUM_FRAMES, 4, 4),
        "motions_control_points": (2, 4, 7, 3),
        "motions_interval": (2,),
        "distortion": (5,),
        "info": (),
    }
    assert shapes.keys() - {"info"} == SHAPES.keys()
    documented = sys.modules["recon4d.io.archive"].__doc__ or ""
    assert all(f"\n{name} " in documented for name in shapes)
    assert info["format"] == 1
    assert info["original_size"] == [1080, 1920]
    assert info["source"]["numbers"] == [0, 10, 20]
    loaded = load_scene(tmp_path / "named.npz").distortion
    assert torch.equal(loaded, torch.tensor([0.1, 0.02, 0.0, 0.0, 0.0]))


def test_a_batch_and_unfitting_times_are_refused(tmp_path):
    batch = Scene.stack([make_scene(), make_scene()])
    with pytest.raises(ValueError, match=r"given a batch of \(2,\)"):
        save_scene(tmp_path, batch, torch.zeros(NUM_FRAMES), make_info())
    with pytest.raises(ValueError, match=r"times have shape \(4,\), wanted \(3,\)"):
        save_scene(tmp_path, make_scene(), torch.zeros(4), make_info())
    assert not names_in(tmp_path)


def rewritten(path: Path, **changes) -> Path:
    """The archive at `path` with arrays replaced, added or, for None, taken out."""
    with np.load(path) as arrays:
        contents = {name: arrays[name] for name in arrays} | changes
    with path.open("wb") as file:
        np.savez(file, **{name: array for name, array in contents.items() if array is not None})
    return path


@pytest.fixture
def archive(tmp_path) -> Path:
    save_scene(tmp_path / "scene.npz", make_scene(), torch.zeros(NUM_FRAMES), make_info())
    return tmp_path / "scene.npz"


def test_other_files_are_refused_in_one_line(archive):
    foreign = io.BytesIO()
    np.savez(foreign, some=np.zeros(3))
    single = io.BytesIO()
    np.save(single, np.zeros(3))
    whole = archive.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(b"depths.npy") + 400] ^= 1
    for content, reason in (
        (foreign.getvalue(), r"has no info, times, world_from_cam, .*metres_per_unit"),
        (single.getvalue(), "is not an npz archive"),
        (b"", "is not an npz archive"),
        (b"a letter", "is not an npz archive"),
        (whole[: len(whole) // 2], "only a part of one"),
        (bytes(flipped), "Bad CRC-32"),
    ):
        archive.write_bytes(content)
        with pytest.raises(UserError, match=reason) as refusal:
            load_scene(archive)
        assert str(archive) in str(refusal.value)
        assert "\n" not in str(refusal.value)
    for load in (load_scene, load_scene_info, load_times, load_cameras):
        with pytest.raises(UserError, match=r"nowhere.npz does not exist"):
            load(archive.with_name("nowhere.npz"))
    archive.unlink()
    archive.mkdir()
    with pytest.raises(UserError, match=r"cannot read .*scene\.npz: Is a directory"):
        load_scene(archive.parent)


def test_wrong_arrays_are_refused_by_name(archive):
    with pytest.raises(UserError, match=r"scene.npz as a scene: it has no depths, moving, so"):
        load_scene(rewritten(archive, depths=None, moving=None))
    with pytest.raises(UserError, match=r"moving has shape \(3, 2, 2\), wanted \(3, 12, 16\)"):
        load_scene(
            rewritten(archive, depths=np.zeros((3, HEIGHT, WIDTH), np.float32), moving=np.zeros((3, 2, 2), np.float32))
        )
    with pytest.raises(UserError, match=r"has no tracks_visible, tracks_confidence, tracks_anchors, tracks_pixels"):
        load_scene(rewritten(archive, tracks_points=np.zeros((1, 3, 5, 3), np.float32)))
    with pytest.raises(UserError, match="has no times"):
        load_times(rewritten(archive, times=None))


def test_wrong_curves_are_refused_by_name(tmp_path):
    def saved(**changes):
        save_scene(tmp_path / "scene.npz", replace(make_scene(), trajectories=make_curves()))
        return rewritten(tmp_path / "scene.npz", **changes)

    with pytest.raises(UserError, match="has no trajectories_support, so"):
        load_scene(saved(trajectories_support=None))
    with pytest.raises(UserError, match=r"has no trajectories_control_points, .*trajectories_world_from_piece, so"):
        load_scene(saved(**{name: None for name in SHAPES if name.startswith("trajectories_")}))
    with pytest.raises(UserError, match=r"motions_control_points has shape \(2, 3, 7, 3\), wanted \(2, 4, 7, 3\)"):
        load_scene(saved(motions_control_points=np.zeros((2, 3, 7, 3), np.float32)))
    with pytest.raises(UserError, match="trajectories_control_points has too few control points; wanted more than 3"):
        load_scene(saved(trajectories_control_points=np.zeros((4, 3, 3), np.float32)))
    with pytest.raises(UserError, match="motions_interval is 1 to 1; wanted increasing seconds"):
        load_scene(saved(motions_interval=np.ones(2, np.float32)))
    with pytest.raises(UserError, match=r"trajectories_anchors has 0 to 3; wanted frames from 0 to 2, or -1"):
        load_scene(saved(trajectories_anchors=np.arange(4)))


def test_wrong_types_are_refused_by_name(archive):
    with pytest.raises(UserError, match="moving has type <U3, wanted float16 or float32 or float64"):
        load_scene(rewritten(archive, moving=np.array([[["who"]]])))
    with pytest.raises(UserError, match=r"intrinsics has type >f4, wanted float16"):
        load_cameras(rewritten(archive, intrinsics=np.zeros((3, 3, 3), ">f4")))
    with pytest.raises(UserError, match=r"times has shape \(3, 1\), wanted \(T,\)"):
        load_times(rewritten(archive, times=np.zeros((3, 1), np.float32)))


def test_header_with_an_absurd_shape_is_refused(archive):
    with zipfile.ZipFile(archive) as zipped:
        members = {name: zipped.read(name) for name in zipped.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**17,)})
    with zipfile.ZipFile(archive, "w") as zipped:
        for name, content in {**members, "depths.npy": header.getvalue()}.items():
            zipped.writestr(name, content)
    with pytest.raises(UserError, match=r"cannot read .*scene\.npz: "):
        load_scene(archive)


def test_cameras_are_read_alone(archive):
    cameras = make_scene().cameras
    # Damaged maps do not matter, because they are not read.
    for loaded in (load_cameras(archive), load_cameras(rewritten(archive, depths=np.array("no map")))):
        assert torch.equal(loaded.world_from_cam, cameras.world_from_cam)
        assert torch.equal(loaded.intrinsics, cameras.intrinsics)


def test_defects_of_records_are_not_reported_as_damage(archive, monkeypatch):
    def broken(**tensors: torch.Tensor) -> Scene:
        raise TypeError("a defect of ours")

    monkeypatch.setattr("recon4d.io.archive.Scene", broken)
    with pytest.raises(TypeError, match="a defect of ours"):
        load_scene(archive)


def test_an_archive_of_a_batch_is_refused(archive):
    with np.load(archive) as arrays:
        stacked = {name: arrays[name][None] for name in arrays if name not in ("info", "times")}
    with pytest.raises(UserError, match=r"world_from_cam has shape \(1, 3, 4, 4\), wanted \(T, 4, 4\)"):
        load_scene(rewritten(archive, **stacked))


def test_a_newer_format_and_strange_info_are_refused(archive):
    values = json.loads(make_info().to_json())
    for changed, reason in (
        ({**values, "format": 2, "color": "red"}, r"has format 2, this recon4d reads up to 1"),
        ({**values, "color": "red"}, r"lacks nothing and has unknown \['color'\]"),
        ({key: value for key, value in values.items() if key != "trained"}, r"lacks \['trained'\]"),
        ({**values, "source": {"path": "x"}}, r"source lacks \['names', 'numbers'\]"),
        ({**values, "trained": "yes"}, "trained is 'yes', wanted bool"),
        ({**values, "original_size": 5}, "original_size is 5"),
        (
            {**values, "source": {"path": "x", "names": "abc", "numbers": [1]}},
            "names is 'abc', wanted a list of strings",
        ),
        (
            {**values, "source": {"path": "x", "names": ["a"], "numbers": [0.5]}},
            "numbers is .*, wanted a list of whole",
        ),
        ([1], "wanted a JSON object"),
    ):
        rewritten(archive, info=np.array(json.dumps(changed)))
        for load in (load_scene, load_scene_info, load_times):
            with pytest.raises(UserError, match=reason) as refusal:
                load(archive)
            assert str(archive) in str(refusal.value)
    rewritten(archive, info=np.array("{"))
    with pytest.raises(UserError, match=r"scene\.npz as a scene: info is not JSON"):
        load_scene_info(archive)


@pytest.mark.parametrize("setting", [math.nan, [math.inf], [{1}], [(1, 2)]])
def test_settings_that_json_would_change_are_refused_at_once(setting):
    with pytest.raises(ValueError, match=r"setting 'strange' is .*, wanted a plain"):
        make_info(settings={"strange": setting})


def test_the_archive_is_not_compressed(archive):
    with zipfile.ZipFile(archive) as zipped:
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in zipped.infolist())


def test_files_of_mixed_precision_are_read_in_the_highest(tmp_path):
    save_scene(tmp_path / "scene.npz", make_scene(2))
    with np.load(tmp_path / "scene.npz") as stored:
        arrays = dict(stored)
    arrays["intrinsics"] = arrays["intrinsics"].astype(np.float64)
    np.savez(tmp_path / "scene.npz", **arrays)
    scene = load_scene(tmp_path / "scene.npz")
    assert scene.cameras.world_from_cam.dtype == scene.depths.dtype == torch.float64
    assert scene.resized(8, 8).points_from_depth.dtype == torch.float64


def test_nested_json_is_refused():
    with pytest.raises(UserError, match="info is not JSON: maximum recursion depth"):
        SceneInfo.from_json("[" * 100_000)
