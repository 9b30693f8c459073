"""The statistics of 100,000 rows of 32 numbers by TensorFlow Data Validation."""

import os
import warnings

warnings.simplefilter("ignore")
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import pandas as pd  # noqa: E402
import tensorflow_data_validation as tfdv  # noqa: E402
from rows import rows  # noqa: E402
from timing import measure  # noqa: E402

ROWS, WIDTH = 100_000, 32
frame = pd.DataFrame(rows(ROWS, WIDTH), columns=[f"x{j}" for j in range(WIDTH)])
measure("tfdv", f"TFDV {tfdv.__version__}", ROWS, lambda: tfdv.generate_statistics_from_dataframe(frame))
