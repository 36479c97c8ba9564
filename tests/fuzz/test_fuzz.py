"""Seeded random calls of the operations, against their oracles.

A failure names its seed; GOSSAMER_FUZZ_SEED=<seed> runs that case alone. `make fuzz` draws new
seeds for GOSSAMER_FUZZ_SECONDS=<s>; without it, the same thousand seeds run every time, and a part
of them at each lower ISA level.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import gossamer
import numpy as np
import pytest
from cases import CASES

FEW = 1000


def seeds() -> Iterator[int]:
    if chosen := os.environ.get("GOSSAMER_FUZZ_SEED"):
        yield int(chosen)
        return
    # The best ISA level draws all; of the lower ones each draws others of them.
    isa, levels = gossamer.info()["isa"], gossamer.info()["available_isas"]
    below = levels.index(isa)
    yield from range(FEW) if isa == levels[-1] else range(below, FEW, len(levels) - 1)
    end = time.monotonic() + float(os.environ.get("GOSSAMER_FUZZ_SECONDS", "0")) / len(CASES)
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    while time.monotonic() < end:
        seed += 1
        yield seed


@pytest.mark.parametrize("name", CASES)
def test_random_calls(name: str) -> None:
    for seed in seeds():
        try:
            CASES[name](np.random.default_rng([seed, *name.encode()]))
        except BaseException as error:
            error.add_note(f"GOSSAMER_FUZZ_SEED={seed}, case {name}")
            raise
