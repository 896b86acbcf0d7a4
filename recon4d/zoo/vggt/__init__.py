"""VGGT and VGGT-Omega with their published weights."""

from recon4d.zoo.vggt.vggt import from_vggt
from recon4d.zoo.vggt.vggt_omega import from_vggt_omega

__all__ = ["from_vggt", "from_vggt_omega"]
