"""The Kolmogorov-Smirnov test of 32 columns, 10,000 rows against 10,000, every column moved a little."""

import os

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"  # or it reports its use to its makers

import warnings  # noqa: E402

warnings.simplefilter("ignore")
import nannyml  # noqa: E402
import pandas as pd  # noqa: E402
import scipy  # noqa: E402
from rows import rows  # noqa: E402
from scipy.stats import ks_2samp  # noqa: E402
from timing import measure  # noqa: E402

ROWS, WIDTH = 10_000, 32
COLUMNS = [f"x{j}" for j in range(WIDTH)]
before, after = rows(ROWS, WIDTH), rows(ROWS, WIDTH, seed=7) + 0.1
measure("scipy", f"scipy {scipy.__version__}", 1,
        lambda: [ks_2samp(before[:, j], after[:, j], method="asymp") for j in range(WIDTH)])
first, second = (pd.DataFrame(side, columns=COLUMNS) for side in (before, after))
calculator = nannyml.UnivariateDriftCalculator(
    column_names=COLUMNS, continuous_methods=["kolmogorov_smirnov"], chunk_size=ROWS
).fit(first)
measure("nannyml", f"nannyml {nannyml.__version__}", 1, lambda: calculator.calculate(second))
