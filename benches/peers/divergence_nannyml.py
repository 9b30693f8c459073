"""The Wasserstein-1 distance of 100,000 values to a reference by NannyML, which counts them in bins."""

import os
import warnings

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"  # or it reports its use to its makers
warnings.simplefilter("ignore")
import nannyml  # noqa: E402
import pandas as pd  # noqa: E402
from rows import REFERENCE, rows  # noqa: E402
from timing import measure  # noqa: E402

VALUES = 100_000
calculator = nannyml.UnivariateDriftCalculator(
    column_names=["x"], continuous_methods=["wasserstein"], chunk_size=VALUES
).fit(pd.DataFrame(rows(REFERENCE, 1), columns=["x"]))
window = pd.DataFrame(rows(VALUES, 1, seed=7), columns=["x"])
measure("wasserstein", f"nannyml {nannyml.__version__}", VALUES, lambda: calculator.calculate(window))
