"""Lens models against their published formulas, their inverses, and their turning."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from recon4d.errors import UserError
from recon4d.io.cameras.lenses import LENS_MODELS, RADIAL_4, Lens, brown_lens
from recon4d.io.cameras.orientation import UPRIGHT_FROM_STORED, turn_matrix
from recon4d.io.cameras.stored_intrinsics import intrinsics_from_colmap, named_lens
from recon4d.io.undistortion import undistort_image, undistort_pixels

POINTS = 1.2 * torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.6
SPECIAL = {"FOV": (0.9,), "EUCM": (0.6, 1.1)}


def lens_of(model: str) -> Lens:
    names = LENS_MODELS[model][1]
    return Lens(model, SPECIAL.get(model, tuple(0.01 * (i + 1) / (i * i + 1) for i in range(len(names)))))


def equidistant(x: float, y: float, k: tuple[float, ...]) -> tuple[float, float]:
    r = math.hypot(x, y)
    angle = math.atan(r)
    bent = angle * (1 + sum(value * angle ** (2 * i + 2) for i, value in enumerate(k)))
    return x * bent / r, y * bent / r


def polynomial(x: float, y: float, k: tuple[float, ...]) -> tuple[float, float]:
    k1, k2, p1, p2, k3, k4 = k
    r2 = x * x + y * y
    factor = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + k4 * r2**4
    return x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * factor + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


def rational(x: float, y: float, k: tuple[float, ...]) -> tuple[float, float]:
    k1, k2, p1, p2, k3, k4, k5, k6 = k
    r2 = x * x + y * y
    factor = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * factor + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


@pytest.mark.parametrize(
    ("model", "formula"),
    [("OPENCV_FISHEYE", equidistant), ("FISHEYE", equidistant), (RADIAL_4, polynomial), ("FULL_OPENCV", rational)],
)
def test_distortion_follows_the_formula(model: str, formula: Callable) -> None:
    lens = lens_of(model)
    wanted = [formula(x, y, lens.coefficients) for x, y in POINTS.tolist()]
    torch.testing.assert_close(lens.distort(POINTS), torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("model", LENS_MODELS)
def test_every_model_is_inverted(model: str) -> None:
    lens = lens_of(model)
    torch.testing.assert_close(lens.undistort(lens.distort(POINTS)), POINTS, atol=1e-6, rtol=0)
    assert lens.is_pinhole == (not lens.coefficients and "FISHEYE" not in model)


@pytest.mark.parametrize("orientation", UPRIGHT_FROM_STORED)
@pytest.mark.parametrize("model", ["FULL_OPENCV", "OPENCV_FISHEYE", RADIAL_4])
def test_a_turned_lens_bends_turned_directions(model: str, orientation: int) -> None:
    """Tangential distortion is not symmetric, so that it has to turn with the picture."""
    lens, turn = lens_of(model), turn_matrix(orientation)
    turned = lens.turned(turn)
    torch.testing.assert_close(turned.distort(POINTS @ turn.T), lens.distort(POINTS) @ turn.T)
    torch.testing.assert_close(turned.undistort(turned.distort(POINTS)), POINTS, atol=1e-6, rtol=0)


def test_a_lens_ends_where_its_picture_would_fold() -> None:
    """r - r^3 / 2 grows up to r = sqrt(2 / 3) = 0.816."""
    lens = Lens("SIMPLE_RADIAL", (-0.5,))
    radii = torch.tensor([0.5, 0.8, 0.83, 1.0, 2.0], dtype=torch.float64)
    distorted = lens.distort(torch.stack([radii, torch.zeros(5, dtype=torch.float64)], dim=1))
    assert distorted[:, 0].isnan().tolist() == [False, False, True, True, True]
    assert distorted[0, 0] == pytest.approx(0.5 - 0.125 / 2)


def test_brown_lenses() -> None:
    assert brown_lens(torch.tensor([1.0, 2, 3, 4, 0])) == Lens("OPENCV", (1, 2, 3, 4))
    assert brown_lens(torch.tensor([1.0, 2, 3, 4, 5])) == Lens("FULL_OPENCV", (1, 2, 3, 4, 5, 0, 0, 0))
    assert brown_lens(torch.zeros(5)).is_pinhole
    assert Lens("OPENCV", (0.1, 0, 0, 0.2)).describe() == "OPENCV with k1, p2"
    assert Lens("OPENCV_FISHEYE", (0.0,) * 4).describe() == "OPENCV_FISHEYE"


def test_a_fisheye_picture_becomes_that_of_a_pinhole() -> None:
    """The gray value of each pixel is the tangent of the angle from the axis along x, in steps of 1/200."""
    intrinsics = torch.tensor([[40.0, 0, 50], [0, 40, 30], [0, 0, 1]])
    y, x = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(100) + 0.5, indexing="ij")
    along_x, along_y = (x - 50) / 40, (y - 30) / 40
    angle = torch.hypot(along_x, along_y)
    tangent = along_x / angle * torch.tan(angle.clamp(max=1.4))
    fisheye = (100 + 60 * tangent).clamp(0, 255).round().to(torch.uint8).expand(3, -1, -1)
    straight = undistort_image(fisheye, intrinsics, Lens("OPENCV_FISHEYE", (0.0,) * 4))
    wanted = 100 + 60 * along_x
    inside = (along_x.abs() < 1.1) & (along_y.abs() < 0.7)
    assert (straight[0].float() - wanted).abs()[inside].max() < 2
    # A pinhole shows less: the border of the picture is inside the fisheye picture everywhere.
    assert (straight[:, 5:-5, 5:-5] > 0).all()


def test_pixels_are_undistorted() -> None:
    intrinsics, lens = torch.tensor([[40.0, 0, 50], [0, 44, 30], [0, 0, 1]]), Lens("OPENCV_FISHEYE", (0.0,) * 4)
    # At 45 degrees along x the fisheye records 40 * pi / 4 pixels from the axis, and a pinhole 40.
    found = undistort_pixels(torch.tensor([[50 + 40 * math.pi / 4, 30], [50.0, 30]]), intrinsics, lens)
    np.testing.assert_allclose(found.numpy(), [[90, 30], [50, 30]], atol=1e-5)


@pytest.mark.parametrize(
    ("model", "parameters", "message"),
    [
        ("EQUIRECTANGULAR", (60.0, 40.0), "360 degree panoramas"),
        ("SPHERE", (50.0, 30.0, 20.0), "unsupported model SPHERE; wanted SIMPLE_PINHOLE"),
        ("OPENCV", (50.0, 50.0, 30.0, 20.0, 1.0), "OPENCV camera has 1 distortion coefficients; wanted k1, k2"),
        ("SIMPLE_RADIAL", (50.0, 30.0, 20.0, math.inf), "coefficients"),
        ("SIMPLE_RADIAL", (50.0, 30.0, 20.0, 1e9), "coefficients"),
    ],
)
def test_other_lenses_are_refused(model: str, parameters: tuple[float, ...], message: str) -> None:
    with pytest.raises(UserError, match=f"a file: .*{message}"):
        intrinsics_from_colmap("a file", model, 60, 40, parameters)
    with pytest.raises(UserError, match="0 x 40"):
        intrinsics_from_colmap("a file", "SIMPLE_PINHOLE", 0, 40, (50.0, 30.0, 20.0))


def test_names_with_a_panorama_in_them() -> None:
    for name in ("EQUIRECTANGULAR", "OMNIDIRECTIONAL_STEREO_R", "LATLONG", "SPHERICAL"):
        with pytest.raises(UserError, match="split them"):
            named_lens("a file", name, ())
