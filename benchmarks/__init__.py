"""What the claims of speed and the default learning rates rest on: scripts, and under ``results`` what they measured."""
