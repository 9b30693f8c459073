"""Isolation forest of 100 trees and ECOD at d = 32: in batch and one by one."""

import pyod
import sklearn
from pyod.models.ecod import ECOD
from rows import REFERENCE, rows
from sklearn.ensemble import IsolationForest
from timing import measure

WIDTH = 32
reference, batch = rows(REFERENCE, WIDTH), rows(10_000, WIDTH, seed=7)
forest = IsolationForest(n_estimators=100, random_state=1).fit(reference)
SKLEARN, PYOD = f"scikit-learn {sklearn.__version__}", f"pyod {pyod.__version__}"
measure("isolation forest", SKLEARN, len(batch), lambda: forest.score_samples(batch))
measure("isolation forest, one by one", SKLEARN, 50, lambda: [forest.score_samples(row[None]) for row in batch[:50]])
tails = ECOD().fit(reference)
measure("ecod", PYOD, len(batch), lambda: tails.decision_function(batch))
measure("ecod, one by one", PYOD, 10, lambda: [tails.decision_function(row[None]) for row in batch[:10]])
