"""Rules of 32 columns on 100,000 rows by pandera on pandas. The rules and the data are those of `quality.rs`."""

from importlib.metadata import version

import pandas as pd
import pandera.pandas as pa
from rows import NUMBER, WHOLE, WORDS, mixed
from timing import measure

ROWS = 100_000
number, whole = pa.Check.in_range(*NUMBER), pa.Check.in_range(*WHOLE)
rules = {f"f{j}": pa.Column(float, number) for j in range(16)}
rules |= {f"i{j}": pa.Column("int64", whole) for j in range(8)}
rules |= {f"s{j}": pa.Column(str, pa.Check.isin(WORDS)) for j in range(4)}
rules |= {f"q{j}": pa.Column(float, number, nullable=True) for j in range(4)}
rules = pa.DataFrameSchema(rules)


def broken_by(frame):
    try:
        rules.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as found:
        return len(found.failure_cases)
    return 0


NAME = f"pandera {version('pandera')} on pandas {pd.__version__}"
for work, broken in [("all good", False), ("0.3 % bad", True)]:
    frame = pd.DataFrame(mixed(ROWS, broken))
    assert broken_by(frame) == (334 if broken else 0)
    measure(work, NAME, ROWS, lambda: broken_by(frame))
