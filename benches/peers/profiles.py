"""A profile of 100,000 rows of 32 numbers: counts, moments, quantiles and distinct values of each column."""

import os

os.environ["WHYLOGS_NO_ANALYTICS"] = "True"  # or it reports its use to its makers

from importlib.metadata import version  # noqa: E402

import pandas as pd  # noqa: E402
import whylogs  # noqa: E402
from rows import rows  # noqa: E402
from timing import measure  # noqa: E402

ROWS, WIDTH = 100_000, 32
frame = pd.DataFrame(rows(ROWS, WIDTH), columns=[f"x{j}" for j in range(WIDTH)])
measure("whylogs", f"whylogs {version('whylogs')}", ROWS, lambda: whylogs.log(frame))
