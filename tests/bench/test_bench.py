from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rich")

from gossamer import BSR, cli
from gossamer.bench import command, cuda, dtypes, suite
from gossamer.bench.families import OPS, products
from gossamer.bench.families.conversions import Conversion
from gossamer.bench.families.prune import search
from gossamer.bench.families.prune.masks import SelectionOp
from gossamer.bench.families.sparse import BLOCKS, PATTERNS, Matrix, SparseOp, draw_matrix
from gossamer.bench.machine import GpuLimits, Limits
from gossamer.bench.op import Case, Contender
from gossamer.bench.records import RESERVED, Record, read_jsonl
from gossamer.bench.runner import Plan, Runner
from gossamer.bench.shapes import Shape, parse_list, parse_shapes, shape_lists
from gossamer.bench.targets import order
from library import ROOT, run

pytestmark = pytest.mark.once
HERE = Path(__file__).parent


def gossamer(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "gossamer.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )


def make_case(op: str, m: int, k: int, width: int = 5, sparsity: float = 0.5, **other: Any) -> Case:
    """Make a case, with a width (or depth) and a sparsity where the op has them."""
    names = {p.name for p in OPS[op].parameters}
    numbers = {"n": width, "depth": width, "sparsity": sparsity}
    return OPS[op].case(m=m, k=k, **{x: y for x, y in numbers.items() if x in names}, **other)


def takers(case: Case) -> list[Contender]:
    """List who can compute a case here."""
    known = case.op.contenders.values()
    return [
        c
        for c in known
        if c.takes(case) and c.library.missing() is None and c.library.device == "cpu"
    ]


def returned(who: Contender, case: Case, weights: Any, inputs: dict[str, Any]) -> Any:
    """Compute a case as a contender does."""
    return who.result(case, who.bind(case, who.hold(case, weights), inputs)())


SPARSE_OPS = [op.name for op in OPS.values() if isinstance(op, SparseOp)]
PRODUCTS = [op.name for op in products.OPS]
CONVERSIONS = [op.name for op in OPS.values() if isinstance(op, Conversion)]

QUICK = ("bench", "--quick", "--shapes", "24x40,40x24", "--threads", "1", "--rounds", "2")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("bench")
    done = gossamer(
        *QUICK, "--op", "linear,to_dense", "--peers", "numpy,scipy", "--time", "0.01",
        "--out", str(folder / "out.jsonl"), "--plot", str(folder / "out.png"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (folder / "out.jsonl").read_text().splitlines()
    return done.stdout, [json.loads(line) for line in lines], folder


def test_the_table_names_every_contender_and_ratio(
    quick: tuple[str, list[dict[str, Any]], Path],
) -> None:
    text, _, _ = quick
    assert "24x40 N=1 90%" in text
    for word in ("csr", "packed", "numpy", "scipy", "vs sparse", "vs dense", "GF/s", "roof"):
        assert word in text
    assert "geometric mean over shapes" in text
    assert "GFLOP/s (f32); read GB/s: L1" in text


def test_each_time_is_a_json_record(quick: tuple[str, list[dict[str, Any]], Path]) -> None:
    _, lines, _ = quick
    assert {(x["op"], x.get("n", 0), x["contender"]) for x in lines} == {
        *(("linear", n, who) for n in (1, 32) for who in ("csr", "packed", "numpy", "scipy")),
        *(("to_dense", 0, who) for who in ("csr", "scipy")),
    }
    for line in lines:
        assert line["schema"] == 2
        assert line["status"] == "ok"
        assert 0 < line["min_ms"] <= line["q1_ms"] <= line["median_ms"] <= line["q3_ms"]
        assert line["error"] <= 1
        assert line["nnz"] > 0
        assert line["samples"] >= 2
        assert line["roof_share"] > 0
        assert line["machine"]["isa"]
        assert line["versions"]["numpy"] == np.__version__
        assert line["command"].startswith("gossamer bench --quick")
        assert set(line["limits"]["gbps"]) == {"L1", "L2", "L3", "DRAM"}


def test_the_plot_is_a_png(quick: tuple[str, list[dict[str, Any]], Path]) -> None:
    assert (quick[2] / "out.png").read_bytes()[1:4] == b"PNG"


def test_records_survive_the_file(quick: tuple[str, list[dict[str, Any]], Path]) -> None:
    path = quick[2] / "out.jsonl"
    records, limits, told = read_jsonl([path], OPS)
    assert len(records) == len(quick[1])
    assert not told
    assert limits is not None
    done = gossamer("bench", "--read", str(path))
    assert done.returncode == 0, done.stderr
    table = "case               contender"
    assert done.stdout.split(table)[1:] == quick[0].split("drawn:")[0].split(table)[1:]


@pytest.fixture(scope="module")
def plugged() -> subprocess.CompletedProcess[str]:
    return gossamer(
        *QUICK, "--op", "linear", "--n", "3", "--time", "0.01", "--variants", "none",
        "--plugin", "wrong_contenders", "--peers",
        "numpy,right,rolled,short,nan,misshapen,raises,dies,absent",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["rolled", "short", "nan", "misshapen"])
def test_a_wrong_result_is_caught_and_not_timed(
    plugged: subprocess.CompletedProcess[str], name: str
) -> None:
    assert plugged.returncode == 1
    assert f"{name}: WRONG RESULT: error is" in plugged.stdout
    row = next(x for x in plugged.stdout.splitlines() if x.strip().startswith(name))
    assert "WRONG RESULT" in row
    assert "µs" not in row


def test_a_right_plugin_is_timed(plugged: subprocess.CompletedProcess[str]) -> None:
    row = next(x for x in plugged.stdout.splitlines() if x.strip().startswith("right"))
    assert "µs" in row


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "failed: RuntimeError: no kernel"),
        ("dies", "failed: worker died"),
        ("absent", "not installed: no_such_package"),
    ],
)
def test_a_failure_is_reported_and_the_run_goes_on(
    plugged: subprocess.CompletedProcess[str], name: str, message: str
) -> None:
    assert f"{name}: {message}" in plugged.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "gemm"], "--op: got 'gemm'"),
        (["--shapes", "12"], "shapes: got '12', expected MxK or one of"),
        (["--n", "0"], "--n is 0, expected positive integers"),
        (["--sparsity", "1.0"], "--sparsity is 1.0, expected fractions in [0, 1)"),
        (["--peers", "nobody"], "--peers: got 'nobody'"),
        (["foundation", "--part", "all"], "--part: got 'all'"),
        (["--rounds", "-1"], "--rounds is -1, expected a positive number"),
    ],
)
def test_bad_options_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().out.split())


def test_info_prints_versions() -> None:
    done = gossamer("info")
    assert done.returncode == 0, done.stderr
    for word in ("gossamer", "isa", "threads", "cuda", "numpy", "torch"):
        assert word in done.stdout


def test_without_rich_bench_says_what_to_install() -> None:
    code = (
        "import importlib.util, gossamer.cli as cli; "
        "cli.find_spec = lambda name: None if name == 'rich' else importlib.util.find_spec(name); "
        "raise SystemExit(cli.main(['bench', '--quick']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "pip install 'gossamer[bench]'" in done.stderr


@pytest.mark.parametrize("name", shape_lists())
def test_shape_lists_parse(name: str) -> None:
    shapes = parse_shapes(name)
    assert shapes
    assert all(s.m > 0 and s.k > 0 for s in shapes)


def test_shapes_mix_sizes_and_lists() -> None:
    shapes = parse_shapes("3x4,5x6x7,foundation,3x4")
    assert shapes[:2] == [Shape(3, 4), Shape(5, 6, 7)]
    assert shapes[2:] == parse_shapes("foundation")
    assert Shape(64, 32, 12544) in parse_shapes("mobilenet-v1")


def test_a_bad_line_of_a_shape_list_is_named() -> None:
    with pytest.raises(ValueError, match=r"line 2 is '3 x'"):
        parse_list("1 2\n3 x")


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


def test_cases_on_one_matrix_stand_together() -> None:
    grid = [make_case("spmm", 8, 8, n, s) for n in (1, 2) for s in (0.5, 0.9)]
    sorted_grid = [(0.5, 1), (0.5, 2), (0.9, 1), (0.9, 2)]
    assert [(c["sparsity"], c["n"]) for c in order(grid)] == sorted_grid


def test_the_roofline_is_the_slower_of_flops_and_bytes() -> None:
    limits = Limits(
        1, {"L1": 1 << 15, "L2": 1 << 20, "L3": 1 << 25},
        {"L1": 100.0, "L2": 50.0, "L3": 25.0, "DRAM": 10.0}, 100.0,
    )  # fmt: skip
    wide, narrow = make_case("spmm", 4096, 4096, 512, 0.9), make_case("spmm", 4096, 4096, 1, 0.9)
    nnz = 1_677_722

    def least(case: Case) -> float:
        return limits.least_seconds(case, case.op.work(case, nnz))

    assert least(wide) == pytest.approx(2 * nnz * 512 / 100e9)
    traffic = 4 * nnz + min(4096 * 4096 / 8, nnz) + 2 * 4096 * 4
    assert least(narrow) == pytest.approx(traffic / 25e9)
    cold = make_case("spmm", 4096, 4096, 1, 0.9, cold=True)
    assert least(cold) > 2 * least(narrow)


@pytest.mark.parametrize("name", suite.SUITES)
def test_every_target_speaks_of_cases_and_contenders_that_run(name: str) -> None:
    caches = {"L1": 1 << 15, "L2": 1 << 20, "L3": 1 << 25}
    limits = Limits(2, caches, dict.fromkeys([*caches, "DRAM"], 10.0), 100.0)
    for part in suite.named_parts(name, suite.part_names(name)):
        timed = [
            (case, case.op.contenders[who])
            for case in part.cases
            for who in part.contenders
            if who in case.op.contenders and case.op.contenders[who].takes(case)
        ]
        assert {who.name for _, who in timed} == set(part.contenders)
        records = [
            Record(case, who.name, "", who.kind, 2, 10, median=1.0, part=part.name)
            for case, who in timed
        ]
        for target in part.targets:
            assert suite.ratios(part, target, records, limits), target.title
        _, met, missed = suite.target_table([part], records, limits)
        assert met + missed == len(part.targets)


def test_cold_weights_rotate() -> None:
    with Runner(Plan(1, rounds=2, seconds=0.01)) as runner:
        case = make_case("linear", 256, 256, 1, cold=True)
        (records,) = runner.measure([case], ["numpy"])
    assert records[0].ok
    assert records[0].copies > 100


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


def solved(case: Case) -> tuple[Matrix, Any, dict[str, Any]]:
    matrix = draw_matrix(case)
    reference = case.op.reference(case, matrix, case.op.inputs(case))
    if case.op.name == "to_dense":
        return matrix, matrix.dense(), reference
    if case.op.name == "sddmm":
        return matrix, reference["expected"], reference
    if case.op.name in CONVERSIONS:
        return matrix, tuple(reference[x] for x in ("indptr", "indices", "values")), reference
    return matrix, product(case, matrix), reference


def product(case: Case, matrix: Matrix) -> Any:
    w, b = matrix.dense().astype(np.float64), case.op.inputs(case)["b"]
    results = {"linear": lambda: b @ w.T, "spmm": lambda: w @ b, "spmm-t": lambda: w.T @ b}
    return results[case.op.name]()


def test_the_gpu_script_plans_within_its_nine_minutes() -> None:
    script = ROOT / "bench/gpu.sh"
    plan = run("bash", script, "--dry-run", "--no-build", PYTHON=sys.executable)
    parts = (
        "gpu-tests",
        "sanitizer-memory",
        "limits",
        "llama-csr",
        "llama-blocks16",
        "bert-blocks",
    )
    for part in (*parts, "transposed", "sddmm", "conversions", "block-others", "table"):
        assert re.search(rf"^{part} +\d+ s ", plan, re.MULTILINE), part
    # What comes before the benchmarks' last part must leave them their time.
    times = [int(s) for s in re.findall(r"^[\w-]+ +(\d+) s ", plan, re.MULTILINE)]
    assert sum(times[:-2]) < 540


def test_what_the_gpu_script_measures_is_for_contenders_of_a_gpu() -> None:
    plan = run("bash", ROOT / "bench/gpu.sh", "--dry-run", "--no-build", PYTHON="python")
    lines = [x.split(" -m gossamer.cli ")[1] for x in plan.splitlines() if " --budget " in x]
    assert len(lines) >= 9
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    for line in lines:
        options = parser.parse_args(shlex.split(line)[1:])
        for job in command.list_jobs(options):
            assert job.cases
            for case in job.cases:
                known = [c for c in case.op.contenders.values() if c.name in job.contenders]
                assert "ours" in {c.kind for c in known if c.takes(case)}, case.label


STUB = """#!/bin/sh
case "$*" in
  *"-c import"*) exit 3 ;;
  *gossamer.bench.cuda*) echo '{}' ;;
  *"--op sddmm"*) echo 'dropped for want of time, 1 of 2 cases: sddmm 4x4 D=64 50% f32' ;;
esac
"""


def test_the_gpu_script_ends_with_what_failed_and_what_was_dropped(tmp_path: Path) -> None:
    for name, text in (("python", STUB), ("compute-sanitizer", "#!/bin/sh\nexit 9\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", ROOT / "bench/gpu.sh", "--no-build", "--out", tmp_path / "out"],
        env=os.environ
        | {"PYTHON": str(tmp_path / "python"), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert json.loads((tmp_path / "out/limits.json").read_text()) == {}
    head = "== sddmm: dropped for want of time, 1 of 2 cases: sddmm 4x4 D=64 50% f32"
    tail = [line for line in done.stdout.splitlines() if line.startswith("==")][-4:]
    assert tail[0] == head
    assert [line.split(",")[0] for line in tail[1:]] == [
        "== failed: device: status 3",
        "== failed: sanitizer-memory: status 9",
        "== failed: sanitizer-races: status 9",
    ]


@pytest.mark.parametrize("op", [op for op in SPARSE_OPS if op != "sddmm"])
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


@pytest.mark.parametrize("captures", [True, False])
def test_calls_are_replayed_where_they_can_be_captured(
    captures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    @contextlib.contextmanager
    def graph(_graph: object) -> Iterator[None]:
        made.append("capture")
        yield
        if not captures:
            raise RuntimeError("operation not permitted when stream is capturing")

    replayed = types.SimpleNamespace(replay=lambda: made.append("replay"))
    fake = types.SimpleNamespace(CUDAGraph=lambda: replayed, graph=graph, synchronize=lambda: None)
    monkeypatch.setattr(cuda, "torch_module", lambda: types.SimpleNamespace(cuda=fake))
    call, layouts = cuda.CUDA.capture(lambda: made.append("call") or "result")
    assert made[:3] == ["call", "capture", "call"]
    assert call() == "result"
    assert made[3:] == (["replay", "replay"] if captures else ["call"])
    assert layouts == ("graph" if captures else "eager")


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """Run a GPU's contenders on the CPU: all that the real run does but the capture."""
    path = tmp_path_factory.mktemp("dry") / "out.jsonl"
    done = gossamer(
        "bench", "--device", "cuda", "--plugin", "dry_cuda", "--rounds", "1", "--time", "0.001",
        "--op", ",".join(DRY), "--dtype", "f32,bf16", "--pattern", "uniform,block32", "--shapes",
        "64x96", "--n", "5", "--depth", "5", "--sparsity", "0.6", "--out", str(path),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, [json.loads(line) for line in path.read_text().splitlines()]


DRY = SPARSE_OPS


def test_a_dry_run_of_a_gpus_contenders_is_right(dry: tuple[str, list[dict[str, Any]]]) -> None:
    text, lines = dry
    done = {
        (x["op"], x["dtype"], x["pattern"], x["contender"]) for x in lines if x["status"] == "ok"
    }
    for op in DRY:
        for dtype in ("f32", "bf16"):
            for pattern in ("uniform", "block32"):
                assert (op, dtype, pattern, "cuda-csr") in done
        if op not in CONVERSIONS:
            assert (op, "bf16", "uniform", "cublas") in done
        assert (op, "f32", "uniform", "torch-cusparse") in done
        assert (op, "bf16", "block32", "cuda-bsr") in done
    for op in ("linear", "spmm", "from_dense", "to_dense"):
        assert (op, "f32", "block32", "torch-cuda-bsr") in done
    # PyTorch has no kernels of these types on the CPU.
    lost = [x for x in lines if x["status"] != "ok"]
    assert {x["contender"] for x in lost} <= {"torch-cusparse", "torch-cuda-bsr"}
    assert not [x for x in lost if x["status"] == "wrong"]
    assert "limits of cpu: dense products GFLOP/s: f32" in text


def test_a_dry_run_reports_shares_of_the_gpus_limits(
    dry: tuple[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    lines = [x for x in dry[1] if x["status"] == "ok"]
    for line in lines:
        assert set(line["limits"]["gflops"]) == {"f32", "bf16", "f64"}
        assert line["roof_share"] == pytest.approx(
            line["roof_ms"] / line["median_ms"], rel=1e-3, abs=1e-4
        )
    path = tmp_path / "some.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, limits, _ = read_jsonl([path], OPS)
    assert isinstance(limits, GpuLimits)
    line = next(x for x in lines if x["op"] == "spmm" and x["dtype"] == "f32")
    least = max(
        2 * line["nnz"] * 5 / line["limits"]["gflops"]["f32"],
        line["compulsory_bytes"] / line["limits"]["gbps"],
    )
    assert line["roof_ms"] == pytest.approx(least / 1e6, rel=1e-3)
    done = gossamer("bench", "--read", str(path))
    assert re.search(r"cuda-csr .* \d+%", done.stdout)


def test_what_there_is_no_time_for_is_named() -> None:
    done = gossamer(*QUICK, "--op", "linear", "--n", "1,3", "--peers", "none", "--budget", "0")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert (
        "dropped for want of time, 4 of 4 cases: linear 24x40 N=1 90% f32; linear 24x40 N=3" in said
    )


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
        case = make_case(op, 64, 96, 5, 0.6, dtype=dtype, pattern=pattern)
        matrix, _, reference = solved(case)
        found = [c for c in takers(case) if c.name in names]
        assert {c.name for c in found} == (names if dtype == "f32" else {"bsr"})
        for who in found:
            result = returned(who, case, matrix, case.op.inputs(case))
            assert case.op.error(case, matrix, reference, result, dtype) <= 1, who.name
    odd = make_case(op, 64, 100, 5, 0.6, pattern=pattern)
    assert not OPS[op].contenders["bsr"].takes(odd)


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
    for file in ("op", "targets", "records", "runner", "worker", "report", "command", "machine"):
        text = (folder / f"{file}.py").read_text()
        named = [op for op in OPS if re.search(rf"[\"'`]{re.escape(op)}[\"'`]", text)]
        assert not named, file


def test_an_op_of_a_plugin_is_measured_by_its_own_parameters(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    options = ("bench", "--plugin", "wrong_contenders")
    done = gossamer(
        *options, "--op", "cumsum", "--rounds", "1", "--time", "0.001", "--out", str(path)
    )
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(x["length"], x["contender"], x["status"]) for x in lines} == {
        (length, who, "wrong" if who == "multiplied" else "ok")
        for length in (100, 200)
        for who in ("summed", "accumulated", "multiplied")
    }
    assert "multiplied: WRONG RESULT" in done.stdout
    again = gossamer(*options, "--read", str(path))
    assert again.returncode == 1
    assert "multiplied: WRONG RESULT" in again.stdout
    without = gossamer("bench", "--read", str(path))
    assert without.returncode == 2
    assert "op 'cumsum' is not known, perhaps for want of --plugin" in without.stdout


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


def test_results_of_schema_1_are_read() -> None:
    folder = ROOT / "bench/results"
    files = [folder / "foundation.jsonl", folder / "prune.jsonl"]
    records, limits, told = read_jsonl(files, OPS)
    assert not told
    assert limits is not None
    assert len(records) == sum(len(file.read_text().splitlines()) for file in files)
    depths = {r.case["depth"] for r in records if r.case.op.name == "sddmm"}
    assert depths == {64, 128}
    searched = {r.case["escapes"] for r in records if r.case.op.name == "search_swap"}
    assert searched == {0, 100}
