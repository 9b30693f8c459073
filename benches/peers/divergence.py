"""How far a window is from a reference: binned measures with numpy, the reference prepared, and the exact Wasserstein-1
distance with scipy."""

import numpy as np
import scipy
from rows import REFERENCE, rows
from scipy.stats import wasserstein_distance
from timing import measure

BINS = 10
NUMPY = f"numpy {np.__version__}"


def shares(values, edges):
    return np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) / len(values)


def stability(p, q):
    p, q = np.maximum(p, 1e-6), np.maximum(q, 1e-6)
    return ((q - p) * np.log(q / p)).sum()


def jensen_shannon(p, q):
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(side > 0, side * np.log2(side / middle), 0).sum() for side in (p, q)]
    return np.sqrt(max(sum(parts) / 2, 0))


def hellinger(p, q):
    return np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum() / 2)


for size, window, windows in [(REFERENCE, 1_000, 100), (REFERENCE, 100_000, 1)]:
    reference = rows(size, 1)[:, 0]
    edges = np.quantile(reference, np.linspace(0, 1, BINS + 1)[1:-1])
    prepared, made = shares(reference, edges), rows(window * windows, 1, seed=7).reshape(windows, window)
    for name, measured in [("psi", stability), ("js", jensen_shannon), ("hellinger", hellinger)]:
        measure(f"{name}/{window}", NUMPY, made.size,
                lambda: [measured(prepared, shares(values, edges)) for values in made])
    measure(f"wasserstein/{window}", f"scipy {scipy.__version__}", made.size,
            lambda: [wasserstein_distance(reference, values) for values in made])
