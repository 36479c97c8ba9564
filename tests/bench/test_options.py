"""Options of `gossamer bench`: where they apply, shapes and matrices from files, names of types."""

from __future__ import annotations

import argparse
import json
import random
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rich")

from bench_cases import QUICK, plugins_forgotten, run_gossamer
from gossamer import cli
from gossamer.bench import command, cuda, matrices, options
from gossamer.bench.dtypes import short_name
from gossamer.bench.families import OPS
from gossamer.bench.families.sparse import draw_matrix
from gossamer.bench.op import Case
from gossamer.bench.records import read_runs
from gossamer.bench.shapes import Shape, parse_shapes
from library import ROOT

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def _without_plugins() -> Iterator[None]:
    with plugins_forgotten():
        yield


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser, arguments)
    args = parser.parse_args(arguments)
    options.check(args)
    return args


def cases_of(*arguments: str) -> list[Case]:
    return [case for job in options.list_jobs(parsed(*arguments)) for case in job.cases]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    try:
        status = cli.main(["bench", *arguments])
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 2
    said = capsys.readouterr()
    assert not said.out
    assert len(said.err.splitlines()) == 1
    return said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("foundation", "--op", "spmm"), "--op does not apply with the suite foundation"),
        (("foundation", "--shapes", "4x4"), "--shapes does not apply with the suite"),
        (("foundation", "--dtype", "f32"), "--dtype does not apply with the suite"),
        (("prune", "--peers", "numpy"), "--peers does not apply with the suite prune"),
        (("foundation", "--variants", "csr"), "--variants does not apply with the suite"),
        (("foundation", "--quick"), "--quick does not apply with the suite"),
        (("foundation", "--cold"), "--cold does not apply with the suite"),
        (("foundation", "--seed", "1"), "--seed does not apply with the suite"),
        (("foundation", "--device", "cpu"), "--device does not apply with the suite"),
        (("foundation", "--matrix", "a.npz"), "--matrix does not apply with the suite"),
        (("foundation", "--depth", "7"), "--depth: no case of foundation is left"),
        (("--read", "a.jsonl", "--seed", "1"), "--seed does not apply with --read"),
        (("--read", "a.jsonl", "--quick"), "--quick does not apply with --read"),
        (("--read", "a.jsonl", "--out", "b.jsonl"), "--out does not apply with --read"),
        (("--read", "a.jsonl", "--threads", "2"), "--threads does not apply with --read"),
        (("--fail-above", "5%"), "--fail-above does not apply without --compare"),
        (("foundation", "--compare", "a", "b"), "foundation does not apply with --compare"),
        (("--matrix", "a.npz", "--shapes", "4x4"), "--shapes does not apply with --matrix"),
        (("--matrix", "a.npz", "--pattern", "uniform"), "--pattern does not apply with --matrix"),
        (("--op", "to_dense", "--variants", "packed"),
         "--variants: packed takes none of the cases (to_dense f32)"),
        (("--dtype", "bf16", "--peers", "mkl"), "--peers: mkl takes none of the cases"),
        (("--op", "magnitude", "--dtype", "f64"), "nobody to time: no contender takes magnitude"),
        (("--op", "magnitude", "--cold"), "--cold: magnitude keeps no weights between calls"),
        (("--plugin", "wrong_contenders", "--op", "cumsum", "--shapes", "4x4"),
         "--shapes: cumsum has no shape"),
        (("--shapes", ""), "--shapes is empty"),  # not the default
        (("--variants", " "), "--variants is empty"),
        (("--shapes", "/"), "shapes: /: Is a directory"),
        (("--shapes", "no.txt"), "--shapes: got 'no.txt', expected MxK or one of"),
        (("--device", "cuda"), "--device is cuda, but no GPU can be used"),
        (("--matrix", "no.npz"), "--matrix: no.npz: No such file or directory"),
        (("--matrix", "w.csv"), "--matrix: w.csv has no known ending, expected .npz"),
    ],
)  # fmt: skip
def test_an_option_that_does_not_apply_is_refused(
    arguments: Sequence[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "is_missing", lambda: True)
    assert message in refused(capsys, *arguments)


def test_a_plugin_that_raises_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_plugin.py").write_text("OPS = [1 / 0]\n")
    (tmp_path / "unwritten_plugin.py").write_text("OPS = [\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, what in (("broken", "ZeroDivisionError"), ("unwritten", "SyntaxError")):
        said = refused(capsys, "--plugin", f"{name}_plugin")
        assert f"--plugin {name}_plugin cannot be imported: {what}" in said


def test_no_folder_for_operands_is_found_before_measuring(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    assert "TMPDIR: No usable temporary directory" in refused(capsys, "--quick")


ANY = {
    "--op": ["linear", "to_dense,magnitude", "", ",", "x", "search_swap"],
    "--shapes": ["4x4", "4x4,,", "-1x2", "", ".", "llama-7b"],
    "--matrix": ["w.npy", "w.npy:k", "", "."],
    "--n": ["1", "0", "", "1e3", "９"],
    "--sparsity": ["0.5", "nan", "-0", "0.5,0.5"],
    "--depth": ["3", "x"],
    "--dtype": ["f32", "half", "F64,f64", "", "f8"],
    "--seed": ["0", "-1", "9" * 30, "x"],
    "--cold": [],
    "--variants": ["none", "csr", "mask", "", "x"],
    "--peers": ["none", "all", "mkl", "", "x"],
    "--threads": ["1", "0", "1e9"],
    "--time": ["0.1", "-1", "inf"],
    "--quick": [],
    "--part": ["spmm", "x", ""],
    "--out": ["o.jsonl", "w.npy", "."],
    "--plot": ["p.png", "p", "o.jsonl"],
    "--read": ["w.npy", "nope", "bad.jsonl"],
    "--fail-above": ["5%", "5", "%"],
}


def test_no_mixture_of_options_ends_in_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("w.npy", DENSE)
    Path("bad.jsonl").write_text('{"schema":2}\n[]\nnull\n1e999\n"')
    monkeypatch.setattr(command, "_measure", lambda *arguments: False)
    rng = random.Random(15)
    seen = set()
    for _ in range(120):
        arguments = ["bench", *rng.choice([[], [], [], ["foundation"], ["prune"], ["x"]])]
        for option in rng.sample(list(ANY), rng.choice([1, 1, 2, 3])):
            arguments += [option, *(rng.sample(ANY[option], 1) if ANY[option] else [])]
        try:
            status = cli.main(arguments)
        except SystemExit as ended:
            status = int(str(ended.code))
        said = capsys.readouterr()
        seen.add(status)
        assert status in (0, 2), arguments
        assert len(said.err.splitlines()) == (1 if status else 0), arguments
    assert seen == {0, 2}


# Types


@pytest.mark.parametrize(
    ("alias", "name"),
    [("fp32", "f32"), ("float32", "f32"), ("bfloat16", "bf16"), ("bf16", "bf16"), ("half", "f16"),
     ("FP16", "f16"), ("float16", "f16"), ("float64", "f64"), ("torch.bfloat16", "bf16")],
)  # fmt: skip
def test_types_may_be_named_as_others_do(alias: str, name: str) -> None:
    assert short_name(alias) == name
    assert {c.dtype for c in cases_of("--dtype", alias)} == {name}


def test_a_type_that_is_named_twice_is_measured_once() -> None:
    cases = cases_of("--dtype", "fp32, float32,f32", "--n", "1", "--sparsity", "0.9")
    assert len(cases) == 2


# Shapes


def test_shapes_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "layers.txt"
    path.write_text("# mine\n64 32\n\n128 96 7  # with a width\n")
    assert parse_shapes(f"{path},3x4") == [Shape(64, 32), Shape(128, 96, 7), Shape(3, 4)]
    cases = cases_of("--shapes", str(path), "--sparsity", "0.9")
    assert {(c["m"], c["n"]) for c in cases} == {(64, 1), (64, 32), (64, 128), (128, 7)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("64 32\n64x32\n", "line 2 is '64x32', expected 'M K [N]'"),
        ("# nothing\n", "has no shape, expected lines 'M K [N]'"),
        ("2147483648 1\n", "line 1, expected sides below 2^31"),
        (b"\xff\xfe\x00", "is not text, expected lines 'M K [N]'"),
        ("²  3\n", "line 1 is '²  3'"),
    ],
)
def test_a_wrong_file_of_shapes_is_told(
    text: str | bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "layers.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused(capsys, "--shapes", str(path))
    assert f"--shapes: {path}" in said
    assert message in said


# Matrices


DENSE = np.array([[0.0, 2.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.5, 0.0]], np.float32)


def _safetensors(path: Path, **arrays: Any) -> None:
    pytest.importorskip("safetensors.numpy").save_file(arrays, path)


def _scipy(path: Path, form: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    sparse.save_npz(path, getattr(sparse, f"{form}_matrix")(DENSE))


def _market(path: Path) -> None:
    pytest.importorskip("scipy.io").mmwrite(
        path, pytest.importorskip("scipy.sparse").coo_matrix(DENSE)
    )


WRITERS: dict[str, tuple[str, str, Callable[[Path], object]]] = {
    "csr": ("w.npz", "", lambda p: _scipy(p, "csr")),
    "csc": ("w.npz", "", lambda p: _scipy(p, "csc")),
    "bsr": ("w.npz", "", lambda p: _scipy(p, "bsr")),
    "one array": ("w.npz", "", lambda p: np.savez(p, w=DENSE)),
    "a named array": ("w.npz", ":b", lambda p: np.savez(p, a=np.ones(3), b=DENSE)),
    "npy": ("w.npy", "", lambda p: np.save(p, DENSE)),
    "market": ("w.mtx", "", _market),
    "tensor": (
        "w.safetensors",
        ":a.weight",
        lambda p: _safetensors(p, **{"a.weight": DENSE, "b": DENSE[0]}),
    ),
    "only tensor": ("w.safetensors", "", lambda p: _safetensors(p, w=DENSE)),
    "integers": ("w.npy", "", lambda p: np.save(p, (2 * DENSE).astype(np.int8))),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_matrix_is_read_from_a_file(kind: str, tmp_path: Path) -> None:
    name, key, write = WRITERS[kind]
    write(tmp_path / name)
    given = matrices.read_matrix(f"{tmp_path / name}{key}")
    assert given.name == name + key
    assert given.shape == (3, 4)
    assert given.indptr.tolist() == [0, 2, 2, 4]
    assert given.indices.tolist() == [1, 3, 0, 2]
    scale = 2 if kind == "integers" else 1
    assert given.values.tolist() == [2 * scale, -1 * scale, 3 * scale, 0.5 * scale]
    assert given.sparsity == round(8 / 12, 4)


def test_a_bfloat16_tensor_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    save = pytest.importorskip("safetensors.torch").save_file
    save({"w": torch.tensor(DENSE).bfloat16()}, tmp_path / "w.safetensors")
    given = matrices.read_matrix(str(tmp_path / "w.safetensors"))
    assert given.values.tolist() == [2.0, -1.0, 3.0, 0.5]


def test_a_pattern_of_dlmc_gets_values_of_the_seed(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    path = tmp_path / "w.smtx"
    path.write_text("3, 4, 4\n0 2 2 4\n1 3 0 2\n")
    given = matrices.read_matrix(str(path), 5)
    assert given.indptr.tolist() == [0, 2, 2, 4]
    assert given.indices.tolist() == [1, 3, 0, 2]
    assert (given.values != 0).all()
    assert (given.values == matrices.read_matrix(str(path), 5).values).all()
    assert (given.values != matrices.read_matrix(str(path), 6).values).any()


MARKET = "%%MatrixMarket matrix coordinate real general\n2 3 2\n1 1 1.5\n2 3 -2\n"


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "marked"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_text_may_come_from_any_editor(tmp_path: Path, mark: str, end: str) -> None:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_bytes((mark + text.replace("\n", end)).encode())
        return path

    if find_spec("scipy"):
        for path in (
            write("w.mtx", MARKET),
            write("w.smtx", "2, 3, 2\n0 1 2\n0 2\n"),
        ):
            given = matrices.read_matrix(str(path), 0)
            assert given.shape == (2, 3) and list(given.indices) == [0, 2]
    shapes = parse_shapes(str(write("shapes.txt", "64 32 1\n# more\n\n32 64\n")))
    assert [(shape.m, shape.k) for shape in shapes] == [(64, 32), (32, 64)]
    record = run_gossamer(*QUICK, "--out", str(tmp_path / "a.jsonl"))
    assert record.returncode == 0, record.stderr
    written = (tmp_path / "a.jsonl").read_text()
    (plain,), _ = read_runs([tmp_path / "a.jsonl"], OPS)
    (given,), told = read_runs([write("b.jsonl", written)], OPS)
    assert len(given.records) == len(plain.records) and not told


def save_rows(path: Path, form: str, indices: list[int]) -> None:
    """Write what SciPy's load_npz takes for a matrix and does not look at."""
    np.savez(path, format=form.encode(), shape=[1, 1], data=[1.0], indices=indices, indptr=[0, 1])


BROKEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "vector": ("w.npy", lambda p: np.save(p, np.ones(3)), "has shape (3,), expected a matrix"),
    "empty": ("w.npy", lambda p: np.save(p, np.ones((0, 3))), "expected a matrix"),
    "zeros": ("w.npy", lambda p: np.save(p, np.zeros((2, 3))), "no value that is not zero"),
    "complex": ("w.npy", lambda p: np.save(p, np.ones((2, 3), complex)), "expected real numbers"),
    "nan": ("w.npy", lambda p: np.save(p, np.full((2, 3), np.nan)), "values that are not finite"),
    "objects": ("w.npy", lambda p: np.save(p, np.array([[None]])), "cannot be read as .npy"),
    "two": ("w.npz", lambda p: np.savez(p, a=DENSE, b=DENSE), "has several arrays, expected"),
    "no zip": ("w.npz", lambda p: p.write_text("no"), "cannot be read as .npz"),
    "no market": ("w.mtx", lambda p: p.write_text("no"), "cannot be read as .mtx"),
    "short": ("w.smtx", lambda p: p.write_text("3, 4, 4\n0 2 2 4\n1 3\n"), "has 2 entries"),
    "no number": ("w.smtx", lambda p: p.write_text("a\n"), "cannot be read as .smtx"),
    "column": ("w.smtx", lambda p: p.write_text("1, 4, 1\n0 1\n9\n"), "cannot be read as .smtx"),
    "negative": ("w.npz", lambda p: save_rows(p, "csr", [-1]), "cannot be read as .npz"),
    "beyond": ("w.npz", lambda p: save_rows(p, "csc", [9]), "cannot be read as .npz"),
    "no tensors": ("w.safetensors", lambda p: p.write_text("no"), "cannot be read as .safetensors"),
    "large": ("w.npy", lambda p: np.save(p, 1e9 * DENSE), "too large for f16"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_without_a_matrix_is_told(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, write, message = BROKEN[kind]
    if name.endswith(("smtx", "mtx", "npz")):
        pytest.importorskip("scipy")
    if name.endswith("safetensors"):
        pytest.importorskip("safetensors")
    write(tmp_path / name)
    said = refused(capsys, "--matrix", str(tmp_path / name), "--dtype", "f16")
    assert "--matrix: " in said
    assert message in said


def test_a_key_that_is_not_there_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", a=DENSE, b=DENSE)
    with pytest.raises(ValueError, match=r"has no 'c', expected .*w.npz:KEY with one of a, b"):
        matrices.read_matrix(f"{tmp_path / 'w.npz'}:c")


def test_cases_are_on_the_matrix(tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", DENSE)
    cases = cases_of("--matrix", str(tmp_path / "w.npy"), "--op", "linear,to_dense", "--n", "1,8",
                     "--dtype", "f32,bf16")  # fmt: skip
    assert len(cases) == 2 * (2 + 1)
    for case in cases:
        assert (case["m"], case["k"], case["pattern"], case["sparsity"]) == (3, 4, "w.npy", 0.6667)
        assert (draw_matrix(case).dense() != 0).tolist() == (DENSE != 0).tolist()
    assert draw_matrix(cases[0]).dense().tolist() == DENSE.tolist()


def test_a_dense_matrix_is_pruned_to_its_largest_magnitudes(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((20, 30)).astype(np.float32)
    np.save(tmp_path / "w.npy", weights)
    cases = cases_of("--matrix", str(tmp_path / "w.npy"), "--sparsity", "0.5,0.9", "--n", "1")
    for case, kept in zip(cases, (300, 60), strict=True):
        least = np.sort(abs(weights), axis=None)[-kept]
        expected = np.where(abs(weights) >= least, weights, 0)
        assert draw_matrix(case).dense().tolist() == expected.tolist()
        assert case["sparsity"] == 1 - kept / 600


def test_files_of_one_name_stay_apart(tmp_path: Path) -> None:
    for number, folder in enumerate("ab", 1):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "w.npy", number * DENSE)
    specs = [str(tmp_path / folder / "w.npy") for folder in "ab"]
    cases = cases_of("--matrix", *specs, "--n", "1")
    assert [case["pattern"] for case in cases] == specs
    assert [draw_matrix(case).values.max() for case in cases] == [3.0, 6.0]


def test_values_that_round_to_zero_are_left_out() -> None:
    given = matrices.GivenMatrix(
        "w", np.array([0, 2]), np.array([0, 1]), np.array([1e-9, 1.0]), (1, 2)
    )
    indptr, indices, values = given.stored("f16")
    assert (indptr.tolist(), indices.tolist(), values.tolist()) == ([0, 1], [1], [1.0])
    assert given.stored("f32")[0].tolist() == [0, 2]


def test_ops_that_draw_their_own_weights_take_no_matrix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "w.npy", DENSE)
    said = refused(capsys, "--matrix", str(tmp_path / "w.npy"), "--op", "magnitude")
    assert "--matrix: magnitude takes no matrix, expected of linear, spmm" in said
    assert {"linear", "sddmm", "transpose"} <= {
        name
        for name, op in OPS.items()
        if op.on_matrix(matrices.read_matrix(str(tmp_path / "w.npy"))) is not None
    }


def test_a_matrix_is_measured_and_its_records_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weights = np.where(rng.random((24, 40)) < 0.2, rng.standard_normal((24, 40)), 0)
    np.savez(tmp_path / "mine.npz", w=weights)
    out = tmp_path / "out.jsonl"
    done = run_gossamer(
        "bench", "--matrix", "mine.npz", "--op", "linear,to_dense", "--n", "4", "--threads", "1",
        "--rounds", "1", "--time", "0.001", "--peers", "numpy", "--out", str(out), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {(x["op"], x["contender"], x["status"]) for x in lines} == {
        ("linear", "csr", "ok"), ("linear", "packed", "ok"), ("linear", "numpy", "ok"),
        ("to_dense", "csr", "ok"),
    }  # fmt: skip
    assert {(x["pattern"], x["nnz"]) for x in lines} == {("mine.npz", np.count_nonzero(weights))}
    again = run_gossamer("bench", "--read", str(out))
    assert again.returncode == 0, again.stderr
    assert "linear, f32, 1 thread, mine.npz pattern" in again.stdout


def shown_commands() -> list[str]:
    page = (ROOT / "docs/benchmark.md").read_text()
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", page, re.DOTALL)
    lines = [line.removeprefix("$ ").partition("#")[0] for x in blocks for line in x.splitlines()]
    return [line.strip() for line in lines if line.startswith("gossamer bench ")]


@pytest.mark.parametrize("line", shown_commands())
def test_commands_of_the_page_have_known_options(line: str) -> None:
    _, _, *arguments = shlex.split(line)
    if arguments != ["--help"]:
        parser = argparse.ArgumentParser()
        options.add_arguments(parser)
        options.check(parser.parse_args(arguments))


def test_the_output_on_the_page_is_that_of_the_kept_results() -> None:
    page = (ROOT / "docs/benchmark.md").read_text()
    found = re.search(r"```console\n\$ gossamer (bench .*)\n((?:.*\n)*?)```", page)
    assert found
    done = run_gossamer(*shlex.split(found[1]), cwd=ROOT, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert [line.rstrip() for line in done.stdout.splitlines()] == found[2].splitlines()
    assert max(map(len, found[2].splitlines())) <= 80


def test_quick_cases_fit_80_columns() -> None:
    done = run_gossamer(*QUICK, "--n", "1", "--peers", "numpy", "--time", "0.001", COLUMNS="80")
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert "\x1b" not in done.stdout
