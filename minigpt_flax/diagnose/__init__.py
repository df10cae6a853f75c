"""Studies of a checkpoint: landscape, curvature, gradient noise, optimizer dynamics."""
