"""The whole network: images in, a Scene out, put together from backbone, aggregator, matching and heads."""

from recon4d.model.config import ModelConfig
from recon4d.model.feature_tracks import match_feature_tracks
from recon4d.model.network import Model
from recon4d.model.outputs import Outputs

__all__ = ["Model", "ModelConfig", "Outputs", "match_feature_tracks"]
