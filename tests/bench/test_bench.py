"""Runs of `gossamer bench`: tables, records, suites, and a GPU's contenders on the CPU."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
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

from bench_cases import CONVERSIONS, QUICK, SPARSE_OPS, make_case, run_gossamer
from gossamer.bench import command, cuda, suite
from gossamer.bench.families import OPS
from gossamer.bench.families.sparse import draw_matrix
from gossamer.bench.machine import GpuLimits, Limits
from gossamer.bench.op import Case
from gossamer.bench.records import Record, read_jsonl
from gossamer.bench.runner import Plan, Runner
from gossamer.bench.shapes import Shape, parse_list, parse_shapes, shape_lists
from gossamer.bench.targets import order
from gossamer.bench.worker import Worker
from library import PATIENCE, ROOT, run

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("bench")
    done = run_gossamer(
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
    assert "peers' time / ours, geometric mean over shapes" in " ".join(text.split())
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
    done = run_gossamer("bench", "--read", str(path))
    assert done.returncode == 0, done.stderr
    table = "linear, f32, 1 thread"
    assert done.stdout.split(table)[1:] == quick[0].split("drawn:")[0].split(table)[1:]
    assert done.stdout.count(table) == 1


@pytest.fixture(scope="module")
def plugged() -> subprocess.CompletedProcess[str]:
    return run_gossamer(
        *QUICK, "--op", "linear", "--n", "3", "--time", "0.01", "--variants", "none",
        "--plugin", "wrong_contenders", "--peers",
        "numpy,right,rolled,short,nan,misshapen,raises,beside,dies,absent",
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
        ("beside", "failed: worker died"),
        ("absent", "not installed: no_such_package"),
    ],
)
def test_a_failure_is_reported_and_the_run_goes_on(
    plugged: subprocess.CompletedProcess[str], name: str, message: str
) -> None:
    assert f"{name}: {message}" in plugged.stdout


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
        _, met, missed = suite.target_grid([part], records, limits)
        assert met + missed == len(part.targets)


def test_cold_weights_rotate() -> None:
    with Runner(Plan(1, rounds=2, seconds=0.01)) as runner:
        case = make_case("linear", 256, 256, 1, cold=True)
        (records,) = runner.measure([case], ["numpy"])
    assert records[0].ok
    assert records[0].copies > 100


def test_cold_channels_take_turns() -> None:
    case = make_case("sparse-linear", 32, 100, 2, 0.7)
    turns = [x["x"] for x in case.op.turns(case, case.op.inputs(case))]
    kept = [set(np.flatnonzero(x.any(0))) for x in turns]
    assert [len(channels) for channels in kept] == [30, 30, 30]
    assert len(set.union(*kept)) == 90
    assert np.array_equal(turns[1][:, turns[1].any(0)], turns[0][:, turns[0].any(0)])


def test_copies_that_would_fill_the_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case("linear", 256, 256, 1, cold=True)
    weights, operands = tmp_path / "weights", tmp_path / "operands"
    drawn, inputs = case.op.weights(case), case.op.inputs(case)
    weights.write_bytes(pickle.dumps(drawn))
    operands.write_bytes(pickle.dumps((inputs, case.op.reference(case, drawn, inputs))))
    monkeypatch.setattr("gossamer.bench.worker.memory_size", lambda: 100e6)
    reply = Worker().prepare(
        contender="numpy",
        op="linear",
        case={"dtype": "f32", "cold": True, "seed": 0, **case.parameters},
        weights=str(weights),
        operands=str(operands),
        cold_bytes=1 << 28,
    )
    assert reply["status"] == "failed"
    assert re.fullmatch(r"1024 copies of the weights, .* take \d\.\d GB of 0\.1", reply["message"])


def gpu_plan(what: str) -> dict[str, tuple[int, str]]:
    """Return the budget and the command of each part of the script for a machine with a GPU."""
    script = ROOT / "bench/gpu.sh"
    plan = run("bash", script, f"--{what}", "--dry-run", "--no-build", PYTHON=sys.executable)
    parts = re.findall(r"^([\w-]+) +(\d+) s  (.*)", plan, re.MULTILINE)
    return {name: (int(budget), command) for name, budget, command in parts}


def test_the_gpu_script_plans_within_its_five_minutes() -> None:
    tests, benches = gpu_plan("tests"), gpu_plan("bench")
    assert {"machine", "device", "gpu-tests", "sanitizer-memory", "sanitizer-races"} <= {*tests}
    assert {"limits", "llama-csr", "llama-blocks16", "bert-blocks", "transposed"} <= {*benches}
    assert {"sddmm", "conversions", "block-others", "profile", "table"} <= {*benches}
    # The same cases without and with the kernels for Hopper alone, in files of their own.
    for name in ("prefill", "blocks64"):
        commands = [benches[each][1] for each in (name, f"{name}-wgmma")]
        cases, files = (re.findall(x, " ".join(commands)) for x in (r"(--op.*?)--p", r"--out \S+"))
        assert len(cases) == len(files) == 2
        assert cases[0] == cases[1]
        assert files[0] != files[1]
    assert sum(budget for budget, _ in tests.values()) <= 300
    # What comes before the benchmarks' last parts must leave them their time.
    assert sum(benches[name][0] for name in benches if name not in ("block-others", "table")) < 400


@pytest.mark.once
@pytest.mark.parametrize("part", ["gpu-tests", "sanitizer-memory", "sanitizer-races"])
def test_the_gpu_script_selects_tests(part: str) -> None:
    _, text = gpu_plan("tests")[part]
    pytest_part = text.partition(" -m pytest ")[2]
    # Words between options belong to the option before: the plan is printed without quotes.
    selection = re.search(r" -m (.*?) -k (.*?)((?: tests\S*)+)$", pytest_part)
    assert selection
    marks, words, files = selection.groups()
    found = run(
        *(sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider"),
        *("-m", marks, "-k", words, *(ROOT / f for f in files.split())),
    )
    collected = re.search(r"^(\d+)/\d+ tests collected", found, re.MULTILINE)
    assert collected
    assert int(collected[1]) >= 20
    assert "emulated" not in found
    for test in ("every_width", "long_rows", "blocks_that_begin_anywhere", "turns_each"):
        assert test in found


def test_what_the_gpu_script_measures_is_for_contenders_of_a_gpu() -> None:
    plan = gpu_plan("bench")
    lines = [x.split(" -m gossamer.cli ")[1] for _, x in plan.values() if " --budget " in x]
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


@pytest.mark.parametrize("what", ["tests", "bench"])
def test_the_gpu_script_ends_with_what_failed_and_what_was_dropped(
    what: str, tmp_path: Path
) -> None:
    fails = "#!/bin/sh\nexit 9\n"
    for name, text in (("python", STUB), ("compute-sanitizer", fails), ("ncu", fails)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", ROOT / "bench/gpu.sh", f"--{what}", "--no-build"],
        env=os.environ
        | {
            "PYTHON": str(tmp_path / "python"),
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "OUT": str(tmp_path / "out"),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    files = {path.name for path in (tmp_path / "out").iterdir()}
    lines = [line.split(",")[0] for line in done.stdout.splitlines() if line.startswith("==")]
    failed = [line for line in lines if line.startswith("== failed: ")]
    if what == "tests":
        assert files == {"logs.tar.gz"}
        wrong = ["device: status 3", "sanitizer-memory: status 9", "sanitizer-races: status 9"]
    else:
        assert {"logs.tar.gz", "limits.json", "table.txt"} <= files
        assert len(files) <= 5
        assert json.loads((tmp_path / "out/limits.json").read_text()) == {}
        assert "== sddmm: dropped for want of time" in lines
        wrong = ["device: status 3", "profile: status 9"]
    assert [line for line in failed if ": machine: " not in line] == [
        f"== failed: {each}" for each in wrong
    ]


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
    monkeypatch.setattr(cuda, "MOST_CALLS", 3)
    calls = [lambda i=i: made.append(f"call {i}") or i for i in range(4)]
    replays, each, layouts = cuda.CUDA.capture(calls)
    assert made[:3] == ["call 0", "call 1", "call 0"]  # to warm up, and one that is timed
    assert made[3:7] == ["capture", "call 0", "call 1", "call 2"]
    assert layouts == ("graph" if captures else "eager")
    if captures:
        assert made[7:] == ["replay", "capture", "call 3", "call 0", "call 1", "replay"]
        assert (len(replays), each) == (2, 3)
        assert [replay() for replay in replays] == [0, 3]
        assert made[-2:] == ["replay", "replay"]
    else:
        assert (replays, each) == (calls, 1)


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """Run a GPU's contenders on the CPU: all that the real run does but the capture."""
    path = tmp_path_factory.mktemp("dry") / "out.jsonl"
    done = run_gossamer(
        "bench", "--device", "cuda", "--plugin", "dry_cuda", "--rounds", "1", "--time", "0.001",
        "--op", ",".join((*DRY, *LAYERS)), "--dtype", "f32,bf16", "--pattern", "uniform,block32",
        "--shapes", "64x96", "--n", "5", "--depth", "5", "--sparsity", "0.6", "--out", str(path),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, [json.loads(line) for line in path.read_text().splitlines()]


#: Those that GPUs have.
DRY = tuple(op for op in SPARSE_OPS if "cuda-csr" in OPS[op].contenders)
LAYERS = ("sparse-linear", "gather-decode", "gated-mlp", "csr-attention")


def test_a_dry_run_of_a_gpus_contenders_is_right(dry: tuple[str, list[dict[str, Any]]]) -> None:
    text, lines = dry
    done = {
        (x["op"], x["dtype"], x.get("pattern"), x["contender"])
        for x in lines
        if x["status"] == "ok"
    }
    for op in LAYERS:
        for dtype in ("f32", "bf16"):
            dense = "cuda-sdpa-mask" if op == "csr-attention" else "cublas"
            assert {(op, dtype, None, f"cuda-{op}"), (op, dtype, None, dense)} <= done
    for op in DRY:
        for dtype in ("f32", "bf16"):
            for pattern in ("uniform", "block32"):
                assert (op, dtype, pattern, "cuda-csr") in done
        if op not in CONVERSIONS:
            assert (op, "bf16", "uniform", "cublas") in done
        if op == "linear-backward":
            continue
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
    done = run_gossamer("bench", "--read", str(path))
    assert re.search(r"cuda-csr .* \d+%", done.stdout)


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


def test_patterns_of_groups_keep_exactly_n() -> None:
    # Among this case's random numbers some of one group are equal.
    case = OPS["linear"].case(m=2048, k=4096, n=1, sparsity=0.9, pattern="2:4", dtype="bf16")
    kept = draw_matrix(case).dense() != 0
    assert (kept.reshape(2048, -1, 4).sum(axis=2) == 2).all()
