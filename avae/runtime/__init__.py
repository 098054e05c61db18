"""The machine: devices, parts of a batch, progress."""
