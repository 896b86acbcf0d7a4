"""Settings of all tests; with ``--shapes`` the shapes and types of annotations are checked at every call."""

import os
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Tensors are small in tests: threads cost more than they gain, and processes (-n) would compete for the cores.
torch.set_num_threads(1)

# No test loses power while it runs: waiting for the disk would only take time.
os.fsync = lambda _: None

# At import, before other conftest files import recon4d. The workers of pytest-xdist inherit the variable.
if "--shapes" in sys.argv:
    os.environ["RECON4D_TEST_SHAPES"] = "1"
if "RECON4D_TEST_SHAPES" in os.environ:
    # Not as a context manager: recon4d imports its subpackages lazily, after this file has run.
    install_import_hook("recon4d", "type_checker.check")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that `.ci/run` uses."""
    text = "check the shapes and types of annotations at every call (jaxtyping, beartype): half as slow again"
    parser.addoption("--shapes", action="store_true", help=text)


@pytest.fixture(scope="session")
def numbered_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encode thirty numbered frames at ten per second, with B-frames."""
    from videos import encode, numbered

    return encode(tmp_path_factory.mktemp("video") / "count.mp4", [numbered(i) for i in range(30)])
