"""The rules that signatures and results of all public functions follow (docs/design.md)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import gossamer
import numpy as np
import pytest
from gossamer import CSR, prune, regrow
from test_codebase import PUBLIC

pytestmark = pytest.mark.once

F32 = np.float32


def parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(PUBLIC[name]).parameters)


#: Arrays that may be left out.
OPTIONAL_ARRAYS = {
    "CSR.from_dense": {"mask"},
    "BSR.from_dense": {"mask"},
    "CSR.from_coo": {"values"},
}


@pytest.mark.parametrize("name", PUBLIC)
def test_what_has_a_default_is_keyword_only(name: str) -> None:
    positional = {
        key
        for key, parameter in parameters(name).items()
        if parameter.default is not parameter.empty and parameter.kind is not parameter.KEYWORD_ONLY
    }
    assert positional == OPTIONAL_ARRAYS.get(name, set())


@pytest.mark.parametrize("name", PUBLIC)
def test_segments_are_called_per(name: str) -> None:
    if name != "GroupQuant.from_dense":  # its group is a number of columns
        assert not {"offsets", "group", "groups", "segments", "axis_per"} & set(parameters(name))


#: What the functions without `out` return.
WITHOUT_OUT = {
    "a matrix, over arrays of its own or those given": {
        *(f"{kind}.{name}" for kind in ("BSR", "CSR") for name in ("from_dense", "from_sparse")),
        *(f"{kind}.{name}" for kind in ("BSR", "CSR") for name in ("with_values", "transpose")),
        *(f"{kind}.{name}" for kind in ("BSR", "CSR") for name in ("to_scipy", "to_torch")),
        *(f"BlockLayout.from_{name}" for name in ("mask", "lists", "topk", "csr")),
        *(f"BlockLayout.{name}" for name in ("local_stride", "window_global", "vertical_slash")),
        "BlockLayout.transpose",
        *(f"NM.{name}" for name in ("from_dense", "with_values", "transpose")),
        "CSR.from_mask",
        "CSR.to_jax",
        "GroupQuant.from_dense",
        "CSR.from_coo",
        "pack",
        "prune.mean_same_pattern",
    },
    "a score that is not stored, or the object itself": {
        "Packed.update",
        "prune.score",
        "prune.ColumnStats.add",
        "prune.ColumnStats.merge",
    },
    "numbers": {
        "attention_workspace",
        "prune.cats_threshold",
        "prune.check_nm",
        "prune.count_nan",
        "prune.histogram_quantile",
        "prune.quantile",
        "prune.Selection.histogram",
        "prune.Selection.narrow",
        "prune.Selection.ties",
        *(name for name in PUBLIC if name.startswith("schedule.")),
    },
    "nothing: a state is emptied": {"DeltaState.reset"},
    "facts of the library": {
        *("cmake_dir", "get_num_threads", "info", "num_threads", "set_num_threads")
    },
    "what it wrote": {
        "prune.coverage_or_",
        "prune.dsnot_rows_",
        "prune.group_soft_threshold_",
        "prune.sef_prox_",
        "prune.shrink_",
        "prune.soft_threshold_",
        "prune.srste_grad_",
    },
    "new arrays: that is what the twins are for": {
        *("csr_drop_grow", "drop_grow"),
        *(name for name in PUBLIC if name.startswith("functional.")),
    },
    "an array whose length is known afterwards only": {"regrow.drop_grow_"},
    "a map that is read while entries move": {"regrow.csr_drop_grow_"},
}


@pytest.mark.parametrize("name", PUBLIC)
def test_out_is_taken_wherever_an_array_results(name: str) -> None:
    without = set().union(*WITHOUT_OUT.values())
    assert ("out" in parameters(name)) != (name in without)
    if name not in without:
        assert parameters(name)["out"].default in (None, (None, None), (None, None, None))


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_absent_is_none(name: str) -> None:
    numbers = {
        key: parameter.default
        for key, parameter in parameters(name).items()
        if isinstance(parameter.default, int) and parameter.default < 0
    }
    assert numbers in ({}, {"axis": -1})  # an axis counts from the end


def matrix() -> CSR:
    return CSR.from_dense(np.array([[5.0, 0.0], [1.0, 0.0]], F32))


def ones(*shape: int, dtype: Any = F32) -> np.ndarray:
    return np.ones(shape, dtype)


STATS = prune.ColumnStats().add(np.array([[1.0, 2.0], [3.0, 1.0]], F32))
MASK = np.array([[True, False], [True, True]])
IN_PLACE: dict[str, Callable[[], tuple[Any, Any]]] = {
    "prune.coverage_or_": lambda: (x := ~MASK, prune.coverage_or_(x, MASK)),
    "prune.dsnot_rows_": lambda: (x := MASK.copy(), prune.dsnot_rows_(x, ones(2, 2), STATS)),
    "prune.group_soft_threshold_": lambda: (x := ones(2, 2), prune.group_soft_threshold_(x, 0.5)),
    "prune.l0_project_": lambda: (x := ones(2, 2), prune.l0_project_(x, 1)),
    "prune.obs_block_": lambda: (x := ones(2, 2), prune.obs_block_(x, np.eye(2, dtype=F32), k=2)),
    "prune.obs_prune_": lambda: (x := ones(2, 2), prune.obs_prune_(x, np.eye(2), k=2)),
    "prune.sef_prox_": lambda: (x := ones(2, 2), prune.sef_prox_(x, 0.5, 1)),
    "prune.shrink_": lambda: (x := ones(2, 2), prune.shrink_(x, MASK)),
    "prune.soft_threshold_": lambda: (x := ones(2, 2), prune.soft_threshold_(x, 0.5)),
    "prune.srste_grad_": lambda: (x := ones(2, 2), prune.srste_grad_(x, ones(2, 2), MASK)),
    "regrow.csr_drop_grow_": lambda: (
        x := matrix(),
        regrow.csr_drop_grow_(x, regrow.Random(1), 1, 1),
    ),
    "regrow.drop_grow_": lambda: (
        x := MASK.copy(),
        regrow.drop_grow_(x, ones(2, 2), ones(2, 2), 1, 1),
    ),
}


@pytest.mark.parametrize("name", [name for name in PUBLIC if name.endswith("_")])
def test_function_in_place_returns_what_it_wrote_first(name: str) -> None:
    written, result = IN_PLACE[name]()
    first = result[0] if isinstance(result, tuple) else result
    assert first is written
    assert next(iter(parameters(name).values())).kind is inspect.Parameter.POSITIONAL_OR_KEYWORD


def test_modules_are_public() -> None:
    assert {"functional", "graph", "prune", "regrow", "schedule"} <= set(gossamer.__all__)
