"""What the scripts of the peers share: processor time of this process, and one JSON line per piece of work.

    python SCRIPT [--quick] [WORK ...]    # all works unless told
"""

import json
import sys
import time
from statistics import median

QUICK = "--quick" in sys.argv
WANTED = [told for told in sys.argv[1:] if not told.startswith("--")]
# Seconds of processor time for one piece of work, and how often it is repeated at least and at most.
BUDGET, LEAST, MOST = (1.0, 2, 5) if QUICK else (4.0, 3, 15)


def wanted(*works):
    """Whether one of these was asked for: costly preparations may be left out if not."""
    return not WANTED or any(work in WANTED for work in works)


def measure(work, peer, items, do, prepare=None):
    """Repeats `do` on `items` items, told what `prepare` made, and prints what one item costs in nanoseconds. The first
    repetition warms up and does not count, unless it takes the whole budget."""
    if not wanted(work):
        return

    def once():
        made = [prepare()] if prepare else []
        start = time.process_time()
        do(*made)
        return time.process_time() - start

    first = once()
    times = [first] if first > BUDGET else []
    while first <= BUDGET and (len(times) < LEAST or sum(times) < BUDGET and len(times) < MOST):
        times.append(once())
    per_item = [seconds / items * 1e9 for seconds in times]
    print(json.dumps({"work": work, "peer": peer, "least": min(per_item), "median": median(per_item)}), flush=True)
