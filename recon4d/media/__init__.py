"""Clips in and pictures out: videos and photos become a `Clip`, and frames become files that anyone can open."""

from recon4d.media.clips import read_clip
from recon4d.media.photos import decode_photo, list_photos, read_photo, write_jpeg
from recon4d.media.rasters import read_raster, write_raster
from recon4d.media.video import write_video

__all__ = [
    "decode_photo",
    "list_photos",
    "read_clip",
    "read_photo",
    "read_raster",
    "write_jpeg",
    "write_raster",
    "write_video",
]
