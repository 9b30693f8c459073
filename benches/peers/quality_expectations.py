"""Rules of 32 columns on 100,000 rows by Great Expectations: 60 expectations. The rules and the data are those of
`quality.rs`."""

import logging
import os

os.environ["GX_ANALYTICS_ENABLED"] = "False"  # or it reports its use to its makers
logging.disable(logging.CRITICAL)
import great_expectations as gx  # noqa: E402
import pandas as pd  # noqa: E402
from great_expectations import expectations as expect  # noqa: E402
from rows import NUMBER, WHOLE, WORDS, mixed  # noqa: E402
from timing import measure  # noqa: E402

ROWS = 100_000
context = gx.get_context(mode="ephemeral")
context.variables.progress_bars = {"globally": False}
whole_frame = context.data_sources.add_pandas("data").add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")


def rules(name):
    kind = name[0]
    if kind == "s":
        yield expect.ExpectColumnValuesToBeInSet(column=name, value_set=WORDS)
    else:
        low, high = WHOLE if kind == "i" else NUMBER
        yield expect.ExpectColumnValuesToBeBetween(column=name, min_value=low, max_value=high)
    if kind != "q":
        yield expect.ExpectColumnValuesToNotBeNull(column=name)


def broken_by(batch, suite):
    return sum(found.result["unexpected_count"] for found in batch.validate(suite).results)


for work, broken in [("all good", False), ("0.3 % bad", True)]:
    frame = pd.DataFrame(mixed(ROWS, broken))
    suite = gx.ExpectationSuite(name=work, expectations=[rule for name in frame for rule in rules(name)])
    batch = whole_frame.get_batch({"dataframe": frame})
    assert broken_by(batch, suite) == (334 if broken else 0)
    measure(work, f"Great Expectations {gx.__version__}", ROWS, lambda: broken_by(batch, suite))
