"""Images and times as people have them: arrays, tensors and lists become a clip; other values are refused clearly."""

import numpy as np
import pytest
import torch
from PIL import Image

import recon4d
from recon4d.errors import UserError
from recon4d.records import Clip

ARRAY = np.random.default_rng(0).integers(0, 255, (4, 40, 56, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(ARRAY).permute(0, 3, 1, 2).contiguous()
FORMS = {
    "array": ARRAY,
    "array, channels first": TENSOR.numpy(),
    "read-only array": np.broadcast_to(ARRAY, ARRAY.shape),
    "array of a flipped view": ARRAY[:, ::-1][:, ::-1],
    "tensor": TENSOR,
    "tensor, channels last": torch.from_numpy(ARRAY),
    "list of arrays": list(ARRAY),
    "tuple of tensors": tuple(TENSOR),
    "list of tensors, channels last": list(torch.from_numpy(ARRAY)),
    "floating-point array": ARRAY / 255,
    "floating-point tensor": TENSOR / 255,
    "list of Pillow images": [Image.fromarray(image) for image in ARRAY],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_images_is_the_same_clip(form):
    clip = Clip(FORMS[form], torch.zeros(4))
    assert clip.images.dtype == torch.uint8
    assert torch.equal(clip.images, TENSOR)
    assert Clip.from_images(FORMS[form]).times.isnan().all()


@pytest.mark.parametrize("times", [[0, 1, 2, 3], (0.0, 1.0, 2.0, 3.0), np.arange(4), torch.arange(4)], ids=repr)
def test_every_form_of_times(times):
    clip = Clip(TENSOR, times)
    assert clip.times.dtype == torch.float32
    assert clip.times.tolist() == [0, 1, 2, 3]


def test_images_of_three_rows_or_columns_are_not_confused():
    narrow = ARRAY[:, :, :3]
    assert torch.equal(Clip(narrow, None).images, TENSOR[..., :3])
    assert torch.equal(Clip(TENSOR[..., :3], None).images, TENSOR[..., :3])
    low = ARRAY[:, :3]
    assert torch.equal(Clip(low, None).images, TENSOR[..., :3, :])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (ARRAY[0], r"shape \(40, 56, 3\), wanted"),
        (ARRAY[..., 0], r"shape \(4, 40, 56\), wanted"),
        (np.concatenate([ARRAY, ARRAY[..., :1]], axis=-1), r"shape \(4, 40, 56, 4\), wanted"),
        (ARRAY / 127.5 - 1, r"values from -1 to .* of dtype float64, wanted images"),
        (TENSOR.float(), r"values from 0 to 254 of dtype float32, wanted images"),
        (np.full((4, 8, 8, 3), np.nan), r"values from nan to nan"),
        (ARRAY.astype(np.uint16), r"dtype int64, wanted UInt8"),
        (ARRAY[:0], r"shape \(0, 40, 56, 3\), wanted"),
        ([], r"wanted at least one"),
        ([ARRAY[0], ARRAY[1, :30]], r"images of shapes \[\(30, 56, 3\), \(40, 56, 3\)\], wanted"),
        ({"a": 1}, "is a dict, wanted"),
        ("clip.mp4", "is a str, wanted"),
        (None, "is a NoneType, wanted"),
    ],
    ids=str,
)
def test_other_images_are_told_what_is_wanted(images, message):
    with pytest.raises(UserError, match=message) as caught:
        Clip(images, None)
    assert "(time, height, width, 3)" in str(caught.value) or "all of one size" in str(caught.value)


def test_times_that_are_none_are_told():
    with pytest.raises(UserError, match=r"Clip.times is 'soon'; wanted one number of seconds for each frame"):
        Clip(TENSOR, "soon")
    with pytest.raises(ValueError, match=r"Clip.times has shape \(3,\), wanted"):
        Clip(TENSOR, [0, 1, 2])


@pytest.mark.parametrize("image", [ARRAY[0], TENSOR[0], TENSOR[0] / 255, Image.fromarray(ARRAY[0])], ids=type)
def test_a_single_image_is_a_clip_of_one_frame(image):
    assert torch.equal(Clip.from_images(image).images, TENSOR[:1])


def test_a_rate_gives_times():
    assert Clip.from_images(ARRAY, fps=4).times.tolist() == [0, 0.25, 0.5, 0.75]
    with pytest.raises(UserError, match="times and fps are both given"):
        Clip.from_images(ARRAY, times=[0, 1, 2, 3], fps=4)
    with pytest.raises(UserError, match="fps = 0; wanted"):
        Clip.from_images(ARRAY, fps=0)


def test_read_clip_selects_from_images_in_memory():
    assert torch.equal(recon4d.read_clip(ARRAY).images, TENSOR)
    clip = recon4d.read_clip(list(ARRAY), num_frames=2, fps=10)
    assert torch.equal(clip.images, TENSOR[[0, 3]])
    assert clip.times.tolist() == pytest.approx([0.0, 0.3])
    with pytest.raises(UserError, match="start and stop need times"):
        recon4d.read_clip(ARRAY, start=1.0)


def test_reconstruct_takes_names_paths_and_images(tmp_path):
    for number, image in enumerate(ARRAY):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    model = recon4d.create_model("recon4d_tiny", pretrained=False)
    recon4d.save_model(model, tmp_path / "tiny.safetensors")
    file = str(tmp_path / "tiny.safetensors")
    wanted = recon4d.reconstruct(model, Clip(TENSOR, None)).depths
    paths = sorted(tmp_path.glob("*.png"))
    for given, clip in ((model, ARRAY), (model, tmp_path), (model, paths), (file, list(TENSOR))):
        torch.testing.assert_close(recon4d.reconstruct(given, clip).depths, wanted)
    for frames in (TENSOR.numpy() / 255, str(tmp_path), [Image.fromarray(image) for image in ARRAY]):
        torch.testing.assert_close(model.infer(frames).depths, wanted)
    assert model.infer(ARRAY, anchors=(0, 2)).tracks.anchors.tolist() == [0, 2]
    scene, _ = recon4d.reconstruct_and_match(file, str(tmp_path))
    torch.testing.assert_close(scene.depths, wanted)
    with pytest.raises(UserError, match="gone does not exist; wanted a video, a picture or a folder"):
        recon4d.reconstruct(model, tmp_path / "gone")
    with pytest.raises(UserError, match="no_model"):
        recon4d.reconstruct("no_model", ARRAY)
    with pytest.raises(UserError, match="recon4d_tiny has no trained weights yet"):
        recon4d.reconstruct("recon4d_tiny", ARRAY)
