"""Studies of a checkpoint: loss landscape, curvature, gradient noise, optimizer dynamics."""
