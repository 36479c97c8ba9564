"""The SIMT emulation computes what CUDA would, and reports kernels that are wrong."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from library import PATIENCE, ROOT, run, tool

pytestmark = pytest.mark.once

SOURCES = ROOT / "tests/cuda/simt"
EMULATION = sorted((ROOT / "cuda/emulation").glob("*.cpp"))
WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wshadow",
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
    "-Werror",
]
CHECKS = ["-fsanitize=thread,alignment,bounds", "-fno-sanitize-recover=all"]

SOUND = {
    "block_sums",
    "dynamic_tiles",
    "atomics",
    "shuffle_lanes",
    "vote",
    "copy_pipeline",
    "products_f16",
    "products_bf16",
    "products_tf32",
    "products_sparse_f16",
    "products_sparse_bf16",
    "matrices",
    "launch_bounds",
    "shared_memory",
    "show_order",
    "many_switches",
}

#: Of hopper.cu.
HOPPER = {
    "bulk_ring",
    "bulk_out",
    "mbarrier_rounds",
    "tiles",
    "refused_maps",
    "products_by_rows",
    "products_transposed",
    "products_from_registers",
}

NOTHING_WROTE = "read of 4 bytes, of shared memory that nothing wrote"
RACE = "with no barrier between (race)"
NOT_WAITED = "of shared memory whose asynchronous copy was not waited for"
BROKEN = {
    "missing_barrier": ("IllegalAddress", f"({re.escape(RACE)}|{NOTHING_WROTE})"),
    "missing_second_barrier": ("IllegalAddress", f"({re.escape(RACE)}|{NOTHING_WROTE})"),
    "missing_warp_barrier": ("IllegalAddress", re.escape(RACE)),
    "same_word": ("IllegalAddress", "write of 4 bytes, .* " + re.escape(RACE)),
    "overwrites_what_others_read": ("IllegalAddress", re.escape(RACE)),
    "barrier_in_branch": (
        "LaunchTimeout",
        r"threads wait for each other: 32 at the barrier of broken.cu:\d+ \(thread \(0, 0, 0\)\); "
        r"32 returned \(thread \(32, 0, 0\)\)",
    ),
    "barrier_after_return": ("LaunchTimeout", r"1 returned \(thread \(5, 0, 0\)\)"),
    "divergent_barrier": (
        "IllegalInstruction",
        r"divergent barrier: it is at broken.cu:\d+, thread \(\d+, 0, 0\) at broken.cu:\d+",
    ),
    "missing_wait": ("IllegalAddress", NOT_WAITED),
    "wait_for_too_few": ("IllegalAddress", NOT_WAITED),
    "wait_without_barrier": (
        "IllegalAddress",
        f"({re.escape(RACE)}|{NOTHING_WROTE}|{NOT_WAITED})",
    ),
    "read_past_end": (
        "IllegalAddress",
        r"thread \(63, 0, 0\): read of 4 bytes, ends 4 bytes past 256 bytes of device memory, "
        r"at broken.cu:\d+",
    ),
    "write_before_start": (
        "IllegalAddress",
        r"thread \(0, 0, 0\): write of 4 bytes, 4 bytes before 256 bytes of device memory",
    ),
    "copy_past_end": ("IllegalAddress", "read of 4 bytes, ends 4 bytes past 256 bytes"),
    "atomic_past_end": ("IllegalAddress", "atomic operation of 4 bytes, ends 4 bytes past 256"),
    "freed_memory": ("IllegalAddress", "write of 4 bytes, .*device memory"),
    "host_pointer": ("IllegalAddress", "read of 4 bytes, no device memory"),
    "dynamic_past_end": ("IllegalAddress", "beyond the 252 bytes of shared memory"),
    "static_past_end": ("IllegalAddress", "index 64 outside an array, at broken.cu"),
    "uninitialised": ("IllegalAddress", rf"thread \(7, 0, 0\): {NOTHING_WROTE}"),
    "uninitialised_in_second_block": ("IllegalAddress", rf"block \(1, 0, 0\).*{NOTHING_WROTE}"),
    "lane_not_in_mask": ("IllegalInstruction", "its lane is not in the mask"),
    "reads_lane_not_in_mask": ("IllegalInstruction", "it reads lane .*, not in the mask"),
    "lanes_missing": ("LaunchTimeout", r"16 at broken.cu:\d+ for the lanes 0xffffffff"),
    "different_masks": (
        "(LaunchTimeout|IllegalInstruction)",
        "(with another mask|for the lanes 0xffffffff)",
    ),
    "different_places": ("IllegalInstruction", "divergent warp"),
    "misaligned": ("MisalignedAddress", "access not aligned to 16 bytes, at broken.cu"),
    "misaligned_copy": ("MisalignedAddress", "cp.async: global address not aligned to 16"),
    "misaligned_matrix": ("MisalignedAddress", "ldmatrix: row not aligned to 16"),
    "misaligned_store": ("MisalignedAddress", "access not aligned to 16 bytes, at broken.cu"),
    "misaligned_copy_to": ("MisalignedAddress", "cp.async: shared address not aligned to 8"),
    "same_position_twice": (
        "IllegalInstruction",
        "mma.sp: row 8 of A has the positions 1 and 1 in group 0, expected rising ones",
    ),
    "falling_positions": ("IllegalInstruction", "row 0 of A has the positions 1 and 0 in group 0"),
    "too_many_for_its_bounds": ("LaunchOutOfResources", "beyond_launch_bounds"),
    "too_many_blocks": ("InvalidConfiguration", ""),
    "too_deep_a_block": ("InvalidConfiguration", ""),
    "too_much_without_asking": ("InvalidValue", "launch of .*dynamic_past_end"),
    "too_many_threads": ("InvalidConfiguration", ""),
    "too_much_beside_static_arrays": ("InvalidValue", "launch of .*static_and_dynamic"),
    "too_much_after_asking_for_less": ("InvalidValue", "launch of .*static_and_dynamic"),
    "too_much_shared_memory": ("InvalidValue", "cudaFuncSetAttribute"),
}
PENDING = "of shared memory whose bulk copy was not waited for"
NO_PROXY_FENCE = (
    "by an asynchronous instruction, of shared memory that an ordinary one wrote, with no "
    r"fence.proxy.async between"
)
STILL_READ = "of shared memory that an asynchronous instruction still reads"
SUMS = "of an accumulator whose wgmma was not waited for, at hopper_broken.cu"
#: Of hopper_broken.cu.
HOPPER_BROKEN = {
    "load_no_expect": ("IllegalInstruction", "copy of 256 bytes, of which expect_tx announced 0"),
    "load_expects_more": (
        "LaunchTimeout",
        r"64 at hopper_broken.cu:\d+ for phase 0 of an mbarrier, which lacks 0 arrivals and 16 b",
    ),
    "load_wrong_parity": ("LaunchTimeout", "phase 1 of an mbarrier, which lacks 1 arrivals and 0"),
    "load_parity_of_two": ("IllegalInstruction", "the parity 2"),
    "load_too_few_arrivals": ("LaunchTimeout", "which lacks 1 arrivals and 0 bytes"),
    "load_too_many_arrivals": ("IllegalInstruction", "more than the 1 arrivals of an mbarrier's"),
    "load_no_wait": ("IllegalAddress", f"({PENDING}|{NOTHING_WROTE})"),
    "load_waits_for_another": ("IllegalAddress", PENDING),
    "load_no_barrier_after_init": (
        "IllegalInstruction",
        r"(an mbarrier that another thread initialised, with no barrier between \(race\)|"
        "no mbarrier was initialised here)",
    ),
    "load_no_init": ("IllegalInstruction", "no mbarrier was initialised here"),
    "load_no_fence_of_init": ("IllegalInstruction", "no fence.mbarrier_init since it was init"),
    "load_reads_mbarrier": ("IllegalAddress", "read of 8 bytes, .* that holds an mbarrier"),
    "load_misaligned_from": ("MisalignedAddress", "bulk: global address not aligned to 16 bytes"),
    "load_misaligned_to": ("MisalignedAddress", "bulk: shared address not aligned to 16 bytes"),
    "load_odd_size": ("IllegalInstruction", "of 248 bytes, expected a multiple of 16"),
    "load_past_end": ("IllegalAddress", "read of 256 bytes, ends 16 bytes past 256 bytes"),
    "load_nobody_waits": ("IllegalInstruction", "ends with bulk copies that nobody waited for"),
    "load_overwritten_too_early": ("IllegalAddress", re.escape(RACE)),
    "load_filled_too_early": ("IllegalAddress", f"write of 256 bytes, .*{re.escape(RACE)}"),
    "load_filled_without_fence": ("IllegalAddress", f"write of 256 bytes, {NO_PROXY_FENCE}"),
    "store_no_fence": ("IllegalAddress", f"read of 256 bytes, {NO_PROXY_FENCE}"),
    "store_fence_after_barrier": ("IllegalAddress", f"read of 256 bytes, {NO_PROXY_FENCE}"),
    "store_no_wait": ("IllegalInstruction", "returned before its bulk copies were waited for"),
    "store_overwrites": ("IllegalAddress", f"write of 4 bytes, {STILL_READ}"),
    "store_past_end": ("IllegalAddress", "write of 256 bytes, ends 16 bytes past 256 bytes"),
    "store_no_shared": ("IllegalInstruction", "cp.async.bulk: no shared memory"),
    "tile_wrong_rank": ("IllegalInstruction", "3 coordinates of a tensor with 2"),
    "tile_no_map": ("IllegalInstruction", "not a map of cuTensorMapEncodeTiled"),
    "tile_misaligned": ("MisalignedAddress", "shared address not aligned to 128 bytes"),
    "tile_past_end": ("IllegalAddress", "read of 16 bytes, ends 16 bytes past 1024 bytes"),
    "tile_no_wait": ("IllegalAddress", f"read of 2 bytes, {PENDING}"),
    "product_no_wgmma_fence": ("IllegalInstruction", "no wgmma.fence since its registers"),
    "product_no_proxy_fence": ("IllegalAddress", f"read of 16 bytes, {NO_PROXY_FENCE}"),
    "product_no_barrier": (
        "IllegalAddress",
        f"read of 16 bytes, ({re.escape('of shared memory that another thread wrote, ' + RACE)}|"
        "of shared memory that nothing wrote)",
    ),
    "product_no_wait": ("IllegalInstruction", "returned before its wgmma were waited for"),
    "product_no_commit": ("IllegalAddress", SUMS),
    "product_waits_for_too_few": ("IllegalAddress", SUMS),
    "product_reads_sums": ("IllegalAddress", SUMS),
    "product_overwrites_operand": ("IllegalAddress", f"({STILL_READ}|{re.escape(RACE)})"),
    "product_overwrites_registers": ("IllegalInstruction", "of a wgmma's A were written before"),
    "product_three_warps": ("IllegalInstruction", "by some warps of its warpgroup, not by all"),
    "product_other_operands": ("IllegalInstruction", "of a warpgroup pass different operands"),
    "product_begins_in_row": ("IllegalInstruction", "matrix A begins in row 5 of its swizzle's"),
    "product_unwritten_operand": ("IllegalAddress", "of shared memory that nothing wrote"),
}
#: Kernels whose name is not that of their case.
KERNELS = {
    "freed_memory": "same_word",
    "same_position_twice": "bad_metadata",
    "falling_positions": "bad_metadata",
    **{case: f"{case.split('_')[0]}s" for case in HOPPER_BROKEN},
}


def cuda_include() -> Path:
    """Return the folder of CUDA's headers, whose types the emulation uses."""
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    if not (home / "include/cuda_fp16.h").exists():
        pytest.skip("needs the CUDA headers (set CUDA_HOME)")
    return home / "include"


class Emulation:
    """The emulation, compiled once with some flags, and programs built on it."""

    def __init__(self, folder: Path, *flags: str) -> None:
        include = [f"-I{ROOT / path}" for path in ("cpp/include", "cuda/src")]
        self.flags = [
            "-std=c++20",
            "-g1",
            *WARNINGS,
            "-isystem",
            str(cuda_include()),
            *include,
            *flags,
        ]
        self.folder = folder
        self.objects = [folder / f"{source.stem}.emulation.o" for source in EMULATION]
        for source, compiled in zip(EMULATION, self.objects, strict=True):
            run(tool("c++"), *self.flags, "-O2", "-c", source, "-o", compiled)

    def build(self, name: str, *flags: str) -> Path:
        """Compile tests/cuda/simt/<name>.cu, with `flags` for this source only."""
        kernels = [*self.flags, "-O1", "-DGOSSAMER_EMULATED", "-x", "c++", *flags]
        compiled, program = self.folder / f"{name}.o", self.folder / name
        run(tool("c++"), *kernels, "-c", SOURCES / f"{name}.cu", "-o", compiled)
        run(tool("c++"), *self.flags, compiled, *self.objects, "-o", program, "-ldl")
        return program


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Emulation:
    return Emulation(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Emulation:
    return Emulation(tmp_path_factory.mktemp("sanitized"), "-fsanitize=address")


@pytest.fixture(scope="module")
def sound(plain: Emulation) -> Path:
    return plain.build("sound", *CHECKS)


@pytest.fixture(scope="module")
def broken(plain: Emulation) -> Path:
    return plain.build("broken", *CHECKS)


@pytest.fixture(scope="module")
def hopper(plain: Emulation) -> Path:
    return plain.build("hopper", *CHECKS)


@pytest.fixture(scope="module")
def hopper_broken(plain: Emulation) -> Path:
    return plain.build("hopper_broken", *CHECKS)


def execute(program: Path, case: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [program, case],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_lists_name_every_case(sound: Path, broken: Path) -> None:
    assert set(run(sound).split()) == SOUND
    assert set(run(broken).split()) == set(BROKEN)


def test_lists_name_every_case_for_hopper(hopper: Path, hopper_broken: Path) -> None:
    assert set(run(hopper).split()) == HOPPER
    assert set(run(hopper_broken).split()) == {"no_fault", *HOPPER_BROKEN}


@pytest.mark.parametrize("seed", ["0", "1", "2"])
@pytest.mark.parametrize("case", sorted(HOPPER))
def test_computes_what_the_manual_says_of_hopper(hopper: Path, case: str, seed: str) -> None:
    code, printed = execute(hopper, case, GOSSAMER_EMULATION_SEED=seed)
    assert (code, printed.splitlines()[-1]) == (0, "ok"), printed


@pytest.mark.parametrize("seed", ["0", "1", "2"])
@pytest.mark.parametrize("case", sorted(SOUND))
def test_computes_what_the_manual_says(sound: Path, case: str, seed: str) -> None:
    code, printed = execute(sound, case, GOSSAMER_EMULATION_SEED=seed)
    assert (code, printed.splitlines()[-1]) == (0, "ok"), printed


@pytest.mark.parametrize("case", sorted(BROKEN))
def test_broken_kernel_is_reported(broken: Path, case: str) -> None:
    reports(broken, case, *BROKEN[case])


@pytest.mark.parametrize("case", sorted(HOPPER_BROKEN))
def test_broken_kernel_for_hopper_is_reported(hopper_broken: Path, case: str) -> None:
    reports(hopper_broken, case, *HOPPER_BROKEN[case])


def test_kernels_for_hopper_without_a_fault_are_right(hopper_broken: Path) -> None:
    for seed in "0123":
        assert execute(hopper_broken, "no_fault", GOSSAMER_EMULATION_SEED=seed) == (0, "ok\n")


def reports(broken: Path, case: str, error: str, what: str) -> None:
    for seed in "0123":
        code, printed = execute(broken, case, GOSSAMER_EMULATION_SEED=seed)
        assert code == 1
        assert re.search(rf"cudaError{error}\b", printed), printed
        assert re.search(what, printed), printed
        if not case.startswith("too_"):
            name = KERNELS.get(case, case)
            where = rf"^launch of .*{name}.*: block \(\d+, 0, 0\), thread \(\d+, 0, 0\): "
            assert re.search(where, printed), printed


def test_seed_chooses_the_order_of_blocks(sound: Path) -> None:
    orders = {execute(sound, "show_order", GOSSAMER_EMULATION_SEED=s)[1] for s in "1234"}
    assert len(orders) > 1
    again = {execute(sound, "show_order", GOSSAMER_EMULATION_SEED="7")[1] for _ in range(3)}
    assert len(again) == 1


def test_address_sanitizer_knows_the_fibers(sanitized: Emulation) -> None:
    program = sanitized.build("sound")
    for case in sorted(SOUND):
        options = "detect_stack_use_after_return=1"
        code, printed = execute(program, case, ASAN_OPTIONS=options)
        assert (code, printed.splitlines()[-1]) == (0, "ok"), printed


def test_address_sanitizer_names_kernel_and_thread(sanitized: Emulation) -> None:
    program = sanitized.build("broken")
    for case in ("read_past_end", "write_before_start", "static_past_end"):
        code, printed = execute(program, case)
        assert code != 0
        assert "AddressSanitizer" in printed
        assert re.search(rf"kernel .*{case}.*, block .*, thread \(\d+, 0, 0\)", printed), printed
    for case in ("barrier_in_branch", "divergent_barrier", "lane_not_in_mask", "copy_past_end"):
        error, what = BROKEN[case]
        code, printed = execute(program, case)
        assert code == 1
        assert re.search(rf"cudaError{error}\b.*{what}", printed), printed


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        *((name, architecture) for name in ("sound", "broken") for architecture in ("80", "90")),
        ("hopper", "90a"),
    ],
)
def test_same_sources_compile_for_a_gpu(name: str, architecture: str, tmp_path: Path) -> None:
    include = [f"-I{ROOT / path}" for path in ("cpp/include", "cuda/src")]
    target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    flags = ["-std=c++20", target, "-Werror=all-warnings", *include]
    run(tool("nvcc"), *flags, "-c", SOURCES / f"{name}.cu", "-o", tmp_path / "object.o")
