"""The results of a wall, shared by the tests of exporters."""

from pathlib import Path

import pytest
from exported_walls import save, wall

from recon4d.io import SavedResults, read_results


@pytest.fixture
def results(tmp_path: Path) -> SavedResults:
    return read_results(save(tmp_path / "results", wall()))
