"""Published evaluation protocols: video depth, multi-view points, WorldTrack and TAPVid-3D."""
