"""The quantiles of 100,000 rows of 32 numbers: a KLL sketch of each column, told the column at once."""

from importlib.metadata import version

import numpy as np
from datasketches import kll_doubles_sketch
from rows import rows
from timing import measure

ROWS, WIDTH = 100_000, 32
columns = np.ascontiguousarray(rows(ROWS, WIDTH).T)


def sketches():
    made = [kll_doubles_sketch(200) for _ in columns]
    for sketch, column in zip(made, columns):
        sketch.update(column)
    return made


measure("kll", f"datasketches {version('datasketches')}", ROWS, sketches)
