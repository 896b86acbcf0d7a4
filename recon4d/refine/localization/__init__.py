"""Localization: where pictures were taken in a reconstructed scene, by features, PnP and bundle adjustment."""
