"""Every test runs with the shapes in the annotations checked at each call."""

from jaxtyping import install_import_hook

with install_import_hook("recon4d", "beartype.beartype"):
    import recon4d  # noqa: F401
