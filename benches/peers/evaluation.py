"""The paired difference of two models with SciPy: 100,000 rows, 1,000 resamples, all rows and 20 slices."""

import numpy as np
import scipy
from scipy.stats import bootstrap
from timing import measure

ROWS, SLICES, RESAMPLES = 100_000, 20, 1_000
noise = np.random.default_rng(42)
p = noise.uniform(size=ROWS)
q = np.clip(p + 0.4 * (noise.uniform(size=ROWS) - 0.5), 0.001, 0.999)
y = noise.uniform(size=ROWS) < p
part = (noise.uniform(size=ROWS) * SLICES).astype(int)


def difference(x, y, axis=-1):
    return x.mean(axis=axis) - y.mean(axis=axis)


def interval(x, y):
    """The percentile interval: for BCa SciPy leaves out each row in turn, which takes the square of the rows."""
    return bootstrap((x, y), difference, paired=True, vectorized=True, n_resamples=RESAMPLES, batch=50,
                     method="percentile", rng=np.random.default_rng(1)).confidence_interval


def table(x, y):
    return [interval(x, y)] + [interval(x[part == k], y[part == k]) for k in range(SLICES)]


for metric, (first, second) in {
    "accuracy": tuple(((model > 0.5) == y).astype(float) for model in (p, q)),
    "log loss": tuple(-np.log(np.where(y, model, 1 - model)) for model in (np.clip(p, 1e-15, 1 - 1e-15), q)),
}.items():
    measure(metric, f"scipy {scipy.__version__}", ROWS, lambda: table(first, second))
