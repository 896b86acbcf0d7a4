"""Reading and writing of videos, photos, cameras, scenes and result folders, and export to other formats."""

from recon4d.io.archive import load_scene, load_scene_info, load_times, save_scene
from recon4d.io.cameras.camera_formats import CameraFile, read_camera_file
from recon4d.io.clips import read_clip
from recon4d.io.complete_results import is_complete_result
from recon4d.io.confined_paths import confined_path
from recon4d.io.exporters.formats import FORMATS, Exported, check_formats, export_results
from recon4d.io.exporters.frame_source import FrameSource, open_frames
from recon4d.io.exporters.point_selection import PointSelection
from recon4d.io.files import atomic_file
from recon4d.io.long_archive import iter_frames
from recon4d.io.output_folder import atomic_folder, check_output_folder
from recon4d.io.photos import decode_photo, list_photos, read_photo, write_jpeg
from recon4d.io.point_cloud import NoConfidentPointsError, confident_points, write_point_cloud
from recon4d.io.rasters import read_raster, write_raster
from recon4d.io.results import write_results
from recon4d.io.saved_results import SavedResults, read_results
from recon4d.io.scene_info import SceneInfo
from recon4d.io.videos import write_video
from recon4d.io.visualization import depth_video_frames, write_camera_path

__all__ = [
    "FORMATS",
    "CameraFile",
    "Exported",
    "FrameSource",
    "NoConfidentPointsError",
    "PointSelection",
    "SavedResults",
    "SceneInfo",
    "atomic_file",
    "atomic_folder",
    "check_formats",
    "check_output_folder",
    "confident_points",
    "confined_path",
    "decode_photo",
    "depth_video_frames",
    "export_results",
    "is_complete_result",
    "iter_frames",
    "list_photos",
    "load_scene",
    "load_scene_info",
    "load_times",
    "open_frames",
    "read_camera_file",
    "read_clip",
    "read_photo",
    "read_raster",
    "read_results",
    "save_scene",
    "write_camera_path",
    "write_jpeg",
    "write_point_cloud",
    "write_raster",
    "write_results",
    "write_video",
]
