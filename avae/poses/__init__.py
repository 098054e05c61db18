"""Poses on their way out: a data set aligned into a folder, and what other tools read of it."""
