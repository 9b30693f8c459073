"""The Kolmogorov-Smirnov test of 32 columns by deepchecks, without plots: 10,000 rows against 10,000, every column moved a
little."""

import os
import warnings

os.environ["DISABLE_LATEST_VERSION_CHECK"] = "true"  # or it reports its use to its makers
warnings.simplefilter("ignore")
import deepchecks  # noqa: E402
import pandas as pd  # noqa: E402
from deepchecks.tabular import Dataset  # noqa: E402
from deepchecks.tabular.checks import FeatureDrift  # noqa: E402
from rows import rows  # noqa: E402
from timing import measure  # noqa: E402

ROWS, WIDTH = 10_000, 32
COLUMNS = [f"x{j}" for j in range(WIDTH)]
before, after = (
    Dataset(pd.DataFrame(side, columns=COLUMNS), cat_features=[])
    for side in (rows(ROWS, WIDTH), rows(ROWS, WIDTH, seed=7) + 0.1)
)
check = FeatureDrift(numerical_drift_method="KS", n_samples=ROWS)
measure("report", f"deepchecks {deepchecks.__version__}", 1, lambda: check.run(before, after, with_display=False))
