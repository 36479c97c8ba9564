"""nvcc compiles the device sources for architectures 80 and 90, some for 90a, without spills."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from device import toolkit_headers
from library import ROOT, locked, run, tool

pytestmark = pytest.mark.once

ARCHITECTURES = ["sm_80", "sm_90"]
#: Kernels that are compiled for 9.0 alone.
FOR_90A = ["bsr_spmm_wgmma", "pack_wgmma"]
#: Kernels that products and conversions of blocks spend their time in, by their templates' names.
HOT = [
    *("csr_rows", "csr_thin", "csr_sddmm", "bsr_spmm", "bsr_spmm_mma", "bsr_sddmm"),
    *FOR_90A,
    *("bsr_sddmm_mma", "bsr_find", "bsr_fill_blocks", "bsr_to_dense_tiles", "bsr_turn_blocks"),
    *("activation_select", "activation_sum", "activation_dot", "decode_sum"),
    *("csr_softmax_rows", "csr_attention_rows", "csr_attention_lists", "graph_rows"),
    *("block_attention", "block_gradients", "block_decode", "block_decode_merge", "block_merge"),
    *("block_pool_rows", "block_topk"),
    *("nm_dots", "nm_mma", "quant_dots", "decoded_product"),
    *("pack_product", "pack_floats", "pack_wide", "bsr_spmm_wide", "pack_fill_strips"),
    *("select_scan", "nm_groups", "select_groups", "update_rows", "select_kth", "select_bins"),
    *("nm_transposable", "vnm_blocks", "grow_list_scores", "select_take"),
    *("group_norms_runs", "group_norms_columns", "group_scale", "count_blocks", "count_entries"),
    *("stats_segments", "obs_panel", "obs_tail", "dsnot_rows"),
]


class Kernel(NamedTuple):
    name: str
    architecture: str
    stack: int
    spilled: int
    registers: int
    shared: int  # static arrays, bytes


REPORT = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<architecture>sm_\d+a?)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers"
    r"(?:[^\n]*?(?P<shared>\d+) bytes smem)?",
    re.DOTALL,
)


def objects(build: Path) -> list[Path]:
    """Return the objects that a build tree makes of device sources."""
    commands = json.loads((build / "compile_commands.json").read_text())
    return [build / made["output"] for made in commands if made["file"].endswith(".cu")]


def reports() -> list[Path]:
    """Return ptxas's report on each object, from the newest build or else from one made here."""
    sources = sorted((ROOT / "cuda").rglob("*.*"))
    kinds = {".cu", ".cuh", ".h", ".txt"}
    changed = max(path.stat().st_mtime for path in sources if path.suffix in kinds)
    for build in sorted(ROOT.glob("build/*/cuda"), reverse=True):
        if not (build.parent / "compile_commands.json").exists():
            continue
        kept = [Path(f"{made}.report") for made in objects(build.parent)]
        if kept and all(path.exists() and path.stat().st_mtime >= changed for path in kept):
            return kept
    if not toolkit_headers():
        pytest.skip("needs nvcc")
    tool("nvcc")
    build = ROOT / "build" / "nvcc"
    cmake, ninja = tool("cmake"), tool("ninja")
    with locked(build):
        run(
            cmake,
            *("-S", ROOT, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"),
            "-DGOSSAMER_CUDA=ON",
        )
        run(ninja, "-C", build, *(str(made.relative_to(build)) for made in objects(build)))
    return [Path(f"{made}.report") for made in objects(build)]


@functools.cache
def kernels() -> list[Kernel]:
    """Read what ptxas reported of each kernel."""
    found = [
        Kernel(
            match["name"],
            match["architecture"],
            int(match["stack"]),
            int(match["stores"]) + int(match["loads"]),
            int(match["registers"]),
            int(match["shared"] or 0),
        )
        for report in reports()
        for match in REPORT.finditer(report.read_text())
    ]
    return found


def test_every_kernel_is_compiled_for_every_architecture() -> None:
    names = {kernel.name for kernel in kernels()}
    assert names
    compiled = {(kernel.name, kernel.architecture) for kernel in kernels()}
    for_90a = {name for name in names if any(kernel in name for kernel in FOR_90A)}
    assert compiled == {
        *((name, architecture) for name in names - for_90a for architecture in ARCHITECTURES),
        *((name, "sm_90a") for name in for_90a),
    }


def test_static_arrays_leave_room_for_dynamic_memory() -> None:
    # launch() asks for shared memory of more than 24 KiB: 48 KiB that need no asking are of both.
    dynamic: set[str] = set()
    defined = re.compile(r"__launch_bounds__\(.*?\)\s+(\w+)\(", re.DOTALL)
    for path in sorted((ROOT / "cuda/src").rglob("*.cuh")):
        text = path.read_text()
        for use in re.finditer(r"dynamic_shared<\w", text):
            dynamic |= set(defined.findall(text[: use.start()])[-1:])
    assert {"block_attention", "block_decode", "block_topk", "nm_mma"} <= dynamic
    chosen = [kernel for kernel in kernels() for name in dynamic if name in kernel.name]
    assert {kernel.shared > 0 for kernel in chosen} == {True, False}
    assert not [kernel for kernel in chosen if kernel.shared > 24 * 1024]


def test_products_of_a_warpgroup_overlap() -> None:
    # C7510: ptxas waits for each wgmma before the next one; spills and calls are what makes it.
    texts = [report.read_text() for report in reports() if "gossamer_cuda_90a" in str(report)]
    assert texts
    assert not [text for text in texts if "C7510" in text or "serialized" in text]


@pytest.mark.parametrize("hot", HOT)
def test_hot_kernels_neither_spill_nor_have_a_stack(hot: str) -> None:
    chosen = [kernel for kernel in kernels() if re.search(rf"\d{hot}[IE]", kernel.name)]
    assert chosen, "is the kernel called something else?"
    assert not [kernel for kernel in chosen if kernel.spilled or kernel.stack]
