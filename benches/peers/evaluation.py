"""The work of `evaluation.rs` with SciPy: the paired difference of two models, 100,000 rows, 1,000 resamples, all rows and
20 slices. Processor time of one thread.

    python benches/evaluation_scipy.py
"""

import os
import time

import numpy as np
import scipy
from scipy.stats import bootstrap

rng = np.random.default_rng(42)
ROWS, SLICES = 100_000, 20
p = rng.uniform(size=ROWS)
q = np.clip(p + 0.4 * (rng.uniform(size=ROWS) - 0.5), 0.001, 0.999)
y = rng.uniform(size=ROWS) < p
part = (rng.uniform(size=ROWS) * SLICES).astype(int)
figures = {
    "accuracy": tuple(((model > 0.5) == y).astype(float) for model in (p, q)),
    "log loss": tuple(-np.log(np.where(y, model, 1 - model)) for model in (np.clip(p, 1e-15, 1 - 1e-15), q)),
}


def difference(x, y, axis=-1):
    return x.mean(axis=axis) - y.mean(axis=axis)


def interval(x, y, method, batch):
    return bootstrap((x, y), difference, paired=True, vectorized=True, n_resamples=1_000, batch=batch, method=method,
                     rng=np.random.default_rng(1)).confidence_interval


print("scipy", scipy.__version__, "numpy", np.__version__, "load", *os.getloadavg())
for name, (x, y_) in figures.items():
    start = time.process_time()
    print(interval(x, y_, "percentile", 50))
    for k in range(SLICES):
        interval(x[part == k], y_[part == k], "percentile", 50)
    print(f"{name}, percentile: {time.process_time() - start:.2f} s")
x, y_ = (figure[part == 0] for figure in figures["accuracy"])
start = time.process_time()
interval(x, y_, "BCa", 50)
print(f"accuracy, BCa, one slice of {len(x)} rows: {time.process_time() - start:.2f} s")
