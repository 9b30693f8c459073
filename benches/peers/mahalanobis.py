"""Squared Mahalanobis distances: one row at a time, and 100,000 rows at once. PyOD's come from a robust covariance (MCD)."""

import numpy as np
import pyod
import sklearn
from pyod.models.mcd import MCD
from rows import REFERENCE, rows
from sklearn.covariance import LedoitWolf
from timing import measure, wanted

WIDTHS = (8, 32, 128, 512)
# Rows that are scored at once; numpy works through them in blocks that stay in the cache.
BATCH, BLOCK = 100_000, 1_024
NUMPY, SKLEARN, PYOD = f"numpy {np.__version__}", f"scikit-learn {sklearn.__version__}", f"pyod {pyod.__version__}"

for width in WIDTHS:
    if not wanted(f"batch/{width}", f"row/{width}", f"sklearn/{width}", f"sklearn row/{width}", f"pyod/{width}",
                  f"pyod row/{width}"):
        continue
    model = LedoitWolf().fit(rows(2 * max(REFERENCE, width), width))
    mean = model.location_
    # the distance is the squared length of (x - mean) W
    whiten = np.ascontiguousarray(np.linalg.cholesky(model.get_precision()))
    count = BATCH if width < 512 else BATCH // 10
    batch = rows(count, width, seed=7)
    singles = batch[:2_000]
    distances, centred, product = np.empty(count), np.empty((BLOCK, width)), np.empty((BLOCK, width))

    def blocked():
        for start in range(0, count, BLOCK):
            block = batch[start:start + BLOCK]
            c, p = centred[:len(block)], product[:len(block)]
            np.matmul(np.subtract(block, mean, out=c), whiten, out=p)
            np.einsum("ij,ij->i", p, p, out=distances[start:start + len(block)])

    def one_by_one():
        for row in singles:
            p = (row - mean) @ whiten
            p @ p

    blocked()
    few = slice(0, count if width < 128 else count // 10)
    assert np.allclose(distances[:100], model.mahalanobis(batch[:100]))
    measure(f"batch/{width}", NUMPY, count, blocked)
    measure(f"sklearn/{width}", SKLEARN, len(batch[few]), lambda: model.mahalanobis(batch[few]))
    measure(f"row/{width}", NUMPY, len(singles), one_by_one)
    measure(f"sklearn row/{width}", SKLEARN, 100, lambda: [model.mahalanobis(row[None]) for row in singles[:100]])
    if wanted(f"pyod/{width}", f"pyod row/{width}") and width < 512:
        robust = MCD(random_state=1).fit(rows(REFERENCE, width))
        measure(f"pyod/{width}", PYOD, len(batch[few]), lambda: robust.decision_function(batch[few]))
        measure(f"pyod row/{width}", PYOD, 100, lambda: [robust.decision_function(row[None]) for row in singles[:100]])
