"""EuRoC: poses of the body, moved to the camera by its sensor.yaml."""

from pathlib import Path

import pytest
import torch
from named_clips import named_clip

from recon4d.errors import UserError
from recon4d.io import read_camera_file
from recon4d.records import Clip

SENSOR = """sensor_type: camera
comment: VI-Sensor cam0
T_BS:
  cols: 4
  rows: 4
  data: [0.0, -1.0, 0.0, 0.5,
         1.0, 0.0, 0.0, 0.25,
         0.0, 0.0, 1.0, 0.0,
         0.0, 0.0, 0.0, 1.0]
rate_hz: 20
resolution: [120, 80]
camera_model: pinhole
intrinsics: [100.0, 104.0, 61.5, 37.5] #fu, fv, cu, cv
distortion_model: radial-tangential
distortion_coefficients: [-0.28, 0.07, 0.0002, 0.00002]
"""
HEADER = "#timestamp [ns],p_RS_R_x [m],p_RS_R_y [m],p_RS_R_z [m],q_RS_w [],q_RS_x [],q_RS_y [],q_RS_z []"
STAMPS = (1403636579763555584, 1403636579813555456)


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    """Return two frames of 60 x 40 pixels in the layout of EuRoC, with the poses of the body."""
    pictures = tmp_path / "mav0" / "cam0" / "data"
    pictures.mkdir(parents=True)
    truth = tmp_path / "mav0" / "data.csv"
    truth.write_text(f"{HEADER}\n{STAMPS[0]},0,0,0,1,0,0,0\n{STAMPS[1]},2,0,0,1,0,0,0\n")
    return named_clip(str(pictures), tuple(f"{stamp}.png" for stamp in STAMPS), size=(40, 60))


def test_the_camera_is_where_the_sensor_file_says(tmp_path: Path, clip: Clip) -> None:
    """The camera is rolled by a quarter turn: the body's +x is the camera's -y."""
    (tmp_path / "mav0" / "cam0" / "sensor.yaml").write_text(SENSOR)
    found = read_camera_file(tmp_path / "mav0" / "data.csv").for_clip(clip)
    torch.testing.assert_close(found.world_from_cam[1, :3, 3], torch.tensor([0.0, -2, 0]))
    assert found.intrinsics[0].tolist() == [[50, 0, 31], [0, 52, 19], [0, 0, 1]]
    assert found.lenses[0].coefficients == (-0.28, 0.07, 0.0002, 0.00002)
    assert "by the times that the pictures are named by with data.csv (EuRoC, nanoseconds)" in found.report[0]
    assert any("moved from the body" in line for line in found.report)


def test_without_a_sensor_file_it_is_told(tmp_path: Path, clip: Clip) -> None:
    found = read_camera_file(tmp_path / "mav0" / "data.csv").for_clip(clip)
    torch.testing.assert_close(found.world_from_cam[1, :3, 3], torch.tensor([2.0, 0, 0]))
    assert any("are of a body" in line for line in found.report)


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "3",
        "T_BS: 3",
        SENSOR.replace("0.5,", "x,"),
        SENSOR.replace("-1.0", "-2.0"),
        SENSOR.replace("radial-tangential", "other"),
        SENSOR.replace("100.0, ", ""),
        SENSOR.replace("resolution", "size"),
    ],
)
def test_damaged_sensor_files_are_refused(tmp_path: Path, clip: Clip, text: str) -> None:
    (tmp_path / "mav0" / "cam0" / "sensor.yaml").write_text(text)
    with pytest.raises(UserError, match=r"sensor\.yaml") as caught:
        read_camera_file(tmp_path / "mav0" / "data.csv").for_clip(clip)
    assert "\n" not in str(caught.value)
