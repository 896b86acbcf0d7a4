"""Panoramas: views of a texture on a sphere match its direct rendering, and metadata are recognized."""

import json
import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from recon4d.errors import UserError
from recon4d.inference import PriorFiles, with_prior_files
from recon4d.io import read_clip
from recon4d.io.long_clips import open_long_clip
from recon4d.io.panorama_tags import parse_panorama_area, read_panorama_area, read_video_projection
from recon4d.io.panoramas import PanoramaConfig, split_panoramas
from recon4d.records import Clip

WIDTH, HEIGHT = 720, 360
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {}/></rdf:RDF></x:xmpmeta>'
)


def texture(directions: np.ndarray) -> np.ndarray:
    """Color directions (x right, y down, z forward) by a smooth function without symmetries."""
    x, y, z = np.moveaxis(directions / np.linalg.norm(directions, axis=-1, keepdims=True), -1, 0)
    channels = (np.sin(3 * x + y) + z, np.cos(4 * y - z) + x, np.sin(2 * z + 3 * y * x))
    return np.stack(channels, axis=-1) * 60 + 128


def render_panorama(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    longitude = ((np.arange(width) + 0.5) / width - 0.5) * 2 * math.pi
    latitude = (0.5 - (np.arange(height) + 0.5) / height) * math.pi
    latitude, longitude = np.meshgrid(latitude, longitude, indexing="ij")
    horizontal = np.cos(latitude)
    directions = np.stack([horizontal * np.sin(longitude), -np.sin(latitude), horizontal * np.cos(longitude)], axis=-1)
    return texture(directions).round().astype(np.uint8)


def render_view(world_from_cam: torch.Tensor, intrinsics: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Render a pinhole camera directly."""
    column, row = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    pixels = np.stack([column, row, np.ones_like(row)], axis=-1)
    rays = pixels @ np.linalg.inv(intrinsics.double().numpy()).T
    return texture(rays @ world_from_cam[:3, :3].double().numpy().T)


def panorama_clip(count: int = 1) -> Clip:
    return Clip.from_images(np.stack([render_panorama()] * count))


@pytest.mark.parametrize(
    "config", [PanoramaConfig(), PanoramaConfig(6, 60, poles=True), PanoramaConfig(3, 120)], ids=["8", "6+2", "3"]
)
def test_views_match_direct_rendering_everywhere(config: PanoramaConfig) -> None:
    views = split_panoramas(panorama_clip(), config)
    assert views.num_frames == config.num_views
    assert views.priors.ignore is None
    for image, pose, intrinsics in zip(views.images, views.priors.world_from_cam, views.priors.intrinsics, strict=True):
        wanted = render_view(pose, intrinsics, views.size)
        # Rounding of both pictures and bilinear interpolation; the borders of the panorama (yaw 180) are no exception.
        assert np.abs(image.permute(1, 2, 0).numpy() - wanted).max() < 1.6


def test_views_have_the_resolution_of_the_middle_and_turn_to_the_right() -> None:
    views = split_panoramas(panorama_clip())
    assert views.size == (228, 228)  # 720 / pi * tan(45 degrees) is 229.2
    priors = views.priors
    angle = 2 * math.atan(views.size[1] / 2 / float(priors.intrinsics[0, 0, 0]))
    assert math.degrees(angle) == pytest.approx(90)
    torch.testing.assert_close(priors.world_from_cam[2, :3, 2], torch.tensor([1.0, 0, 0]), atol=1e-6, rtol=0)
    assert not priors.world_from_cam[:, :3, 3].any()


def test_views_of_several_panoramas_are_a_rig_with_known_poses() -> None:
    views = split_panoramas(panorama_clip(3), PanoramaConfig(4))
    assert views.rig.cameras == (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)
    assert views.rig.moments == (0, 1, 2) * 4
    torch.testing.assert_close(views.rig.known_poses[1, :3, 2], torch.tensor([1.0, 0, 0]).double())
    assert views.priors.world_from_cam.isnan().all()
    assert views.frames([4, 1]).rig.cameras == (1, 0)  # pyright: ignore[reportOptionalMemberAccess]


def test_a_cropped_panorama_is_ignored_where_it_shows_nothing(tmp_path: Path) -> None:
    left, top, width, height = 500, 90, 400, 200  # across the border of the sphere's picture
    full = render_panorama()
    turned = np.roll(full, -left, axis=1)[top : top + height, :width]
    tags = {"FullPanoWidthPixels": WIDTH, "FullPanoHeightPixels": HEIGHT, "CroppedAreaLeftPixels": left}
    tags |= {"CroppedAreaTopPixels": top, "CroppedAreaImageWidthPixels": width, "CroppedAreaImageHeightPixels": height}
    text = 'GPano:ProjectionType="equirectangular" ' + " ".join(f'GPano:{name}="{tags[name]}"' for name in tags)
    # Widths beyond the border are no valid tags, so the crop begins at 0 instead.
    Image.fromarray(turned).save(tmp_path / "a.png")
    assert read_panorama_area(tmp_path / "a.png") is None
    inside = np.ascontiguousarray(full[top : top + height, 200:600])
    text = text.replace(f'"{left}"', '"200"')
    Image.fromarray(inside).save(tmp_path / "b.webp", lossless=True, xmp=XMP.format(text).encode())
    views = split_panoramas(read_clip(tmp_path / "b.webp", keep_panoramas=True))
    ignore = views.priors.ignore
    for number in range(8):
        wanted = render_view(views.priors.world_from_cam[number], views.priors.intrinsics[number], views.size)
        shown = ~ignore[number].numpy()
        found = views.images[number].permute(1, 2, 0).numpy()
        assert np.abs(found - wanted)[shown].max(initial=0) < 3
        assert not found[~shown].any()
    assert not ignore[0, 60:160, 60:160].any()
    assert ignore[4].all()


def test_masks_and_poses_are_those_of_the_panorama(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for number in range(2):
        Image.fromarray(render_panorama()).save(tmp_path / "p" / f"{number}.png")
    frames = []
    for number in range(2):
        pose = np.eye(4)
        pose[0, 3] = number
        frames.append({"file_path": f"p/{number}.png", "transform_matrix": pose.tolist()})
    content = {"camera_model": "EQUIRECTANGULAR", "fl_x": 3.0, "w": WIDTH, "h": HEIGHT, "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(content))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, : WIDTH // 2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    clip = read_clip(tmp_path / "p")
    given = {"cameras": tmp_path / "transforms.json", "mask": tmp_path / "mask.png"}
    with pytest.raises(UserError, match="360 degree panoramas"):
        with_prior_files(clip, PriorFiles(**given))
    with pytest.raises(UserError, match="panoramas have none"):
        with_prior_files(clip, PriorFiles(**given, distortion="0,0,0,0.1", is_panorama=True))
    views = split_panoramas(with_prior_files(clip, PriorFiles(**given, is_panorama=True)), PanoramaConfig(4))
    priors = views.priors
    assert priors.world_from_cam.isfinite().all()
    # OpenGL's x is OpenCV's x; both moments of a view look in the same direction.
    torch.testing.assert_close(priors.world_from_cam[1, :3, 3], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(priors.world_from_cam[3, :3, :3], priors.world_from_cam[2, :3, :3])
    assert priors.ignore[6].all()  # to the left
    assert not priors.ignore[2].any()  # to the right
    middle = views.size[1] // 2
    assert priors.ignore[0, :, : middle - 1].all()
    assert not priors.ignore[0, :, middle + 1 :].any()


@pytest.mark.parametrize(
    "text",
    [
        'GPano:ProjectionType="equirectangular"',
        "GPano:ProjectionType = 'Equirectangular'",
        "><GPano:ProjectionType>equirectangular</GPano:ProjectionType><a",
    ],
)
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_tagged_pictures_are_refused_and_the_option_is_named(tmp_path: Path, kind: str, text: str) -> None:
    packet = XMP.format(text).encode()
    path = tmp_path / f"a.{kind}"
    if kind == "png":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet.decode())
        Image.fromarray(render_panorama(64, 32)).save(path, pnginfo=info)
    elif kind == "tif":
        Image.fromarray(render_panorama(64, 32)).save(path, tiffinfo={700: packet})
    else:
        Image.fromarray(render_panorama(64, 32)).save(path, xmp=packet)
    for read in (read_clip, open_long_clip):
        for given in (path, tmp_path):
            with pytest.raises(UserError, match=r"a\.\w+ is an equirectangular picture .*split_panoramas"):
                read(given)
    assert read_clip(path, keep_panoramas=True).size == (32, 64)


def test_other_pictures_are_no_panoramas(tmp_path: Path) -> None:
    assert parse_panorama_area(b'GPano:ProjectionType="cylindrical"', (64, 32)) is None
    assert parse_panorama_area(b"", (64, 32)) is None
    nonsense = b'GPano:ProjectionType="equirectangular" GPano:FullPanoWidthPixels="999999999999"'
    area = parse_panorama_area(nonsense, (64, 32))
    assert (area.full_width, area.full_height) == (64, 32)
    with pytest.raises(UserError, match="twice as wide as high"):
        split_panoramas(Clip.from_images(np.zeros((1, 40, 60, 3), np.uint8)))


def spherical_video(path: Path) -> None:
    """Write a video with Google's spherical metadata (V1): a uuid box in the box of the track."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(render_panorama(128, 64), format="rgb24")))
        container.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    xml = (
        b'<rdf:SphericalVideo xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        b'xmlns:GSpherical="http://ns.google.com/videos/1.0/spherical/"><GSpherical:Spherical>true'
        b"</GSpherical:Spherical><GSpherical:Stitched>true</GSpherical:Stitched><GSpherical:StitchingSoftware>a"
        b"</GSpherical:StitchingSoftware><GSpherical:ProjectionType>"
        b"equirectangular</GSpherical:ProjectionType></rdf:SphericalVideo>"
    )
    body = b"uuid" + bytes.fromhex("ffcc8263f8554a938814587a02521fdd") + xml
    box = (len(body) + 4).to_bytes(4, "big") + body
    moov, trak = data.index(b"moov") - 4, data.index(b"trak") - 4
    assert moov > data.index(b"mdat")  # so that no offset changes
    for start in (moov, trak):
        size = int.from_bytes(data[start : start + 4], "big") + len(box)
        data[start : start + 4] = size.to_bytes(4, "big")
    end = trak + int.from_bytes(data[trak : trak + 4], "big") - len(box)
    data[end:end] = box
    path.write_bytes(data)


def test_tagged_videos_are_refused_and_split(tmp_path: Path) -> None:
    path = tmp_path / "sphere.mp4"
    spherical_video(path)
    assert read_video_projection(path) == "equirectangular"
    for read in (read_clip, open_long_clip):
        with pytest.raises(UserError, match=r"sphere\.mp4 is a spherical video \(equirectangular\)"):
            read(path)
    views = split_panoramas(read_clip(path, keep_panoramas=True))
    assert views.num_frames == 24
    assert views.source.names[:2] == ("sphere_000000_000", "sphere_000001_000")
    assert views.source.names[-1] == "sphere_000002_315"
    torch.testing.assert_close(views.times[:3], views.times[3:6])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"views": 0}, "0 views; wanted 1 to 72"),
        ({"views": 73}, "73 views"),
        ({"field_of_view": 150}, "150 degrees; wanted 20 to 140"),
        ({"field_of_view": math.nan}, "nan degrees"),
    ],
)
def test_impossible_views_are_refused(config: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        PanoramaConfig(**config)
