"""Reads a batch with pyarrow, pandas and DuckDB and checks every type and the cells that could go wrong."""

import datetime
import math
import sys

import duckdb
import pandas
import pyarrow
import pyarrow.parquet

path = sys.argv[1]

table = pyarrow.parquet.read_table(path)
string, double = pyarrow.string(), pyarrow.float64()
moment = pyarrow.timestamp("us", tz="UTC")
types = {
    "amount": double, "count": double, "member": pyarrow.bool_(), "country": string, "weight": string, "at": moment,
    "vector": pyarrow.list_(pyarrow.field("element", double)), "label": string, "_weight": double, "sample": string, "time": moment,
    "source": string, "lane": string, "inclusion": double, "split": string,
}
assert {field.name: field.type for field in table.schema} == types, table.schema
rows = table.to_pylist()
assert rows[0]["weight"] == 'so "it" is, ünï' and rows[0]["vector"] == [1.5, -2.0]
assert rows[0]["at"] == datetime.datetime(2023, 11, 14, 22, 13, 20, 250000, tzinfo=datetime.timezone.utc)
assert rows[0]["time"].microsecond == 250001
assert [row["label"] for row in rows] == ["good", "fraud", "good", "fraud"]
assert [row["_weight"] for row in rows] == [1.0, 1.5, 2.0, 2.5]
assert rows[1]["country"] == "__unseen__" and rows[1]["weight"] == "" and rows[1]["count"] is None
assert all(rows[2][name] is None for name in list(types)[:7])
assert rows[3]["amount"] == math.inf and rows[3]["vector"] == [None, 4.0]

frame = pandas.read_parquet(path)
assert frame["amount"].dtype == "float64" and math.isnan(frame["amount"][2]) and frame["amount"][3] == math.inf
assert str(frame["time"].dt.tz) == "UTC"
assert list(frame["split"]) == ["train", "judge", "train", "train"]

lake = duckdb.connect()
query = f"select country, count(*), sum(_weight) from '{path}' group by country order by country nulls last"
assert lake.sql(query).fetchall() == [("FR", 1, 1.0), ("__unseen__", 1, 1.5), (None, 2, 4.5)], lake.sql(query)
whole = lake.sql(f"from '{path}'")
kinds = {name: str(kind) for name, kind in zip(whole.columns, whole.types)}
assert kinds["amount"] == "DOUBLE" and kinds["label"] == "VARCHAR" and kinds["vector"] == "DOUBLE[]", kinds
assert kinds["time"] == "TIMESTAMP WITH TIME ZONE", kinds
assert lake.sql(f"select vector[1], epoch_us(time) from '{path}' where count = 7").fetchall() == [(None, 1_700_000_000_250_001)]

print("pyarrow, pandas and duckdb agree")
