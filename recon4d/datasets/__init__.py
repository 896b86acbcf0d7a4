"""Clips with ground truth: sampling, augmentation, mixing and loading, and readers and writers of public data sets."""

from recon4d.datasets.augmentation import Augmentation, augment_colors
from recon4d.datasets.cropping import CropWindow, crop_and_resize, random_crop_window
from recon4d.datasets.loader import PreprocessedSource, make_loader, make_step_loader, sample_seed
from recon4d.datasets.mixture import Mixture, Source
from recon4d.datasets.point_maps import anchor_maps, rasterize_tracks
from recon4d.datasets.readers.camera_folder import CameraFolder
from recon4d.datasets.readers.colmap import ColmapModels
from recon4d.datasets.readers.dynamic_replica import DynamicReplica
from recon4d.datasets.readers.kubric import Kubric
from recon4d.datasets.readers.kubric_tracks import KubricTracks
from recon4d.datasets.readers.nerfstudio import NerfstudioFolders
from recon4d.datasets.readers.point_odyssey import PointOdyssey
from recon4d.datasets.readers.seven_scenes import SevenScenes
from recon4d.datasets.readers.sintel import Sintel
from recon4d.datasets.readers.tapvid3d import TapVid3D
from recon4d.datasets.readers.tum import Tum
from recon4d.datasets.sample import Sample, Trajectories, ground_truth_scene
from recon4d.datasets.sampling import (
    ClipSampling,
    sample_frames,
    sample_tracks,
)
from recon4d.datasets.sequence_dataset import SequenceDataset
from recon4d.datasets.writers.dynamic_replica import write_dynamic_replica
from recon4d.datasets.writers.kubric import write_kubric
from recon4d.datasets.writers.point_odyssey import write_point_odyssey

__all__ = [
    "DATASETS",
    "Augmentation",
    "CameraFolder",
    "ClipSampling",
    "ColmapModels",
    "CropWindow",
    "DynamicReplica",
    "Kubric",
    "KubricTracks",
    "Mixture",
    "NerfstudioFolders",
    "PointOdyssey",
    "PreprocessedSource",
    "Sample",
    "SequenceDataset",
    "SevenScenes",
    "Sintel",
    "Source",
    "TapVid3D",
    "Trajectories",
    "Tum",
    "anchor_maps",
    "augment_colors",
    "crop_and_resize",
    "ground_truth_scene",
    "make_loader",
    "make_step_loader",
    "random_crop_window",
    "rasterize_tracks",
    "sample_frames",
    "sample_seed",
    "sample_tracks",
    "write_dynamic_replica",
    "write_kubric",
    "write_point_odyssey",
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
    "nerfstudio": NerfstudioFolders,
}
"""Readers of the data sets on disk, by the names used on the command line and in configurations."""
