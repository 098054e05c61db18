"""One training step, the loop around it, and the run on disk."""
