"""The truth behind 25,000 answers: 5,000 tasks of five classes, five of twenty people each, who are right with 0.75 and
otherwise guess."""

from importlib.metadata import version

import numpy as np
import pandas as pd
from crowdkit.aggregation import DawidSkene
from timing import measure

TASKS, PEOPLE, CLASSES, OVERLAP = 5_000, 20, 5, 5
noise = np.random.default_rng(92)
truth = np.repeat(noise.integers(0, CLASSES, TASKS), OVERLAP)
who = np.concatenate([noise.choice(PEOPLE, OVERLAP, replace=False) for _ in range(TASKS)])
guesses = noise.integers(0, CLASSES, len(truth))
answers = pd.DataFrame({
    "task": np.repeat(np.arange(TASKS), OVERLAP),
    "worker": who,
    "label": np.where(noise.uniform(size=len(truth)) < 0.75, truth, guesses),
})
NAME = f"crowd-kit {version('crowd-kit')}"
measure("20 iterations", NAME, len(answers), lambda: DawidSkene(n_iter=20, tol=0).fit(answers))
measure("to the end", NAME, len(answers), lambda: DawidSkene(n_iter=100, tol=1e-6).fit(answers))
