"""River's detectors of a signal on streams without change, value by value."""

import numpy as np
import river
from river import drift
from river.drift import binary
from timing import measure

VALUES = 100_000
noise = np.random.default_rng(42)
numbers = noise.standard_normal(VALUES).tolist()
errors = (noise.uniform(size=VALUES) < 0.1).tolist()


def feed(detector, values):
    for value in values:
        detector.update(value)


for name, make, values in [
    ("adwin", drift.ADWIN, numbers),
    ("page_hinkley", drift.PageHinkley, numbers),
    ("kswin", lambda: drift.KSWIN(seed=1), numbers[:2_000]),
    ("ddm", binary.DDM, errors),
    ("eddm", binary.EDDM, errors),
    ("hddm_a", binary.HDDM_A if hasattr(binary, "HDDM_A") else binary.HDDMA, errors),
    ("hddm_w", binary.HDDM_W if hasattr(binary, "HDDM_W") else binary.HDDMW, errors),
]:
    measure(name, f"river {river.__version__}", len(values), lambda made: feed(made, values), prepare=make)
