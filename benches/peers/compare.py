#!/usr/bin/env python3
"""Our benchmarks and the same work by Python's libraries, in turns in one run, and the table of ratios.

    python benches/peers/compare.py                   # everything, three rounds
    python benches/peers/compare.py --only streams    # what has this in its name or in its group's
    python benches/peers/compare.py --quick           # one short round: does it all run?

A round measures ours of a group (`cargo bench`), then the peers of that group, and so on: the load of the machine and the
pace of its processor meet both alike. Both tell processor time, with one thread for the peers. The table has the least time
of all rounds for each side, per unit of work, and the ratio as the median over the rounds of peer by ours, least by least,
with its range.

The environments of the peers are made on first use, with the versions in `requirements*.txt`, below cargo's target directory
(or `--venv DIR`), by uv where it is installed, else by pip. Python 3.11 and the network are needed for that. What needs an
environment that cannot be made is left out, and named at the end.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ONE_THREAD = ["OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA", "RAYON"]


@dataclass(frozen=True)
class Row:
    """One line of the table: `ours` is the id of a criterion benchmark, `peer` a work of the group's script. Times are per
    element of criterion's throughput, times `unit`."""

    work: str
    ours: str
    peer: str
    target: str = ""
    unit: int = 1


@dataclass(frozen=True)
class Group:
    """`bench` runs ours, `script` the peers, in the environment of that name."""

    bench: str
    script: str
    rows: tuple
    environment: str = "main"

    def name(self):
        return self.script.removesuffix(".py")


def mahalanobis(width, nanoseconds, by):
    batch, chunk = f"Mahalanobis, d = {width}, per row of a batch", f"detectors/mahalanobis/{width}"
    one, guard = f"Mahalanobis, d = {width}, one row (ours in a guard)", f"guards/mahalanobis/{width}"
    robust = () if width > 128 else (
        Row(f"{batch}, the peer's covariance robust", chunk, f"pyod/{width}"),
        Row(f"{one}, the peer's covariance robust", guard, f"pyod row/{width}"),
    )
    return (Row(batch, chunk, f"batch/{width}", f"≥ {by} ×"), Row(batch, chunk, f"sklearn/{width}", "≥ 5 ×"),
            Row(one, guard, f"row/{width}", f"≤ {nanoseconds:,} ns"), Row(one, guard, f"sklearn row/{width}"), *robust)


def learning_mahalanobis(width):
    work = f"Mahalanobis, d = {width}, the peer learns from the rows, too"
    return (Row(f"{work}: in batches", f"detectors/mahalanobis/{width}", f"batch/{width}"),
            Row(f"{work}: one row (ours in a guard)", f"guards/mahalanobis/{width}", f"row/{width}"))


def ks(peer, target="≤ 60 µs", peers_part="both with p-value"):
    """Against as many rows as our reference keeps, and against the 10,000 of which it would be a sample."""
    ours = "detectors/KolmogorovSmirnov with p-value/1"
    return (Row(f"two-sample KS, 1,000 against 4,096, {peers_part}", ours, f"{peer}/4096", target, 1_000),
            Row(f"two-sample KS, 1,000 against 10,000 (ours: a sample of 4,096), {peers_part}", ours, f"{peer}/10000", target,
                1_000))


def incremental_ks(window):
    return Row(f"KS up to date with every value, window {window:,} against 4,096 (ours: p-value where it matters)",
               f"detectors/KolmogorovSmirnov of the last {window}/1", f"incremental/{window}", "≤ 200 ns, ≥ 2,000 ×")


def drift_report(peer, prepared=False):
    work, ours = "drift report, 10,000 against 10,000 (ours: a sample of 4,096), 32 columns", "drift report/every column moved"
    if prepared:
        return Row(f"{work}, the reference prepared", ours, peer, "≤ 20 ms")
    return Row(f"{work}, from the rows", f"{ours}, the reference from its rows", peer, "≤ 20 ms")


def schema(target="≤ 100 ns", peer=""):
    return (Row("schema, 32 columns, all rows sound", "quality/schema, all good", f"{peer}all good", target),
            Row("schema, 0.3 % broken", "quality/schema, 0.3 % bad", f"{peer}0.3 % bad", target))


def stream(name, work, target):
    return Row(f"{work}, per value", f"streams/{name}", name, f"≤ {target} ns")


# What is compared with what. Where our benchmark does more than the peer, or less, the work says so.
GROUPS = (
    Group("detectors", "mahalanobis.py", (
        *mahalanobis(8, 30, 1.5), *mahalanobis(32, 120, 1.5), *mahalanobis(128, 1_900, 1.5), *mahalanobis(512, 35_000, 1),
    )),
    Group("detectors", "mahalanobis_alibi.py", tuple(
        row for width in (8, 32, 128, 512) for row in learning_mahalanobis(width)
    ), "alibi"),
    Group("detectors", "ks.py", (
        *ks("numpy", "≥ 2.5 ×, ≤ 60 µs", "the peer without p-value"), *ks("scipy", "≥ 25 ×, ≤ 60 µs"),
    )),
    Group("detectors", "drift_alibi.py", ks("alibi"), "alibi"),
    Group("detectors", "drift_evidently.py", ks("evidently"), "evidently"),
    Group("detectors", "drift_frouros.py", (*ks("frouros"), incremental_ks(100), incremental_ks(1_000)), "frouros"),
    Group("reference", "profiles.py", (
        Row("profile of 32 numbers, per row", "reference/numbers", "whylogs", "≥ 30 ×, ≤ 1.5 µs"),
    ), "whylogs"),
    Group("reference", "profiles_tfdv.py", (
        Row("profile of 32 numbers, per row", "reference/numbers", "tfdv", "≥ 5 ×, ≤ 1.5 µs"),
    ), "tfdv"),
    Group("reference", "sketches.py", (
        Row("profile of 32 numbers, per row (the peer: quantiles only)", "reference/numbers", "kll", "≤ 1.5 µs"),
    )),
    Group("reference", "drift_report.py", (drift_report("scipy"), drift_report("nannyml", prepared=True)), "nannyml"),
    Group("reference", "drift_alibi.py", (drift_report("report", prepared=True),), "alibi"),
    Group("reference", "drift_deepchecks.py", (drift_report("report"),), "deepchecks"),
    Group("reference", "drift_evidently.py", (drift_report("report"),), "evidently"),
    Group("streams", "streams.py", (
        stream("adwin", "ADWIN", 40), stream("page_hinkley", "Page–Hinkley", 8), stream("ddm", "DDM", 8),
        stream("eddm", "EDDM", 10), stream("hddm_a", "HDDM-A", 15), stream("hddm_w", "HDDM-W", 20),
        stream("kswin", "KSWIN", 200),
    )),
    Group("detectors", "trees.py", (
        Row("isolation forest, 100 trees, d = 32, per row", "detectors/isolation_forest/32", "isolation forest", "≤ 2 µs"),
        Row("isolation forest, the peer one by one", "detectors/isolation_forest/32", "isolation forest, one by one", "≤ 2 µs"),
        Row("ECOD, d = 32, per row", "detectors/ecod/32", "ecod", "≤ 1.5 µs"),
        Row("ECOD, the peer one by one", "detectors/ecod/32", "ecod, one by one", "≤ 1.5 µs"),
    )),
    Group("quality", "quality.py", (
        *schema("≤ 100 ns, ≥ 7 ×", "pandera, "),
        Row("schema, completeness and duplicates", "quality/schema, completeness and exact duplicates",
            "pandera, completeness, duplicates"),
        Row("a row as JSON value or dictionary: encode and check", "quality/encode a JSON value and check",
            "jsonschema-rs"),
        Row("a row as JSON value or dictionary: encode and check", "quality/encode a JSON value and check", "pydantic"),
        Row("a row as JSON text: parse, encode and check", "quality/parse JSON text, encode and check", "pydantic, text"),
    )),
    Group("quality", "quality_pandas.py", schema()),
    Group("quality", "quality_expectations.py", schema(), "expectations"),
    Group("detectors", "divergence.py", (
        Row("population stability, 1,000 against 4,096, per value", "detectors/PopulationStability alone/1", "psi/1000",
            "≤ 6 ns"),
        Row("Jensen–Shannon, the same", "detectors/JensenShannon alone/1", "js/1000", "≤ 6 ns"),
        Row("Hellinger, the same", "detectors/Hellinger alone/1", "hellinger/1000", "≤ 6 ns"),
        Row("Wasserstein-1, the same (ours with a permutation test)", "detectors/Wasserstein/1", "wasserstein/1000",
            "≤ 45 ns"),
        Row("Wasserstein-1 alone, 100,000 against 4,096, per value", "detectors/Wasserstein of 100,000 alone/1",
            "wasserstein/100000", "≤ 45 ns"),
    )),
    Group("detectors", "divergence_nannyml.py", (
        Row("Wasserstein-1 alone, 100,000 against 4,096, per value (the peer: in bins)",
            "detectors/Wasserstein of 100,000 alone/1", "wasserstein", "≤ 45 ns"),
    ), "nannyml"),
    Group("evaluation", "cbpe.py", (
        Row("CBPE, 100,000 outputs in ten windows", "evaluation/estimated performance", "cbpe", "≤ 20 ms", 100_000),
    ), "nannyml"),
    Group("labels", "labels.py", (
        Row("confident learning by noise rate, 50,000 × 10", "labels/label_issues/prune_by_noise_rate/50000x10",
            "prune_by_noise_rate", "≤ 5 ms", 50_000),
        Row("confident learning by the confident joint", "labels/label_issues/confident_learning/50000x10", "confident_learning",
            "≤ 5 ms", 50_000),
    )),
    Group("labels", "dawid_skene.py", (
        Row("Dawid–Skene until it moves by 1e-6, 25,000 answers", "labels/PooledLabels/25000", "to the end", "≤ 10 ms", 25_000),
        Row("Dawid–Skene, 20 iterations, 25,000 answers", "labels/PooledLabels/25000, 20 steps", "20 iterations", "≤ 10 ms",
            25_000),
        Row("the first, ours read from the store", "labels/pooled_labels/25000", "to the end", unit=25_000),
        Row("the second, ours read from the store", "labels/pooled_labels/25000, 20 steps", "20 iterations", unit=25_000),
    ), "crowd"),
    Group("evaluation", "evaluation.py", (
        Row("two models, 100,000 rows, 1,000 resamples, 21 slices: accuracy", "evaluation/accuracy", "accuracy",
            unit=100_000),
        Row("two models, the same: log loss", "evaluation/log loss", "log loss", unit=100_000),
    )),
)


def target_directory():
    told = subprocess.run(["cargo", "metadata", "--format-version=1", "--no-deps"], cwd=ROOT, check=True,
                          stdout=subprocess.PIPE)
    return Path(json.loads(told.stdout)["target_directory"])


def environment(folder, name):
    """The interpreter of an environment, which is made, or brought up to date, if its requirements have changed."""
    requirements = HERE / ("requirements.txt" if name == "main" else f"requirements-{name}.txt")
    python, stamp = folder / name / "bin" / "python", folder / name / "requirements.sha256"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted):
        print(f"making the environment {name}", file=sys.stderr, flush=True)
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
        if shutil.which("uv"):
            pip = ["uv", "pip", "install", "--python", python]
        subprocess.run([*pip, "--quiet", "--requirement", requirements], check=True)
        stamp.write_text(wanted)
    return python


def ours(bench, ids, quick, target, profile):
    """By id: the least and the median time per element, in nanoseconds. Without ids it is only built."""
    command = ["cargo", "bench", "--quiet", "--profile", profile, "--bench", bench]
    if not ids:
        subprocess.run([*command, "--no-run"], cwd=ROOT, check=True)
        return {}
    short = ["--warm-up-time", "0.1", "--measurement-time", "0.3"] if quick else []
    started = time.time()
    wanted = "^(" + "|".join(re.escape(one) for one in ids) + ")$"
    said = subprocess.run([*command, "--", "--noplot", *short, wanted], cwd=ROOT, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True)
    if said.returncode:
        print(said.stderr, file=sys.stderr)
        said.check_returncode()
    found = {}
    for file in (target / "criterion").glob("**/new/benchmark.json"):
        if file.stat().st_mtime < started - 1:
            continue
        told, sample = json.loads(file.read_text()), json.loads((file.parent / "sample.json").read_text())
        elements = (told.get("throughput") or {}).get("Elements", 1)
        per_element = [time / times / elements for time, times in zip(sample["times"], sample["iters"])]
        found[told["full_id"]] = (min(per_element), median(per_element))
    return found


def theirs(python, script, works, quick):
    """By work: the peer's name, the least and the median time per item, in nanoseconds."""
    one = {f"{library}_NUM_THREADS": "1" for library in ONE_THREAD} | {"POLARS_MAX_THREADS": "1"}
    command = [python, HERE / script, *(["--quick"] if quick else []), *works]
    told = subprocess.run(command, env=os.environ | one, check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    return {line["work"]: (line["peer"], line["least"], line["median"]) for line in lines}


def compare(group, rows, rounds, python, quick, target, profile):
    """By row: the rounds, each ours and theirs."""
    found = {row: [] for row in rows}
    ids, works = sorted({row.ours for row in rows}), sorted({row.peer for row in rows})
    for _ in range(rounds):
        mine = ours(group.bench, ids, quick, target, profile)
        peers = theirs(python, group.script, works, quick)
        for row in rows:
            if row.ours in mine and row.peer in peers:
                found[row].append((mine[row.ours], peers[row.peer]))
    return found


def duration(nanoseconds):
    for limit, unit in ((1e3, "ns"), (1e6, "µs"), (1e9, "ms"), (float("inf"), "s")):
        if nanoseconds < limit:
            return f"{nanoseconds / limit * 1e3 if limit < float('inf') else nanoseconds / 1e9:.3g} {unit}"


def line(row, rounds):
    if not rounds:
        return f"| {row.work} | not found | | | {row.target} |"
    mine, peer = min(mine[0] for mine, _ in rounds), min(peer[1] for _, peer in rounds)
    ratios = sorted(peer[1] / mine[0] for mine, peer in rounds)
    spread = f" ({ratios[0]:.3g} to {ratios[-1]:.3g})" if len(ratios) > 1 else ""
    cells = (row.work, duration(mine * row.unit), f"{duration(peer * row.unit)}, {rounds[0][1][0]}",
             f"{median(ratios):.3g}{spread}", row.target)
    return f"| {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="what has this in its name, or in the name of its script")
    parser.add_argument("--rounds", type=int, help="three unless told, one if --quick")
    parser.add_argument("--quick", action="store_true", help="short samples")
    parser.add_argument("--venv", type=Path, help="where the environments are")
    parser.add_argument("--profile", default="bench", help="cargo's profile for ours; release may be built already")
    parser.add_argument("--json", type=Path, help="a file for the times of every round, too")
    told = parser.parse_args()

    target = target_directory()
    folder = (told.venv or target / "peers").absolute()
    rounds = told.rounds or (1 if told.quick else 3)
    wanted = []
    for group in GROUPS:
        rows = [row for row in group.rows if told.only.lower() in f"{group.name()} {row.work}".lower()]
        if rows:
            wanted.append((group, rows))
    if not wanted:
        names = ", ".join(dict.fromkeys(group.name() for group in GROUPS))
        parser.error(f"nothing has {told.only!r} in its name; groups: {names}")
    every, failed, unbuilt, pythons = {}, [], set(), {}
    for name in sorted({group.environment for group, _ in wanted}):
        try:
            pythons[name] = environment(folder, name)
        except (subprocess.CalledProcessError, OSError) as error:
            failed.append(f"the environment {name} could not be made: {error}")
    for bench in {group.bench for group, _ in wanted}:
        try:
            ours(bench, [], told.quick, target, told.profile)
        except subprocess.CalledProcessError as error:
            failed.append(f"{bench}: {error}")
            unbuilt.add(bench)

    print("| work | ours | peer | ratio | target |\n|---|--:|--:|--:|---|", flush=True)
    for group, rows in wanted:
        if group.bench in unbuilt or group.environment not in pythons:
            failed.append(f"{group.name()}: not measured")
            continue
        try:
            found = compare(group, rows, rounds, pythons[group.environment], told.quick, target, told.profile)
        except subprocess.CalledProcessError as error:
            failed.append(f"{group.name()}: {error}")
            continue
        for row in rows:
            print(line(row, found[row]), flush=True)
            every[f"{group.name()}: {row.work} ({row.peer})"] = found[row]
        failed.extend(f"{group.name()}: {row.ours} or {row.peer} was not measured" for row in rows if not found[row])
    print("\nload", " ".join(f"{load:.1f}" for load in os.getloadavg()), file=sys.stderr)
    if told.json:
        told.json.write_text(json.dumps(every, indent=1) + "\n")
    for what in failed:
        print(what, file=sys.stderr)
    return len(failed) > 0


if __name__ == "__main__":
    sys.exit(main())
