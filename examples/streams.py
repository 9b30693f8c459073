"""Writes five drifting streams for the example `replay`, made by River's generators: python examples/streams.py DIRECTORY

    sea       20,000 rows, 3 features, 2 classes: the threshold changes three times, 10 % of the labels are noise
    hyper     20,000 rows, 10 features, 2 classes: six weights of the separating plane move slowly
    rbf       20,000 rows, 10 features, 4 classes: twenty centres move all the time
    agrawal   20,000 rows, 9 features, 2 classes: the rule changes twice, over some 500 rows
    sine      10,000 rows, 4 features, 2 classes: the rule turns round three times

Needs river 0.26.1 and numpy 2.4 (pip install river==0.26.1); other versions may draw other rows.
"""

import gzip
import pathlib
import sys

from river.datasets import synth


def alternate(make, variants, rows, width, seed):
    """One stream after the other, as long each, blended over some `width` rows."""
    stream = make(variants[-1])
    for variant in reversed(variants[:-1]):
        stream = synth.ConceptDriftStream(
            stream=make(variant), drift_stream=stream, position=rows // len(variants), width=width, seed=seed
        )
    return stream


def sea(variant):
    return synth.SEA(variant=variant, noise=0.1, seed=1 + variant)


def agrawal(variant):
    return synth.Agrawal(classification_function=variant, seed=1 + variant, perturbation=0.05)


def sine(variant):
    return synth.Sine(classification_function=variant, seed=1 + variant, has_noise=True)


STREAMS = {
    "sea": (20_000, alternate(sea, [0, 3, 1, 2], 20_000, 150, 5)),
    "hyper": (
        20_000,
        synth.Hyperplane(
            seed=3, n_features=10, n_drift_features=6, mag_change=0.002, noise_percentage=0.05, sigma=0.1
        ),
    ),
    "rbf": (
        20_000,
        synth.RandomRBFDrift(
            seed_model=4,
            seed_sample=4,
            n_classes=4,
            n_features=10,
            n_centroids=20,
            change_speed=0.0005,
            n_drift_centroids=20,
        ),
    ),
    "agrawal": (20_000, alternate(agrawal, [0, 3, 6], 20_000, 500, 6)),
    "sine": (10_000, alternate(sine, [0, 1, 0, 1], 10_000, 200, 8)),
}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    directory = pathlib.Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, (rows, stream) in STREAMS.items():
        path = directory / f"{name}.csv.gz"
        with gzip.open(path, "wt") as out:
            for number, (features, label) in enumerate(stream.take(rows)):
                if number == 0:
                    out.write(",".join(f"x{i}" for i in range(len(features))) + ",y\n")
                out.write(",".join(f"{float(value):.6g}" for value in features.values()) + f",{int(label)}\n")
        print(path)


if __name__ == "__main__":
    main()
