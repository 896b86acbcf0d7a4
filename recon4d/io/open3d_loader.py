"""Import of Open3D, which has no suitable wheels for some versions of Python."""

import sys
from typing import Any

from recon4d.errors import UserError, one_line


def load_open3d() -> Any:
    """Import Open3D and silence its warnings, for example about small clouds.

    Returns:
        The module `open3d`.

    Raises:
        UserError: If Open3D is not installed or cannot be loaded.
    """
    try:
        import open3d
    except (ImportError, OSError) as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise UserError(
            f"meshes and normals of point clouds need open3d 0.19, which cannot be loaded ({one_line(error)}); it has "
            f"wheels for Python 3.11 and 3.12, this is {version}"
        ) from error
    open3d.utility.set_verbosity_level(open3d.utility.VerbosityLevel.Error)
    return open3d
