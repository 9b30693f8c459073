"""The two-sample Kolmogorov-Smirnov test by frouros: of a window of 1,000, and kept up to date with every value."""

from importlib.metadata import version

from frouros.detectors.data_drift import IncrementalKSTest, KSTest
from rows import REFERENCE, rows
from timing import measure, wanted

NAME = f"frouros {version('frouros')}"
WINDOW = 1_000
window = rows(WINDOW, 1, seed=7)[:, 0]
for size in (REFERENCE, 10_000):
    test = KSTest()
    test.fit(X=rows(size, 1)[:, 0])
    measure(f"frouros/{size}", NAME, WINDOW, lambda: test.compare(X=window))


def feed(test, values):
    for value in values:
        test.update(value=value)


for size, more in ((100, 200), (1_000, 40)):
    if not wanted(f"incremental/{size}"):
        continue
    test, values = IncrementalKSTest(window_size=size), rows(size + more, 1, seed=8)[:, 0]
    test.fit(X=rows(REFERENCE, 1)[:, 0])
    feed(test, values[:size])
    measure(f"incremental/{size}", NAME, more, lambda: feed(test, values[size:]))
