"""Rules of 32 columns on 100,000 rows by pandera on polars, and on 20,000 rows one by one by jsonschema-rs and pydantic. The
rules and the data are those of `quality.rs`."""

import json
from importlib.metadata import version
from typing import Annotated, Literal, Optional

import jsonschema_rs
import pandera.polars as pa
import polars as pl
import pydantic
from rows import NUMBER, WHOLE, WORDS, mixed
from timing import measure

ROWS, TEXTS = 100_000, 20_000


def columns(broken):
    made = {name: pl.Series(values.tolist()) for name, values in mixed(ROWS, broken).items()}
    return pl.DataFrame(made).with_columns(pl.col("^q.$").fill_nan(None))


number, whole = pa.Check.in_range(*NUMBER), pa.Check.in_range(*WHOLE)
rules = {f"f{j}": pa.Column(pl.Float64, number) for j in range(16)}
rules |= {f"i{j}": pa.Column(pl.Int64, whole) for j in range(8)}
rules |= {f"s{j}": pa.Column(pl.String, pa.Check.isin(WORDS)) for j in range(4)}
rules |= {f"q{j}": pa.Column(pl.Float64, number, nullable=True) for j in range(4)}
rules = pa.DataFrameSchema(rules)


def broken_by(frame):
    try:
        rules.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as found:
        return len(found.failure_cases)
    return 0


good, bad = columns(False), columns(True)
assert broken_by(good) == 0 and broken_by(bad) == 334
pandera = f"pandera {version('pandera')} on polars {pl.__version__}"
measure("pandera, all good", pandera, ROWS, lambda: broken_by(good))
measure("pandera, 0.3 % bad", pandera, ROWS, lambda: broken_by(bad))
measure("pandera, completeness, duplicates", pandera + ", `null_count`, `is_duplicated`", ROWS,
        lambda: (broken_by(bad), bad.null_count(), bad.is_duplicated().sum()))

Number = Annotated[float, pydantic.Field(ge=-8, le=8)]
fields = {f"f{j}": Number for j in range(16)}
fields |= {f"i{j}": Annotated[int, pydantic.Field(ge=0, le=100)] for j in range(8)}
fields |= {f"s{j}": Literal[tuple(WORDS)] for j in range(4)}
fields |= {f"q{j}": Optional[Number] for j in range(4)}
Model = pydantic.create_model("Model", **{name: (kind, ...) for name, kind in fields.items()})
span = {"type": "number", "minimum": -8, "maximum": 8}
properties = {f"f{j}": span for j in range(16)}
properties |= {f"i{j}": {"type": "integer", "minimum": 0, "maximum": 100} for j in range(8)}
properties |= {f"s{j}": {"enum": WORDS} for j in range(4)}
properties |= {f"q{j}": {"anyOf": [{"type": "null"}, span]} for j in range(4)}
validator = jsonschema_rs.validator_for({"type": "object", "properties": properties, "required": list(properties)})
values = bad.head(TEXTS).to_dicts()
texts = [json.dumps(value) for value in values]


def refused(validate, rows):
    count = 0
    for row in rows:
        try:
            validate(row)
        except pydantic.ValidationError:
            count += 1
    return count


def invalid():
    return sum(not validator.is_valid(value) for value in values)


assert invalid() == refused(Model.model_validate, values) == 67
measure("jsonschema-rs", f"jsonschema-rs {version('jsonschema-rs')}", TEXTS, invalid)
PYDANTIC = f"pydantic {version('pydantic')}"
measure("pydantic", PYDANTIC, TEXTS, lambda: refused(Model.model_validate, values))
measure("pydantic, text", PYDANTIC, TEXTS, lambda: refused(Model.model_validate_json, texts))
