"""Every test runs with the shapes and types in the annotations checked at each call."""

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Tensors are small here: threads cost more than they give, and two processes (-n 2) would fight over two cores.
torch.set_num_threads(1)

# Not as a context: recon4d imports its rooms when they are first used, which is after this file.
install_import_hook("recon4d", "type_checker.check")


@pytest.fixture(scope="session")
def numbered_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty numbered frames, ten a second, with frames that refer to later ones."""
    from videos import encode, numbered

    return encode(tmp_path_factory.mktemp("video") / "count.mp4", [numbered(i) for i in range(30)])
