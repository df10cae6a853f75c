"""What the claims of speed and the default learning rates rest on: scripts, and in ``results`` what they measured."""
