"""The truth behind 25,000 answers: 5,000 tasks of five classes, five of twenty people each, who know it with the
probability told and otherwise guess."""

from importlib.metadata import version

import numpy as np
import pandas as pd
from crowdkit.aggregation import DawidSkene
from timing import measure

TASKS, PEOPLE, CLASSES, OVERLAP = 5_000, 20, 5, 5
NAME = f"crowd-kit {version('crowd-kit')}"


def answers(knows):
    noise = np.random.default_rng(92)
    truth = np.repeat(noise.integers(0, CLASSES, TASKS), OVERLAP)
    who = np.concatenate([noise.choice(PEOPLE, OVERLAP, replace=False) for _ in range(TASKS)])
    guesses = noise.integers(0, CLASSES, len(truth))
    return pd.DataFrame({
        "task": np.repeat(np.arange(TASKS), OVERLAP),
        "worker": who,
        "label": np.where(noise.uniform(size=len(truth)) < knows, truth, guesses),
    })


for work, knows, steps, tolerance in [("20 iterations", 0.4, 20, -np.inf), ("to the end", 0.75, 100, 1e-6)]:
    given = answers(knows)
    measure(work, NAME, len(given), lambda: DawidSkene(n_iter=steps, tol=tolerance).fit(given))
