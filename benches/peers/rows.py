"""Rows as the Rust benchmarks make them: normal columns with something in common."""

import numpy as np

# Rows of the reference that detectors compare with.
REFERENCE = 4_096


def rows(count, width, seed=42):
    noise = np.random.default_rng(seed)
    return 0.5 * noise.standard_normal((count, 1)) + noise.standard_normal((count, width))
