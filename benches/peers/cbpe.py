"""The performance of 100,000 predictions without labels, in ten chunks."""

import os
import warnings

import numpy as np
import pandas as pd
from timing import measure

warnings.simplefilter("ignore")
os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"  # or it reports its use to its makers
import nannyml  # noqa: E402

ROWS, CHUNK = 100_000, 10_000
noise = np.random.default_rng(42)


def predictions():
    p = noise.uniform(size=ROWS)
    right = noise.uniform(size=ROWS) < p
    return pd.DataFrame({"p": p, "predicted": (p > 0.5).astype(int), "truth": right.astype(int)})


estimator = nannyml.CBPE(
    metrics=["roc_auc", "f1", "precision", "recall", "accuracy"], y_pred_proba="p", y_pred="predicted", y_true="truth",
    problem_type="classification_binary", chunk_size=CHUNK,
)
estimator.fit(predictions())
watched = predictions().drop(columns="truth")
measure("cbpe", f"nannyml {nannyml.__version__}", ROWS, lambda: estimator.estimate(watched))
