"""Instruction set levels: no weak symbols in kernels, choice of a level; who includes whom."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import gossamer
import pytest
from library import ROOT, prefix, run, tool

pytestmark = pytest.mark.once

#: The namespaces of the levels.
LEVEL = "baseline|v3|v4|bf16|amx"
KERNELS = sorted((ROOT / "cpp/src").glob("**/kernels/*.cpp"))
LEVELS = gossamer.info()["available_isas"]


def kernel_objects() -> dict[tuple[str, str], list[str]]:
    """Return the lines of `nm` for each (ISA level, object file) of the kernels in the library."""
    (archive,) = prefix().glob("lib*/libgossamer.a")
    objects: dict[tuple[str, str], list[str]] = defaultdict(list)
    for block in run(tool("nm"), "-C", archive).split("\n\n"):
        name, *symbols = block.strip().splitlines()
        levels = set(re.findall(rf" [TDRB] gossamer::detail::({LEVEL})::", "\n".join(symbols)))
        assert len(levels) <= 1, f"{name} defines kernels of several levels: {levels}"
        for level in levels:
            objects[level, name.removesuffix(":").removesuffix(".o")] += symbols
    return objects


def lowest_levels() -> dict[str, str]:
    """Return the lowest level of each kernel, as its family lists it."""
    listed: dict[str, str] = {}
    for path in (ROOT / "cpp/src").rglob("kernels.inc"):
        for lowest, name in re.findall(r"GOSSAMER_KERNEL\((\w+), (\w+),", path.read_text()):
            assert name not in listed, "the names of kernels are unique"
            listed[name] = lowest
    return listed


def test_every_kernel_is_built_for_the_levels_that_it_names() -> None:
    names = lowest_levels()
    lowest: dict[str, set[str]] = defaultdict(set)
    for source in KERNELS:
        for name in re.findall(r"^void (\w+)\(", source.read_text(), re.MULTILINE):
            if name in names:
                lowest[source.name].add(names[name])
    built = kernel_objects()
    common = {level for level, _ in built} - {"bf16", "amx"}
    assert "baseline" in common
    levels = {"baseline": common, "v3": common - {"baseline"}}
    expected = {
        (level, source.name)
        for source in KERNELS
        for named in lowest[source.name]
        for level in levels.get(named, {named})
    }
    assert set(built) == expected


LEVELS_PROGRAM = r"""
#include "base/levels.h"

struct Args {};
using gossamer::detail::Level;
static Level chosen = Level::baseline;
Level gossamer::detail::level() { return chosen; }

namespace baseline { void everywhere(const Args&) {} }
namespace v3 { void everywhere(const Args&) {} void wider(const Args&) {} }
namespace v4 { void everywhere(const Args&) {} void wider(const Args&) {} }
namespace bf16 { void pairs(const Args&) {} }
namespace amx { void tiles(const Args&) {} }

int main() {
  const gossamer::detail::KernelLevels<Args> all = GOSSAMER_LEVELS_baseline(everywhere);
  const gossamer::detail::KernelLevels<Args> wider = GOSSAMER_LEVELS_v3(wider);
  const gossamer::detail::KernelLevels<Args> pairs = GOSSAMER_LEVELS_bf16(pairs);
  const gossamer::detail::KernelLevels<Args> tiles = GOSSAMER_LEVELS_amx(tiles);
  const auto kernel = [&](Level level, const auto& levels) {
    chosen = level;
    return gossamer::detail::choose_kernel<Args>(levels);
  };
  // A level's own kernel, else that of the next lower level that has one, else none.
  return kernel(Level::baseline, all) == &baseline::everywhere &&
                 kernel(Level::v3, all) == &v3::everywhere &&
                 kernel(Level::v4, all) == &v4::everywhere &&
                 kernel(Level::amx, all) == &v4::everywhere &&
                 kernel(Level::baseline, wider) == nullptr &&
                 kernel(Level::v3, wider) == &v3::wider && kernel(Level::v4, wider) == &v4::wider &&
                 kernel(Level::amx, pairs) == &bf16::pairs &&
                 kernel(Level::v4, pairs) == nullptr &&
                 kernel(Level::amx, tiles) == &amx::tiles && kernel(Level::v4, tiles) == nullptr
             ? 0
             : 1;
}
"""


@pytest.mark.skipif(LEVELS[0] == LEVELS[-1], reason="needs a processor with several levels")
def test_a_level_without_a_kernel_takes_the_next_lower_one(tmp_path: Path) -> None:
    source = tmp_path / "levels.cpp"
    source.write_text(LEVELS_PROGRAM)
    program = tmp_path / "levels"
    folders = [f"-I{ROOT / path}" for path in ("cpp/src", "cpp/include")]
    run(tool("c++"), "-std=c++20", *folders, source, "-o", program)
    run(program)


def test_kernel_objects_define_no_weak_symbol() -> None:
    # The linker keeps one weak definition for the whole program: it may be the AVX-512 one.
    weak = {
        key: found
        for key, symbols in kernel_objects().items()
        if (found := [line for line in symbols if re.match(r"[0-9a-f]+ +[WVu] ", line)])
    }
    assert not weak


@pytest.mark.long
def test_no_name_is_defined_both_strong_and_weak() -> None:
    # Two definitions of one name, of which one is inline or a template: the linker keeps the strong
    # one in silence. Only a build without optimisation has every definition in its objects.
    build = ROOT / "build" / "unoptimised"
    # The lowest level is enough: kernels of others have the same names in another namespace, and
    # the test above looks at the weak ones.
    flags = ["-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O0", "-DGOSSAMER_CUDA=OFF"]
    flags.append("-DGOSSAMER_HIGHEST_LEVEL=baseline")
    ninja = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}")
    run(tool("cmake"), "-S", ROOT, "-B", build, *ninja, *flags)
    run(tool("cmake"), "--build", build, "--target", "gossamer")
    kinds: dict[str, set[str]] = defaultdict(set)
    for line in run(tool("nm"), "--defined-only", build / "cpp/libgossamer.a").splitlines():
        match = re.fullmatch(r"[0-9a-f]+ ([TDBRVWu]) (\w+)", line)
        if match:
            kinds[match[2]].add("weak" if match[1] in "VWu" else "strong")
    assert len(kinds) > 1000
    assert not [name for name, found in kinds.items() if len(found) > 1]


def test_kernels_use_nothing_of_the_standard_library() -> None:
    used = {
        key: found
        for key, symbols in kernel_objects().items()
        if (found := [line for line in symbols if re.search(r" U .*\bstd::", line)])
    }
    assert not used


# What the files of a layer may include, as regular expressions over the text between <> or "".
# `{family}` stands for the folder that a file's family has in the tree.
STANDARD = r"[a-z_0-9]+"
PUBLIC = r"gossamer/(\w+/)*\w+\.h"
SYSTEM = r"cxxabi\.h|pthread\.h|sched\.h|cpuid\.h|unistd\.h|sys/\w+\.h"
SHARED = r"(base|simd|formats/(\w+/)?)/?\w+\.h"
DEVICE = r"([a-z]+/)*\w+\.(h|cuh)|\.\./\.\./emulation/(simt|hopper)\.h"
KERNEL = r"cstdint|cstddef|cassert|immintrin\.h|arm_neon\.h|simd/\w+\.h|{family}/args\.h"
SOURCES = {".h", ".cpp", ".inc", ".cu", ".cuh"}
#: The families of cpp/src, and those whose internal headers each may include.
FAMILIES = {
    "activation": "activation",
    "attention": "attention|prune",
    "formats": "formats|products",
    "products": "products",
    "prune": "prune",
    "regrow": "regrow|prune",
    "graph": "graph",
}


def includes(file: Path) -> list[str]:
    return re.findall(r'^#include [<"](.+?)[>"]', file.read_text(), re.MULTILINE)


def refused(files: list[Path], allowed: str) -> list[str]:
    """Return the includes of some files that a regular expression does not match."""
    assert files
    return [
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in includes(file)
        if not re.fullmatch(allowed, name)
    ]


def sources(folder: str) -> list[Path]:
    return [f for f in (ROOT / folder).rglob("*") if f.suffix in SOURCES]


@pytest.mark.parametrize("source", KERNELS, ids=lambda path: path.stem)
def test_kernel_includes_its_arguments_and_vectors(source: Path) -> None:
    family = str(source.parent.parent.relative_to(ROOT / "cpp/src"))
    assert not refused([source], KERNEL.format(family=family))


def test_vectors_include_no_family() -> None:
    own = (
        r"cstdint|cstddef|immintrin\.h|arm_neon\.h|simd/\w+\.h"
        r"|gossamer/dtype\.h|gossamer/prune/enums\.h|gossamer/detail/philox\.h"
    )
    assert not refused(sources("cpp/src/simd"), own)


@pytest.mark.parametrize("family", FAMILIES)
def test_family_includes_no_other(family: str) -> None:
    files = [f for f in sources(f"cpp/src/{family}") if f.parent.name != "kernels"]
    own = rf"({FAMILIES[family]})/([a-z]+/)*\w+\.(h|inc)"
    assert not refused(files, f"{STANDARD}|{PUBLIC}|{SHARED}|{own}")


def test_base_includes_no_family() -> None:
    files = [f for f in sources("cpp/src/base") if f.parent.name != "kernels"]
    assert not refused(files, rf"{STANDARD}|{SYSTEM}|{PUBLIC}|(base|simd)/\w+\.(h|inc)")


LAYERS = {
    "cpp/include": f"{STANDARD}|{PUBLIC}",
    "cuda/include": f"{STANDARD}|{PUBLIC}",
    "cuda/src": f"{STANDARD}|{PUBLIC}|{DEVICE}",
    "python/src": rf"{STANDARD}|{SYSTEM}|{PUBLIC}|pybind11/\w+\.h|([a-z]+/)+\w+\.h",
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_includes_only_what_it_may(layer: str) -> None:
    assert not refused(sources(layer), LAYERS[layer])


def test_bindings_include_headers_of_their_own_or_public_ones() -> None:
    own = ROOT / "python/src"
    missing = [
        f"{file.name}: {name}"
        for file in own.rglob("*.*")
        for name in re.findall(r'^#include "([\w/]+\.h)"', file.read_text(), re.MULTILINE)
        if not name.startswith("gossamer/") and not (own / name).exists()
    ]
    assert not missing


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("level", LEVELS)
def test_variable_selects_level(level: str) -> None:
    code = """
import numpy as np, gossamer
a = gossamer.CSR.from_dense(np.eye(3, dtype=np.float32))
print(gossamer.info()["isa"], gossamer.spmm(a, np.arange(3, dtype=np.float32)).tolist())
"""
    done = python(code, GOSSAMER_ISA=level)
    assert done.stdout.strip() == f"{level} [0.0, 1.0, 2.0]", done.stderr


def test_best_level_is_the_default() -> None:
    done = python('import gossamer; print(gossamer.info()["isa"])', GOSSAMER_ISA="")
    assert done.stdout.strip() == LEVELS[-1], done.stderr


def test_pairs_are_not_the_default_on_processors_that_add_them_slowly() -> None:
    if "avx512_bf16" not in LEVELS:
        pytest.skip("needs a processor with pairs of bfloat16")
    order = LEVELS.index("avx512_bf16") - LEVELS.index("x86-64-v4")
    assert order == (-1 if "GenuineIntel" in Path("/proc/cpuinfo").read_text() else 1)


def test_tiles_are_found_where_the_level_has_them() -> None:
    # At a level with tiles the probe runs them: the system's permission was granted.
    for level in LEVELS:
        done = python(
            "from gossamer import _core; print(_core.tile_peak(0.01))", GOSSAMER_ISA=level
        )
        assert (float(done.stdout) > 0) == (level == "amx"), done.stderr


def test_unknown_level_names_the_known_ones() -> None:
    done = python("import gossamer; gossamer.info()", GOSSAMER_ISA="sse9")
    expected = f"ValueError: GOSSAMER_ISA is 'sse9', expected one of {', '.join(LEVELS)}"
    assert done.stderr.strip().splitlines()[-1] == expected
