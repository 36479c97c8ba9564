"""The command line: options, streams, signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gossamer
import pytest

pytest.importorskip("rich")

from bench_cases import QUICK, environment, run_gossamer
from gossamer import cli
from gossamer.bench import runner
from library import PATIENCE

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "gemm"], "--op: got 'gemm'"),
        (["--shapes", "12"], "shapes: got '12', expected MxK or one of"),
        (["--shapes", f"{1 << 31}x1"], "expected sides below 2^31"),
        (["--shapes", f"{10**20}x1"], "expected MxK or one of"),
        (["--n", "0"], "--n is 0, expected positive integers: widths of the dense operand"),
        (["--n", "two"], "--n is two, expected positive integers"),
        (["--n", str(10**20)], "expected positive integers"),
        (["--op", "to_dense", "--n", "3"], "--n: to_dense has no n"),
        (["--depth", "64"], "--depth: linear has no depth"),
        (["--sparsity", "1.0"], "--sparsity is 1.0, expected fractions in [0, 1) of zeros"),
        (["--sparsity", "nan"], "--sparsity is nan, expected fractions in [0, 1)"),
        (["--sparsity", "most"], "--sparsity is most, expected fractions in [0, 1)"),
        (["--pattern", "round"], "--pattern is round, expected of uniform, skewed"),
        (["--dtype", "f8"], "--dtype: got 'f8', expected of f32"),
        (["--peers", "nobody"], "--peers: got 'nobody'"),
        (["--variants", "none", "--peers", "none"], "nobody to time"),
        (["foundation", "--part", "all"], "--part: got 'all'"),
        (["--part", "spmm"], "--part needs a suite"),
        (["--rounds", "-1"], "--rounds is -1, expected a number from 1 to"),
        (["--rounds", "0"], "--rounds is 0, expected a number from 1 to"),
        (["--threads", "0"], "--threads is 0, expected a number from 1 to 1024"),
        (["--threads", "2000"], "--threads is 2000, expected a number from 1 to 1024"),
        (["--seed", "-1"], "--seed is -1, expected a number from 0"),
        (["--time", "nan"], "--time is nan, expected positive seconds"),
        (["--time", "inf"], "--time is inf, expected positive seconds"),
        (["--time", "0"], "--time is 0, expected positive seconds"),
        (["--budget", "nan"], "--budget is nan, expected seconds"),
        (["--budget", "-1"], "--budget is -1, expected seconds"),
        (["--limits", "x.json"], "--limits is x.json, a GPU's, expected --device cuda"),
        (["--limits", "x.json", "--device", "cuda"], "--limits is x.json: No such file"),
        (["--read", "no.jsonl"], "--read: no.jsonl: No such file or directory"),
        (["--read", "/"], "--read: /: Is a directory"),
        (["--out", "no/such/out.jsonl"], "--out is no/such/out.jsonl, but there is no folder"),
        (["--out", "/"], "--out is /, a folder, expected a file"),
        (["--plot", "no/such/out.png"], "--plot is no/such/out.png, but there is no folder"),
        (["--plot", "."], "--plot is ., a folder, expected a file"),
        (["--plot", "out.xyz"], "--plot is out.xyz, expected an ending of eps,"),
        (["--plot", "out"], "--plot is out, expected an ending of"),
        (["--plugin", "no_such_module"], "No module named 'no_such_module'"),
    ],
)
def test_bad_options_are_named_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = cli.main(["bench", *arguments])
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "gossamer: expected a command: info or bench"),
        (["benhc"], "gossamer: argument {info,bench}: invalid choice: 'benhc'"),
        (["info", "--jsn"], "gossamer: unknown arguments: --jsn"),
        (["bench", "--ops=x"], "gossamer bench: unknown arguments: --ops=x"),
        (["bench", "--seed", "x"], "gossamer bench: argument --seed: invalid int value: 'x'"),
        (["bench", "--read"], "gossamer bench: argument --read: expected at least one argument"),
    ],
)
def test_what_is_no_option_is_told_in_one_line(arguments: list[str], message: str) -> None:
    done = run_gossamer(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


@pytest.mark.parametrize("arguments", [("info",), (*QUICK, "--n", "1")])
def test_a_wrong_instruction_set_is_told_in_one_line(arguments: tuple[str, ...]) -> None:
    done = run_gossamer(*arguments, GOSSAMER_ISA="avx2")
    assert done.returncode == 2
    assert "GOSSAMER_ISA is 'avx2', expected one of baseline" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


def test_what_cannot_be_written_is_refused_before_measuring(tmp_path: Path) -> None:
    locked = tmp_path / "out.jsonl"
    locked.touch()
    locked.chmod(0o444)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write everywhere")
    done = run_gossamer("bench", "--out", str(locked))
    assert done.returncode == 2
    assert f"--out is {locked}, which cannot be written" in done.stderr


def test_results_that_find_no_room_are_told_in_one_line() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    done = run_gossamer(*QUICK, "--n", "1", "--peers", "none", "--time", "0.01", "--out", str(full))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("gossamer bench: [Errno 28]")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("info",), ("info", "--json"), ("--version",)])
def test_what_finds_no_room_on_the_terminal_is_told_in_one_line(command: tuple[str, ...]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gossamer", *command],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, env=environment(),
            check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "gossamer: [Errno 28] No space left on device\n"


def test_version_and_folder_of_cmake() -> None:
    for command in (("-m", "gossamer"), ("-m", "gossamer.cli")):
        done = subprocess.run(
            [sys.executable, *command, "--version"],
            capture_output=True, text=True, timeout=PATIENCE, env=environment(), check=True,
        )  # fmt: skip
        assert done.stdout == f"gossamer {gossamer.__version__}\n"
    done = run_gossamer("--cmakedir")
    try:
        assert done.stdout == f"{gossamer.cmake_dir()}\n"
    except FileNotFoundError as missing:
        assert done.returncode == 2
        assert done.stderr == f"gossamer: {missing}\n"


def test_info_is_json_where_asked() -> None:
    done = run_gossamer("info", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"] == gossamer.__version__
    assert found["isa"] in found["available_isas"]
    assert set(found["cuda"]) == {"built", "available", "devices"}
    assert {"torch", "jax", "cupy", "scipy"} <= set(found["packages"])


def test_info_prints_versions() -> None:
    done = run_gossamer("info")
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
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 2
    assert "pip install 'gossamer[bench]'" in done.stderr


def test_what_there_is_no_time_for_is_named() -> None:
    done = run_gossamer(*QUICK, "--op", "linear", "--n", "1,3", "--peers", "none", "--budget", "0")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert (
        "dropped for want of time, 4 of 4 cases: linear 24x40 N=1 90% f32; linear 24x40 N=3" in said
    )


def test_an_op_of_a_plugin_is_measured_by_its_own_parameters(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    options = ("bench", "--plugin", "wrong_contenders")
    done = run_gossamer(
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
    again = run_gossamer(*options, "--read", str(path))
    assert again.returncode == 1
    assert "multiplied: WRONG RESULT" in again.stdout
    without = run_gossamer("bench", "--read", str(path))
    assert without.returncode == 2
    assert "op 'cumsum' is not known, perhaps for want of --plugin" in without.stdout


def test_a_plugins_parameter_is_an_option(tmp_path: Path) -> None:
    done = run_gossamer(
        "bench", "--plugin", "wrong_contenders", "--op", "cumsum", "--length", "7",
        "--peers", "accumulated", "--rounds", "1", "--time", "0.001",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cumsum, f32" in done.stdout


# What is kept of earlier runs


def test_a_line_that_was_cut_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    done = run_gossamer(
        *QUICK, "--n", "1", "--peers", "numpy", "--time", "0.01", "--out", str(path)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = path.read_text()
    whole = len(text.splitlines())
    path.write_text(text[:-100] + "\n[1]\n{}\n")
    again = run_gossamer("bench", "--read", str(path))
    assert again.returncode == 0, again.stderr
    assert f"{path}: line {whole} is left out: it is not JSON, perhaps cut short" in again.stdout
    assert f"{path}: line {whole + 1} is left out: it is not a record" in again.stdout
    assert f"{path}: line {whole + 2} is left out: it is not a record" in again.stdout
    assert "24x40 N=1 90%" in again.stdout
    path.write_text(text[:30])
    nothing = run_gossamer("bench", "--read", str(path))
    assert nothing.returncode == 2
    assert nothing.stderr == "gossamer bench: --read: no record can be read\n"


# Where the command runs


def test_a_terminal_of_ascii_gets_all_tables(tmp_path: Path) -> None:
    done = run_gossamer(
        *QUICK, "--n", "1", "--peers", "numpy", "--time", "0.01", PYTHONIOENCODING="ascii"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " us " in done.stdout
    assert done.stdout.isascii()
    for arguments in (("--help",), ("bench", "--help"), ("info",), ("bench", "--n", "µ")):
        done = run_gossamer(*arguments, PYTHONIOENCODING="ascii")
        assert "Traceback" not in done.stderr
        assert (done.stdout + done.stderr).isascii()


def test_contenders_import_nothing_from_the_current_folder(tmp_path: Path) -> None:
    for name in ("types", "random", "numpy", "torch", "json", "scipy"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('not the one that is meant')\n")
    code = (
        "import sys; sys.path[:] = [x for x in sys.path if x]; "
        "from gossamer.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *QUICK, "--n", "1", "--peers", "numpy,torch,scipy",
         "--time", "0.01"],
        capture_output=True, text=True, timeout=PATIENCE, env=environment(), cwd=tmp_path,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout


def test_a_plugin_in_the_current_folder_reaches_the_contenders(tmp_path: Path) -> None:
    source = Path(__file__).parent / "wrong_contenders.py"
    (tmp_path / "here_contenders.py").write_text(source.read_text())
    done = run_gossamer(
        *QUICK, "--n", "1", "--time", "0.01", "--variants", "none", "--plugin", "here_contenders",
        "--peers", "right", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("peers", ["raises", "dies", "absent", "raises,dies,absent"])
def test_a_run_that_times_nobody_fails(peers: str) -> None:
    done = run_gossamer(
        *QUICK, "--n", "1", "--time", "0.01", "--variants", "none", "--plugin", "wrong_contenders",
        "--peers", peers,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def begun(tmp_path: Path, cases: int) -> tuple[subprocess.Popen[str], Path]:
    """Begin a run, and wait until it measures."""
    out = tmp_path / "out.jsonl"
    (tmp_path / "scratch").mkdir()
    # Under nohup a process ignores SIGHUP, in a shell's background SIGINT; so would its children.
    handlers = [(x, signal.signal(x, signal.SIG_DFL)) for x in (signal.SIGHUP, signal.SIGINT)]
    process = subprocess.Popen(
        [sys.executable, "-m", "gossamer", *QUICK, "--n", ",".join(map(str, range(1, cases))),
         "--peers", "numpy", "--time", "0.01", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(TMPDIR=str(tmp_path / "scratch")),
    )  # fmt: skip
    for number, handler in handlers:
        signal.signal(number, handler)
    end = time.monotonic() + PATIENCE
    while (
        not (out.exists() and out.read_text().endswith("\n"))
        and process.poll() is None
        and time.monotonic() < end
    ):
        time.sleep(0.02)
    assert out.exists()
    assert len(list((tmp_path / "scratch").glob("gossamer-bench-*"))) == 1
    return process, out


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_run_that_is_ended_leaves_results_and_nothing_else(name: str, tmp_path: Path) -> None:
    process, out = begun(tmp_path, 400)
    number = getattr(signal, name)
    process.send_signal(number)
    said, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    if name == "SIGINT":
        assert errors.splitlines()[-1].strip().endswith("gossamer: interrupted")
        assert re.search(r"interrupted after \d+ of 798 cases", said)
        assert "24x40 N=1 90%" in said  # what was measured is shown
    assert not list((tmp_path / "scratch").iterdir())
    assert [json.loads(line) for line in out.read_text().splitlines()]


def test_a_worker_ends_though_nobody_releases_its_lock() -> None:
    # As where a signal's handler raises within Popen.poll(), before its "try".
    process = runner.Process("sleeper", 1, [])
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    process.popen = subprocess.Popen(sleep, text=True)
    process.popen._waitpid_lock.acquire()  # type: ignore[attr-defined]
    process.close()
    process.errors.close()
    assert process.popen is None


def test_a_run_that_is_killed_leaves_whole_lines(tmp_path: Path) -> None:
    process, out = begun(tmp_path, 400)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert {json.loads(line)["status"] for line in out.read_text().splitlines()} == {"ok"}


def test_a_reader_that_goes_away_ends_the_run_quietly(tmp_path: Path) -> None:
    process, out = begun(tmp_path, 5)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as stream:
        errors = stream.read()
    assert process.wait(60) != 0
    assert "Traceback" not in errors
    assert "BrokenPipeError" not in errors
    assert not list((tmp_path / "scratch").iterdir())
    for arguments in (("info",), ("info", "--json"), ("bench", "--read", str(out)), ("--help",)):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as closed:
            done = subprocess.run(
                [sys.executable, "-m", "gossamer", *arguments],
                stdout=closed, stderr=subprocess.PIPE, text=True, timeout=PATIENCE,
                env=environment(PYTHONUNBUFFERED=""), check=False,
            )  # fmt: skip
        assert done.stderr == "", arguments
        assert done.returncode != 0 or arguments == ("--help",), arguments
