"""A plugin of `gossamer bench` for test_bench.py: peers that are right, wrong, or fail."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from gossamer.bench.case import Case, Matrix
from gossamer.bench.contenders import Contender


def _make(name: str, spoil: Any) -> Contender:
    def weights(case: Case, matrix: Matrix) -> Any:
        return matrix.dense()

    def bind(case: Case, w: Any, inputs: dict[str, Any]) -> Any:
        return lambda: spoil(inputs["b"] @ w.T)

    return Contender(
        name=name,
        runtime=f"plugin-{name}",
        kind="sparse",
        ops=frozenset({"linear"}),
        weights=weights,
        bind=bind,
        result=lambda case, out: out,
        needs=("no_such_package",) if name == "absent" else (),
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


CONTENDERS = [
    _make("right", lambda out: out),
    _make("rolled", _off_by_one_row),
    _make("short", _last_row_lost),
    _make("nan", _not_a_number),
    _make("misshapen", lambda out: out[:, :-1]),
    _make("raises", _raise),
    _make("dies", _die),
    _make("absent", lambda out: out),
]
