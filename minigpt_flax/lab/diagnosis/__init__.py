"""Look inside a run: the loss around its parameters, its curvature, the gradient's noise, the optimizer's steps."""
