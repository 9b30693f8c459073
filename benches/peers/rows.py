"""Rows as the Rust benchmarks make them: normal columns with something in common, and columns of several kinds."""

import numpy as np

# Rows of the reference that detectors compare with.
REFERENCE = 4_096


def rows(count, width, seed=42):
    noise = np.random.default_rng(seed)
    return 0.5 * noise.standard_normal((count, 1)) + noise.standard_normal((count, width))


WORDS = ["red", "green", "blue", "cyan", "pink", "grey", "teal", "gold"]
# What the rules ask of numbers and of whole numbers.
NUMBER, WHOLE = (-8, 8), (0, 100)


def mixed(count, broken):
    """The columns of `quality.rs` by name: 16 numbers, 8 whole numbers, 4 words, 4 numbers of which 5 % are missing (NaN);
    every 300th row breaks one rule if `broken`."""
    noise = np.random.default_rng(42)
    made = {f"f{j}": noise.standard_normal(count) for j in range(16)}
    made |= {f"i{j}": noise.integers(*WHOLE, count, endpoint=True) for j in range(8)}
    made |= {f"s{j}": np.array(WORDS, dtype=object)[noise.integers(0, len(WORDS), count)] for j in range(4)}
    made |= {f"q{j}": np.where(noise.uniform(size=count) < 0.05, np.nan, noise.standard_normal(count)) for j in range(4)}
    if broken:
        made["f3"][0::900], made["i2"][300::900], made["s1"][600::900] = 99.0, -5, "mauve"
    return made
