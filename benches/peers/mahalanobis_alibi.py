"""Mahalanobis distances by alibi-detect, which learns from the rows that it scores: one by one, and in batches as large as
its memory for them (rows times squared width) allows."""

import alibi_detect
from alibi_detect.od import Mahalanobis
from rows import rows
from timing import measure, wanted

NAME = f"alibi-detect {alibi_detect.__version__}"
# By width: the rows of a batch, and how many batches are scored.
BATCHES = {8: (500, 20), 32: (500, 20), 128: (500, 2), 512: (32, 2)}

for width, (size, count) in BATCHES.items():
    if not wanted(f"batch/{width}", f"row/{width}"):
        continue
    detector = Mahalanobis(threshold=10.0, n_components=width, max_n=None)
    for batch in rows(20 * size, width).reshape(20, size, width):
        detector.score(batch)
    batches = rows(count * size, width, seed=7).reshape(count, size, width)
    singles = batches[0][:100 if width < 512 else 5]
    measure(f"batch/{width}", NAME, count * size, lambda: [detector.score(batch) for batch in batches])
    measure(f"row/{width}", NAME, len(singles), lambda: [detector.score(row[None]) for row in singles])
