"""Labels that are likely wrong: 50,000 rows of ten classes, of which 8 % are drawn at random."""

import cleanlab
import numpy as np
from cleanlab.filter import find_label_issues
from timing import measure

ROWS, CLASSES = 50_000, 10
noise = np.random.default_rng(91)
truth = noise.integers(0, CLASSES, ROWS)
logits = noise.standard_normal((ROWS, CLASSES))
logits[np.arange(ROWS), truth] += 2.5
probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
labels = np.where(noise.uniform(size=ROWS) < 0.08, noise.integers(0, CLASSES, ROWS), truth)
for rule in ("prune_by_noise_rate", "confident_learning"):
    measure(rule, f"cleanlab {cleanlab.__version__}", ROWS,
            lambda: find_label_issues(labels, probabilities, filter_by=rule, n_jobs=1))
