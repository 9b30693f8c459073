"""Evidently's report on drift by the Kolmogorov-Smirnov test, as a dictionary: of one column, the reference against a window
of 1,000, and of 32 columns, 10,000 rows against 10,000, every column moved a little."""

import os
import warnings

os.environ["DO_NOT_TRACK"] = "1"  # or it reports its use to its makers
warnings.simplefilter("ignore")
import evidently  # noqa: E402
import pandas as pd  # noqa: E402
from evidently import DataDefinition, Dataset, Report  # noqa: E402
from evidently.presets import DataDriftPreset  # noqa: E402
from rows import REFERENCE, rows  # noqa: E402
from timing import measure  # noqa: E402

NAME = f"evidently {evidently.__version__}"
WINDOW, ROWS, WIDTH = 1_000, 10_000, 32


def dataset(values):
    columns = [f"x{j}" for j in range(values.shape[1])]
    return Dataset.from_pandas(pd.DataFrame(values, columns=columns), DataDefinition(numerical_columns=columns))


def report(before, after):
    return Report([DataDriftPreset(num_method="ks")]).run(after, before).dict()


window = dataset(rows(WINDOW, 1, seed=7))
for size in (REFERENCE, 10_000):
    reference = dataset(rows(size, 1))
    measure(f"evidently/{size}", NAME, WINDOW, lambda: report(reference, window))
before, after = dataset(rows(ROWS, WIDTH)), dataset(rows(ROWS, WIDTH, seed=7) + 0.1)
measure("report", NAME, 1, lambda: report(before, after))
