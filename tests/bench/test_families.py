"""The ops of the benchmark: operands, references, checks and contenders."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rich")

from bench_cases import CONVERSIONS, PRODUCTS, SPARSE_OPS, make_case, returned, takers
from gossamer import BSR
from gossamer.bench import command, dtypes
from gossamer.bench.families import OPS, activation, attention, products
from gossamer.bench.families.prune import passes, search
from gossamer.bench.families.prune.masks import SelectionOp
from gossamer.bench.families.sparse import BLOCKS, GROUPS, PATTERNS, Matrix, draw_matrix
from gossamer.bench.op import Case
from gossamer.bench.records import RESERVED

pytestmark = pytest.mark.once


@pytest.mark.parametrize("op", SPARSE_OPS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_check_accepts_the_float64_result(op: str, pattern: str) -> None:
    case = make_case(op, 9, 14, pattern=pattern)
    matrix, result, reference = solved(case)
    assert case.op.error(case, matrix, reference, result, "f32") <= 1


@pytest.mark.parametrize("op", [*PRODUCTS, "sddmm"])
def test_the_check_sees_one_lost_entry(op: str) -> None:
    case = make_case(op, 300, 200, 4, 0.9)
    matrix, _, reference = solved(case)
    if op == "sddmm":
        result = reference["expected"].copy()
        result[7] = 0
    else:
        matrix.values[11] = 0
        result = product(case, matrix)
    assert case.op.error(case, matrix, reference, result, "f32") > 1


def test_row_sums_see_a_wrong_row_that_is_not_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "FULL_CHECK", 0)
    monkeypatch.setattr(products, "SAMPLED_ROWS", 3)
    case = make_case("linear", 50, 40, 6)
    matrix, result, reference = solved(case)
    assert case.op.error(case, matrix, reference, result, "f32") <= 1
    row = next(r for r in range(50) if r not in reference["rows"])
    result[:, row] *= 1.01
    assert case.op.error(case, matrix, reference, result, "f32") > 1


def test_bf16_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -2.5, 1 + 2**-9], np.float32)
    rounded = dtypes.from_bits(dtypes.to_bits(values, "bf16"), "bf16")
    assert rounded.tolist() == [1.0, 1.0, 1 + 2**-6, -2.5, 1.0]


def test_a_skewed_pattern_keeps_the_sparsity() -> None:
    matrix = draw_matrix(make_case("spmm", 400, 300, 1, 0.9, pattern="skewed"))
    lengths = np.diff(matrix.indptr)
    assert abs(matrix.nnz / 120_000 - 0.1) < 0.01
    assert lengths.std() > 2 * np.sqrt(lengths.mean())


def test_the_same_seed_draws_the_same_operands() -> None:
    case = make_case("spmm", 30, 20, 4, seed=3)
    first, second = draw_matrix(case), draw_matrix(case)
    assert (first.values == second.values).all()
    other = draw_matrix(make_case("spmm", 30, 20, 4, seed=4))
    assert first.nnz != other.nnz or (first.values != other.values).any()


MASKS = [op.name for op in OPS.values() if isinstance(op, SelectionOp)]


@pytest.mark.parametrize(
    ("op", "dtype"), [(op, "f32") for op in MASKS] + [("magnitude", x) for x in ("bf16", "f16")]
)
def test_masks_of_every_contender_are_right_and_wrong_ones_are_caught(op: str, dtype: str) -> None:
    case = make_case(op, 64, 128, 0, 0.75, dtype=dtype)
    inputs = case.op.inputs(case)
    reference = case.op.reference(case, None, inputs)

    def error(result: Any) -> float:
        return case.op.error(case, None, reference, result, dtype)

    known = takers(case)
    assert {"mask", "read"} < {c.name for c in known} or op == "vnm"
    for who in known:
        back = who.bind(case, None, inputs)()
        if who.kind == "limit":
            assert back is None
            continue
        result = who.result(case, back)
        assert error(result) == 0.0, who.name
        if op == "topk_rows":
            values, columns = result
            assert values.size == case.op.nnz(case, None)
            assert error((values + 1, columns)) == float("inf")
            assert error((values, 0 * columns)) == float("inf")
            result = np.zeros((64, 128), bool)
            np.put_along_axis(result, columns, True, axis=1)
        if "value" in reference:
            assert error(1.001 * np.asarray(result)) == float("inf")
        else:
            assert np.count_nonzero(result) == case.op.nnz(case, None)
    if "value" in reference or op == "topk_rows":
        return
    wrong = np.array(result).astype(bool)
    if op == "random":
        for bad in (~wrong, np.sort(wrong, axis=0), wrong[:-1]):
            assert error(bad) == float("inf")
        return
    settled = np.argwhere(~reference["free"])[0]
    wrong[tuple(settled)] ^= True
    assert error(wrong) == float("inf")


@pytest.mark.parametrize("op", [op.name for op in activation.OPS])
@pytest.mark.parametrize(("dtype", "n"), [("f32", 1), ("f32", 3), ("bf16", 1), ("f64", 2)])
def test_sparse_activations_of_every_contender_are_right(op: str, dtype: str, n: int) -> None:
    case = make_case(op, 400, 300, n, 0.7, dtype=dtype)
    weights, inputs = case.op.weights(case), case.op.inputs(case)
    reference = case.op.reference(case, weights, inputs)
    known = takers(case)
    assert op in {c.name for c in known}
    assert len(known) >= 3
    for who in known:
        result = np.asarray(returned(who, case, weights, inputs))
        storage = who.storage or dtype
        assert case.op.error(case, weights, reference, result, storage) <= 1, who.name
        wrong = result.copy()
        wrong.reshape(-1)[7] += 100
        assert case.op.error(case, weights, reference, wrong, storage) > 1
        assert case.op.error(case, weights, reference, result[..., :-1], storage) > 1
    work = case.op.work(case, case.op.nnz(case, weights))
    assert 0 < work.flops < work.dense_flops


@pytest.mark.parametrize("op", [op.name for op in passes.OPS])
def test_passes_of_every_contender_are_right_and_wrong_ones_are_caught(
    op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gossamer.bench.cuda.DEVICE", "cpu")
    case = make_case(op, 64, 128, 0, 0.75)
    inputs = case.op.inputs(case)
    reference = case.op.reference(case, None, inputs)
    known = [c for c in case.op.contenders.values() if c.library.missing() is None]
    assert {"pass", "numpy"} <= {c.name for c in known}
    for who in known:
        call = who.bind(case, None, inputs)
        for _ in range(2):
            result = who.result(case, call())
            assert case.op.error(case, None, reference, result, "f32") <= 1, who.name
        wrong = result.copy()
        wrong[len(wrong) // 2] += 0.01 * np.abs(wrong[np.isfinite(wrong)]).max()
        assert case.op.error(case, None, reference, wrong, "f32") > 1
        assert case.op.error(case, None, reference, result[:-1], "f32") > 1
    assert case.op.work(case, case.op.nnz(case, None)).bytes > 0


@pytest.mark.parametrize(("method", "escapes"), list(search.PUBLISHED))
def test_searches_must_keep_what_was_published(method: str, escapes: int) -> None:
    m, k = search.SHAPE
    case = OPS[f"search_{method}"].case(m=m, k=k, escapes=escapes)
    (ours,) = takers(case)
    inputs = case.op.inputs(case)
    reference = case.op.reference(case, None, inputs)
    order, magnitude = returned(ours, case, None, inputs)

    def error(*result: Any) -> float:
        return case.op.error(case, None, reference, result, "f32")

    assert error(order, magnitude) == 0.0
    assert error(order, magnitude + 1) == float("inf")
    assert error(0 * order, magnitude) == float("inf")
    groups = np.sort(inputs["w"].reshape(128, -1, 4), axis=2)
    assert error(np.arange(64), groups[..., 2:].sum()) == float("inf")


def test_rigl_moves_whole_lines() -> None:
    case = make_case("rigl", 4096, 4096, 0, 0.9)
    elements = 4096 * 4096
    assert case.op.nnz(case, None) == pytest.approx(0.1 * elements, abs=1)
    read = 1 + 4 * (1 - 0.87**16) + 4 * (1 - 0.07**16)
    written = (1 - 0.94**64) + 4 * (1 - 0.94**16)
    got = case.op.work(case, 0).bytes / elements
    assert got == pytest.approx(read + written, rel=1e-5)


@pytest.mark.parametrize("op", [x for x in SPARSE_OPS if "cupy-cusparse" in OPS[x].contenders])
def test_cupys_contender_is_right(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy and SciPy stand in for CuPy, whose functions have their names."""
    sparse = pytest.importorskip("scipy.sparse")
    cupy = types.SimpleNamespace(asarray=np.asarray)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx.scipy.sparse", sparse)
    case = make_case(op, 9, 14)
    matrix, _, reference = solved(case)
    who = case.op.contenders["cupy-cusparse"]
    assert who.takes(case)
    result = returned(who, case, matrix, case.op.inputs(case))
    assert case.op.error(case, matrix, reference, result, "f32") <= 1


def test_contenders_of_a_gpu_are_not_part_of_a_run_on_the_cpu() -> None:
    case = make_case("linear", 64, 64, 4, 0.9, dtype="bf16", pattern="uniform")
    known = case.op.contenders
    assert {c.library.device for c in known.values()} == {"cpu", "cuda"}
    assert known["cuda-csr"].takes(case)
    assert not known["cuda-bsr"].takes(case)


@pytest.mark.parametrize("pattern", BLOCKS)
@pytest.mark.parametrize("op", PRODUCTS)
def test_contenders_with_blocks_are_right(op: str, pattern: str) -> None:
    names = {"bsr", "torch-bsr", "scipy-bsr"} - ({"torch-bsr"} if op == "spmm-t" else set())
    for dtype in ("f32", "bf16"):
        case = make_case(op, 64, 128, 5, 0.6, dtype=dtype, pattern=pattern)
        matrix, _, reference = solved(case)
        found = [c for c in takers(case) if c.name in names]
        assert {c.name for c in found} == (names if dtype == "f32" else {"bsr"})
        for who in found:
            result = returned(who, case, matrix, case.op.inputs(case))
            assert case.op.error(case, matrix, reference, result, dtype) <= 1, who.name
    odd = make_case(op, 64, 100, 5, 0.6, pattern=pattern)
    assert not OPS[op].contenders["bsr"].takes(odd)


@pytest.mark.parametrize("pattern", GROUPS)
@pytest.mark.parametrize("op", [*PRODUCTS, "linear-backward"])
def test_contenders_with_groups_are_right(op: str, pattern: str) -> None:
    n, m = GROUPS[pattern]
    for dtype in ("f32", "bf16"):
        case = make_case(op, 64, 96, 5, 1 - n / m, dtype=dtype, pattern=pattern)
        matrix, _, reference = solved(case)
        assert matrix.nnz == 64 * 96 * n // m
        (nm,) = (c for c in takers(case) if c.name == "nm")
        result = returned(nm, case, matrix, case.op.inputs(case))
        assert case.op.error(case, matrix, reference, result, dtype) <= 1
    assert not OPS[op].contenders["nm"].takes(make_case(op, 64, 98, 5, 0.5, pattern=pattern))


@pytest.mark.parametrize("name", ["dx", "dvalues"])
def test_the_check_sees_one_wrong_gradient(name: str) -> None:
    case = make_case("linear-backward", 50, 40, 6)
    matrix, result, reference = solved(case)
    result[name] = result[name].copy()
    result[name].flat[7] *= 1.01
    assert case.op.error(case, matrix, reference, result, "f32") > 1


@pytest.mark.parametrize("op", SPARSE_OPS)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_every_contender_of_a_sparse_matrix_is_right(op: str, dtype: str) -> None:
    case = make_case(op, 48, 80, dtype=dtype)
    matrix, _, reference = solved(case)
    for who in takers(case):
        if who.name == "mkl":
            continue  # its library is found by the environment of a worker
        result = returned(who, case, matrix, case.op.inputs(case))
        storage = who.storage or dtype
        assert case.op.error(case, matrix, reference, result, storage) <= 1, who.name


def test_blocks_of_a_pattern_make_its_matrix() -> None:
    matrix = draw_matrix(make_case("linear", 64, 96, 4, 0.6, pattern="block32"))
    indptr, indices, blocks = matrix.blocks(32)
    dense = BSR(indptr, indices, blocks, matrix.shape).to_dense()
    np.testing.assert_array_equal(dense, matrix.dense())


# What the benchmark must not know


def test_the_core_knows_no_op_by_name() -> None:
    folder = Path(command.__file__).parent
    for file in folder.glob("*.py"):
        if file.stem == "dtypes":  # which has a parameter that is called as an op is
            continue
        text = file.read_text()
        named = [op for op in OPS if re.search(rf"[\"'`]{re.escape(op)}[\"'`]", text)]
        assert not named, file


def test_no_parameter_has_the_name_of_a_field_of_the_records() -> None:
    assert not {p.name for op in OPS.values() for p in op.parameters} & RESERVED


def test_a_case_can_be_read_and_not_changed() -> None:
    case = make_case("linear", 64, 96, 4, 0.6)
    assert dict(case.parameters) == {
        "m": 64, "k": 96, "n": 4, "sparsity": 0.6, "pattern": "uniform",
    }  # fmt: skip
    with pytest.raises(TypeError):
        case.parameters["m"] = 3  # type: ignore[index]
    assert case == make_case("linear", 64, 96, 4, 0.6)
    assert hash(case) == hash(make_case("linear", 64, 96, 4, 0.6))
    assert case != make_case("linear", 64, 96, 5, 0.6)
    with pytest.raises(ValueError, match="linear: got parameter depth, expected of m, k, n"):
        OPS["linear"].case(m=1, k=1, n=1, sparsity=0.5, depth=3)
    with pytest.raises(ValueError, match="sddmm: parameter depth is missing"):
        OPS["sddmm"].case(m=1, k=1, sparsity=0.5)


def solved(case: Case) -> tuple[Matrix, Any, dict[str, Any]]:
    matrix = case.op.weights(case)
    reference = case.op.reference(case, matrix, case.op.inputs(case))
    if case.op.name == "to_dense":
        return matrix, matrix.dense(), reference
    if case.op.name == "sddmm":
        return matrix, reference["expected"], reference
    if case.op.name == "linear-backward":
        return matrix, {name: reference[name] for name in ("dx", "dvalues")}, reference
    if case.op.name == "update":
        return matrix, reference["columns"], reference
    if case.op.name in CONVERSIONS:
        return matrix, tuple(reference[x] for x in ("indptr", "indices", "values")), reference
    return matrix, product(case, matrix), reference


def product(case: Case, matrix: Matrix) -> Any:
    w, b = matrix.dense().astype(np.float64), case.op.inputs(case)["b"]
    results = {
        **dict.fromkeys(("linear", "pack-for", "quant-linear"), lambda: b @ w.T),
        **dict.fromkeys(("spmm", "conv1x1"), lambda: w @ b),
        "spmm-t": lambda: w.T @ b,
    }
    return results[case.op.name]()


@pytest.mark.parametrize("layout", attention.LAYOUTS)
@pytest.mark.parametrize("op", ["attention-forward", "attention-backward"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_attention_of_every_contender_is_right(op: str, layout: str, dtype: str) -> None:
    case = OPS[op].case(m=150, k=16, heads=2, block=8, layout=layout, dtype=dtype)
    held, inputs = case.op.weights(case), case.op.inputs(case)
    reference = case.op.reference(case, held, inputs)
    known = [c for c in takers(case) if c.default]  # compiling takes a minute
    assert {c.kind for c in known} >= {"ours", "dense"}
    for who in known:
        kind, rows = returned(who, case, held, inputs)
        assert case.op.error(case, held, reference, (kind, rows), dtype) <= 1, who.name
        wrong = rows + 0.5 * np.abs(rows).max()
        assert case.op.error(case, held, reference, (kind, wrong), dtype) > 1
    work = case.op.work(case, case.op.nnz(case, held))
    assert 0 < work.flops <= 1.2 * work.dense_flops


@pytest.mark.parametrize("layout", ["all", "s2", "random25"])
def test_layouts_that_are_built_are_checked(layout: str) -> None:
    case = OPS["attention-layout"].case(m=150, k=16, heads=2, block=8, layout=layout)
    held, inputs = case.op.weights(case), case.op.inputs(case)
    reference = case.op.reference(case, held, inputs)
    known = takers(case)
    assert [c.name for c in known] == ["layout", "attention"]
    for who in known:
        kind, found = returned(who, case, held, inputs)
        assert case.op.error(case, held, reference, (kind, found), "f32") <= 1, who.name
        wrong = ~found if kind == "blocks" else found + 0.5 * np.abs(found).max()
        assert case.op.error(case, held, reference, (kind, wrong), "f32") > 1


@pytest.mark.parametrize("keys", ["all", "pages", "tokens"])
def test_decoding_of_every_contender_is_right(keys: str) -> None:
    case = OPS["attention-decode"].case(m=500, k=16, heads=4, key_heads=2, keys=keys)
    inputs = case.op.inputs(case)
    reference = case.op.reference(case, None, inputs)
    for who in takers(case):
        kind, o = returned(who, case, None, inputs)
        assert case.op.error(case, None, reference, (kind, o), "f32") <= 1, who.name
        assert case.op.error(case, None, reference, (kind, o + 1), "f32") > 1
