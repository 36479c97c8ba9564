"""A plugin of `gossamer bench` for test_bench.py: peers that are right, wrong or fail; an op."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from gossamer.bench.libraries import NUMPY, Library
from gossamer.bench.op import Case, Contender, Op, Parameter, Work


def _make(name: str, spoil: Any, process: str | None = None) -> Contender:
    def bind(case: Case, w: Any, inputs: dict[str, Any]) -> Any:
        return lambda: spoil(inputs["b"] @ w.T)

    return Contender(
        name=name,
        kind="sparse",
        library=Library(
            f"plugin-{process or name}", needs=("no_such_package",) if name == "absent" else ()
        ),
        hold=lambda case, matrix: matrix.dense(),
        bind=bind,
        result=lambda case, out: out,
    )


def _off_by_one_row(out: Any) -> Any:
    return np.roll(out, 1, axis=1)


def _last_row_lost(out: Any) -> Any:
    out[:, -1] = 0
    return out


def _not_a_number(out: Any) -> Any:
    out[0, 0] = np.nan
    return out


def _raise(out: Any) -> Any:
    raise RuntimeError("no kernel")


def _die(out: Any) -> Any:
    os._exit(3)


class CumulativeSum(Op):
    """An op that only this plugin knows, with a parameter of its own."""

    name = "cumsum"
    parameters = (
        Parameter("length", "positive integers [100]", "100,200", "100", parse=int, head="L"),
    )

    def inputs(self, case: Case) -> dict[str, Any]:
        return {"x": np.random.default_rng(case.seed).random(case["length"], np.float32)}

    def reference(self, case: Case, weights: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"sums": np.cumsum(inputs["x"], dtype=np.float64)}

    def error(
        self, case: Case, weights: Any, reference: dict[str, Any], result: Any, storage: str
    ) -> float:
        return float(abs(result - reference["sums"]).max() / (1e-6 * case["length"]))

    def work(self, case: Case, nnz: int) -> Work:
        return Work(case["length"], case["length"], 8 * case["length"], 0)

    def make_contenders(self) -> list[Contender]:
        def make(name: str, kind: str, function: Any) -> Contender:
            return Contender(
                name=name,
                kind=kind,
                library=NUMPY,
                hold=lambda case, weights: None,
                bind=lambda case, held, inputs: lambda: function(inputs["x"]),
                result=lambda case, out: out,
                dtypes=("f32",),
            )

        return [
            make("summed", "ours", np.cumsum),
            make("accumulated", "dense", np.add.accumulate),
            make("multiplied", "dense", np.cumprod),
        ]


OPS = [CumulativeSum()]
CONTENDERS = {
    "linear": [
        _make("right", lambda out: out),
        _make("rolled", _off_by_one_row),
        _make("short", _last_row_lost),
        _make("nan", _not_a_number),
        _make("misshapen", lambda out: out[:, :-1]),
        _make("raises", _raise),
        _make("beside", lambda out: out, "dies"),
        _make("dies", _die),
        _make("absent", lambda out: out),
    ]
}
