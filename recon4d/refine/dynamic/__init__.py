"""Which pixels move: evidence from optical flow that a static scene cannot explain."""
