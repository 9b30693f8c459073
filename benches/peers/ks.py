"""The two-sample Kolmogorov-Smirnov test of one column, the reference against windows of 1,000; per
value of a window."""

import numpy as np
import scipy
from rows import rows
from scipy.stats import ks_2samp
from timing import measure

WINDOW = 1_000
for size in (4_096, 10_000):
    reference = rows(size, 1)[:, 0]
    ordered = np.sort(reference)
    windows = rows(50 * WINDOW, 1, seed=7).reshape(50, WINDOW)
    steps = np.arange(WINDOW + 1) / WINDOW

    def statistic(window):
        """By a reference in order: the gap can only be widest just before or at a value of the window."""
        window = np.sort(window)
        share = np.searchsorted(ordered, window) / size
        return max((steps[1:] - share).max(), (share - steps[:-1]).max())

    assert np.isclose(statistic(windows[0]), ks_2samp(reference, windows[0]).statistic)
    measure(f"numpy/{size}", f"numpy {np.__version__}", windows.size, lambda: [statistic(window) for window in windows])
    measure(f"scipy/{size}", f"scipy {scipy.__version__}", 10 * WINDOW,
            lambda: [ks_2samp(reference, window, method="asymp") for window in windows[:10]])
