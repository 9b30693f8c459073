"""Trains a logistic regression for feedloop: the other side of `feedloop::CommandTrainer`.

The manifest that FEEDLOOP_MANIFEST names tells what to train on: the base data and the batches, each a directory with
`manifest.json` and `data.parquet`, and how many of the newest rows the loop takes of them. The rows are checked against the
digests in the manifests, then scikit-learn fits them. The model goes to FEEDLOOP_OUTPUT/model as JSON: what is filled in for
a missing value, mean and scale of each column, and coefficients and intercept of each class.

Needs pyarrow and scikit-learn. What it prints is in the run's record; any mistake ends it with a code other than 0, and the
run fails with that code and the text.
"""

import hashlib
import json
import os
import pathlib
import sys

import numpy
import pyarrow
import pyarrow.parquet
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NUMERIC = {"number", "integer", "boolean"}


def read(reference):
    """The rows of the base data or of a batch, which must be what its manifest says."""
    if "path" not in reference:
        sys.exit(f"{reference['id']} is not on disk: give the pipeline a directory and an export directory")
    directory = pathlib.Path(reference["path"])
    manifest = json.loads((directory / "manifest.json").read_text())
    data = (directory / "data.parquet").read_bytes()
    if hashlib.sha256(data).hexdigest() != manifest["files"]["data.parquet"]:
        sys.exit(f"{directory / 'data.parquet'} is not what its manifest says")
    return pyarrow.parquet.read_table(pyarrow.BufferReader(data))


def rows_of(job):
    """The rows of the job, oldest first."""
    dataset = job["dataset"]
    if dataset["recipe"] != "all":
        # Other recipes weigh or choose in ways of their own: their rows are in a file of the job.
        return pyarrow.parquet.read_table(next(path for path in job["data"] if path.endswith(".parquet")))
    parts = [read(part) for part in [dataset["base"], *dataset["batches"]] if part]
    table = pyarrow.concat_tables(parts, promote_options="default")
    return table.slice(max(0, len(table) - job["rows"]))


def kind_of(field):
    return field["kind"] if isinstance(field["kind"], str) else next(iter(field["kind"]))


job = json.loads(pathlib.Path(os.environ["FEEDLOOP_MANIFEST"]).read_text())
fields = job["schema"]["fields"]
unusable = [field["name"] for field in fields if kind_of(field) not in NUMERIC]
if unusable:
    sys.exit(f"this script knows numbers only, not {', '.join(unusable)}: one-hot encode categories, leave texts out")
names = [field["name"] for field in fields]
if not isinstance(job["schema"]["target"], dict):
    sys.exit("this script knows classes only: a value takes a regression")
classes = job["schema"]["target"]["classes"]

table = rows_of(job)
columns = [table.column(name).cast("float64").to_numpy(zero_copy_only=False) for name in names]
inputs = numpy.column_stack(columns).astype(float)
inputs[~numpy.isfinite(inputs)] = numpy.nan
labels = table.column(job["columns"]["label"]).to_numpy(zero_copy_only=False)
weights = table.column(job["columns"]["weight"]).to_numpy()
if len(inputs) != job["rows"]:
    sys.exit(f"{len(inputs)} rows were found, {job['rows']} were expected")
print(f"{job['key']}: {len(inputs)} rows, {len(job['dataset']['batches'])} batches")

model = make_pipeline(
    SimpleImputer(strategy="median", keep_empty_features=True),
    StandardScaler(),
    LogisticRegression(max_iter=1000, random_state=job["seed"] % 2**32),
)
model.fit(inputs, labels, logisticregression__sample_weight=weights)
imputer, scaler, regression = (step for _, step in model.steps)
print(f"accuracy on its own rows: {model.score(inputs, labels, sample_weight=weights):.3f}")

# Two classes have one row of coefficients, that of the second.
coefficients, intercepts = regression.coef_, regression.intercept_
if len(regression.classes_) == 2:
    coefficients = numpy.vstack([numpy.zeros_like(coefficients), coefficients])
    intercepts = numpy.concatenate([[0.0], intercepts])
known = {name: index for index, name in enumerate(regression.classes_)}
# A class that was never seen gets next to no probability.
artifact = {
    "columns": names,
    "fill": imputer.statistics_.tolist(),
    "mean": scaler.mean_.tolist(),
    "scale": scaler.scale_.tolist(),
    "coefficients": [coefficients[known[name]].tolist() if name in known else [0.0] * len(names) for name in classes],
    "intercepts": [float(intercepts[known[name]]) if name in known else -50.0 for name in classes],
}
(pathlib.Path(os.environ["FEEDLOOP_OUTPUT"]) / "model").write_text(json.dumps(artifact))
