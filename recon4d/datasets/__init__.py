"""Clips with truth: endless synthetic worlds, and the data sets of the field from disk."""

from recon4d.datasets.augmentation import Augmentation, augment_colors
from recon4d.datasets.cropping import Window, central_window, random_window, resize_and_crop
from recon4d.datasets.loader import Prepared, SequenceIndex, make_loader, sample_seed, step_loader
from recon4d.datasets.mixture import Mixture, Source
from recon4d.datasets.point_maps import anchor_maps, scattered_points
from recon4d.datasets.readers.camera_folder import CameraFolder
from recon4d.datasets.readers.colmap import ColmapModels
from recon4d.datasets.readers.dynamic_replica import DynamicReplica
from recon4d.datasets.readers.kubric import Kubric
from recon4d.datasets.readers.kubric_tracks import KubricTracks
from recon4d.datasets.readers.point_odyssey import PointOdyssey
from recon4d.datasets.readers.seven_scenes import SevenScenes
from recon4d.datasets.readers.sintel import Sintel
from recon4d.datasets.readers.tapvid3d import TapVid3D
from recon4d.datasets.readers.tum import Tum
from recon4d.datasets.sample import Sample, Trajectories, ground_truth_scene
from recon4d.datasets.sampling import ClipChoice, choose_frames, choose_overlapping, choose_tracks, overlap
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.datasets.writers.dynamic_replica import write_dynamic_replica
from recon4d.datasets.writers.kubric import write_kubric
from recon4d.datasets.writers.point_odyssey import write_point_odyssey, write_point_odyssey_legacy

__all__ = [
    "DATASETS",
    "Augmentation",
    "CameraFolder",
    "ClipChoice",
    "ColmapModels",
    "DynamicReplica",
    "Kubric",
    "KubricTracks",
    "Mixture",
    "PointOdyssey",
    "Prepared",
    "Sample",
    "SequenceDataset",
    "SequenceIndex",
    "SevenScenes",
    "Sintel",
    "Source",
    "TapVid3D",
    "Trajectories",
    "Tum",
    "Window",
    "anchor_maps",
    "augment_colors",
    "central_window",
    "choose_frames",
    "choose_overlapping",
    "choose_tracks",
    "ground_truth_scene",
    "make_loader",
    "overlap",
    "random_window",
    "resize_and_crop",
    "sample_seed",
    "scattered_points",
    "step_loader",
    "write_dynamic_replica",
    "write_kubric",
    "write_point_odyssey",
    "write_point_odyssey_legacy",
]


DATASETS: dict[str, type[SequenceDataset]] = {
    "point-odyssey": PointOdyssey,
    "dynamic-replica": DynamicReplica,
    "kubric": Kubric,
    "kubric-tracks": KubricTracks,
    "tum": Tum,
    "sintel": Sintel,
    "tapvid3d": TapVid3D,
    "7-scenes": SevenScenes,
    "folder": CameraFolder,
    "colmap": ColmapModels,
}
"""Every data set that is read from a folder; a new one is one file and one line here."""
