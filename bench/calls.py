"""What a whole call costs on an 8×8 matrix in float32: the best of many, on one thread.

python bench/calls.py            # print the table
python bench/calls.py --write    # put it into docs/performance.md
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import gossamer
import numpy as np
from report import ROOT, fill, table

N = 8


def calls() -> dict[str, Callable[[], Any]]:
    b, out, bias = np.ones((N, N), "f"), np.empty((N, N), "f"), np.ones(N, "f")
    a = gossamer.CSR.from_dense(np.eye(N, dtype="f"))
    found: dict[str, Callable[[], Any]] = {
        "`spmm`, NumPy": lambda: gossamer.spmm(a, b),
        "`spmm` with `out=`, NumPy": lambda: gossamer.spmm(a, b, out=out),
        "`linear` with bias and ReLU, NumPy": lambda: gossamer.linear(
            b, a, bias=bias, activation="relu"
        ),
    }
    if find_spec("torch"):
        import torch

        torch.set_num_threads(1)
        tb, tout = torch.ones(N, N), torch.empty(N, N)
        ta = gossamer.CSR.from_dense(torch.eye(N))
        sparse = torch.eye(N).to_sparse_csr()
        found["`spmm`, PyTorch"] = lambda: gossamer.spmm(ta, tb)
        found["`spmm` with `out=`, PyTorch"] = lambda: gossamer.spmm(ta, tb, out=tout)
        found["for comparison, PyTorch's `F.linear` on its CSR"] = lambda: (
            torch.nn.functional.linear(tb, sparse)
        )
    if find_spec("jax"):
        import jax.numpy as jnp

        jb, ja = jnp.ones((N, N), jnp.float32), gossamer.CSR.from_dense(jnp.eye(N))
        found["`spmm`, JAX"] = lambda: gossamer.spmm(ja, jb)
    found["for comparison, NumPy's `b @ b`"] = lambda: b @ b
    return found


def microseconds(call: Callable[[], Any]) -> float:
    call()
    timer = timeit.Timer(call)
    repeat = max(1, int(0.01 / max(timer.timeit(20) / 20, 1e-7)))
    return 1e6 * min(timer.repeat(30, repeat)) / repeat


def main() -> None:
    gossamer.set_num_threads(1)
    found = calls()
    rows = [[name, f"{microseconds(found[name]):.1f}"] for name in sorted(found, key=_order)]
    lines = table(["call", "µs"], rows)
    print("\n".join(lines))
    if "--write" in sys.argv[1:]:
        fill(ROOT / "docs" / "performance.md", {"calls": lines})


def _order(name: str) -> bool:
    return name.startswith("for comparison")


if __name__ == "__main__":
    main()
