"""Training of causal LMs on preference sets: named objectives, an exact shared-prefix step, exact resume."""
