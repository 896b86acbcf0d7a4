"""What is written to disk after a reconstruction: archive, pictures and point cloud, in a folder whole or not there."""

from recon4d.export.archive import SceneInfo, load_scene, load_scene_info, load_times, save_scene
from recon4d.export.folder import atomic_folder, check_output_folder
from recon4d.export.pictures import depth_video_frames, write_camera_path
from recon4d.export.point_cloud import NoConfidentPointsError, confident_points, write_point_cloud
from recon4d.export.results import write_results

__all__ = [
    "NoConfidentPointsError",
    "SceneInfo",
    "atomic_folder",
    "check_output_folder",
    "confident_points",
    "depth_video_frames",
    "load_scene",
    "load_scene_info",
    "load_times",
    "save_scene",
    "write_camera_path",
    "write_point_cloud",
    "write_results",
]
