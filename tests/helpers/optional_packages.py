"""Marks of tests that need packages which are not available for every version of Python."""

from importlib.util import find_spec

import pytest

needs_open3d = pytest.mark.skipif(find_spec("open3d") is None, reason="Open3D has no wheels for this version of Python")
