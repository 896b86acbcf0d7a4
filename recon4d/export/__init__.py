"""What is written to disk after a reconstruction, whole or not there, and what of it can be taken along elsewhere."""

from recon4d.export.archive import SceneInfo, load_scene, load_scene_info, load_times, save_scene
from recon4d.export.choice import PointChoice
from recon4d.export.facts import ExpectedErrors, ExpectedOfScene, SceneFacts, expected_of_scene, measure_scene
from recon4d.export.folder import atomic_folder, check_output_folder
from recon4d.export.formats import FORMATS, Exported, check_formats, export_results
from recon4d.export.pictures import depth_video_frames, write_camera_path
from recon4d.export.point_cloud import NoConfidentPointsError, confident_points, write_point_cloud
from recon4d.export.results import write_results
from recon4d.export.saved_results import SavedResults, read_results

__all__ = [
    "FORMATS",
    "ExpectedErrors",
    "ExpectedOfScene",
    "Exported",
    "NoConfidentPointsError",
    "PointChoice",
    "SavedResults",
    "SceneFacts",
    "SceneInfo",
    "atomic_folder",
    "check_formats",
    "check_output_folder",
    "confident_points",
    "depth_video_frames",
    "expected_of_scene",
    "export_results",
    "load_scene",
    "load_scene_info",
    "load_times",
    "measure_scene",
    "read_results",
    "save_scene",
    "write_camera_path",
    "write_point_cloud",
    "write_results",
]
