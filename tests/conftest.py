"""Settings of all tests; with ``--shapes`` the shapes and types of annotations are checked at every call."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Tensors are small in tests: threads cost more than they gain, and processes (-n) would compete for the cores.
torch.set_num_threads(1)

# No test loses power while it runs: waiting for the disk would only take time.
os.fsync = lambda _: None


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that `.ci/run` uses."""
    text = "check the shapes and types of annotations at every call (jaxtyping, beartype): half as slow again"
    parser.addoption("--shapes", action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Check annotations if that is wanted."""
    if config.getoption("--shapes"):
        # Not as a context manager: recon4d imports its subpackages lazily, after this function has run.
        install_import_hook("recon4d", "type_checker.check")


@pytest.fixture(scope="session")
def numbered_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encode thirty numbered frames at ten per second, with B-frames."""
    from videos import encode, numbered

    return encode(tmp_path_factory.mktemp("video") / "count.mp4", [numbered(i) for i in range(30)])
