"""The Kolmogorov-Smirnov test by alibi-detect: one column, the reference against a window of 1,000, and 32 columns, 10,000
rows against 10,000, every column moved a little."""

import alibi_detect
from alibi_detect.cd import KSDrift
from rows import REFERENCE, rows
from timing import measure

NAME = f"alibi-detect {alibi_detect.__version__}"
WINDOW, ROWS, WIDTH = 1_000, 10_000, 32
for size in (REFERENCE, 10_000):
    test, window = KSDrift(rows(size, 1)), rows(WINDOW, 1, seed=7)
    measure(f"alibi/{size}", NAME, WINDOW, lambda: test.predict(window))
report, after = KSDrift(rows(ROWS, WIDTH)), rows(ROWS, WIDTH, seed=7) + 0.1
measure("report", NAME, 1, lambda: report.predict(after))
