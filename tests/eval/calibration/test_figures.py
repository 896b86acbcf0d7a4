"""The reliability diagram shows measured over expected error."""

from pathlib import Path

import numpy as np
import pytest
from calibrated import CALIBRATION, disturbed
from matplotlib.figure import Figure

from recon4d.eval.calibration import (
    calibration_error,
    compute_reliability,
    loss_implied_curve,
    scene_samples,
    write_reliability_picture,
)
from recon4d.records import Calibration, Scene


def test_the_diagram_shows_measured_over_expected_error(
    tmp_path: Path, truth: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, savefig = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *given, **how: (figures.append(self), savefig(self, *given, **how))
    )
    samples = scene_samples(disturbed(truth), truth)
    write_reliability_picture(tmp_path / "some.png", CALIBRATION, samples)
    (figure,) = figures
    columns = list(zip(figure.axes[:2], figure.axes[2:], strict=True))  # tracks have no calibration
    assert [above.get_title() for above, _ in columns] == ["depth", "points"]
    for (above, below), field in zip(columns, ("depth", "points"), strict=True):
        curve, measured = getattr(CALIBRATION, field), getattr(samples, field)
        lines = {line.get_label().split(":")[0]: line for line in above.get_lines()}
        for name, drawn in (("calibrated", curve), ("implied by the loss", loss_implied_curve())):
            found = compute_reliability(drawn, measured)
            np.testing.assert_allclose(lines[name].get_xdata(), found.expected)
            np.testing.assert_allclose(lines[name].get_ydata(), found.measured)
            assert lines[name].get_label() == f"{name}: {calibration_error(found):.2f}"
            for values, (least, most) in ((found.expected, above.get_xlim()), (found.measured, above.get_ylim())):
                assert least < float(values.min())
                assert float(values.max()) < most
        assert sum(bar.get_height() for bar in below.patches) == len(measured)
        assert below.get_xlim() == above.get_xlim()
        assert above.xaxis.get_major_formatter()(0.05) == "5 %"
    assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nothing to draw"):
        write_reliability_picture(tmp_path / "none.png", Calibration("nothing"), samples)
