"""Faults that are planted in the CUDA sources, to see that the tests find them on the emulation.

Each fault replaces a piece of a source by a wrong one. Which fault acts is chosen at run time, so
that all faults of a source are compiled once, without optimisation and for half precision alone.
As a program, it loads an extension that `build` has made, makes each fault act in turn, and prints
as JSON what the check of each says of it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCES = ROOT / "cuda/src"

#: Sources that are compiled with the faults of the headers that they include.
UNITS = [
    *(f"products/{name}.cu" for name in ("bsr_spmm", "csr_rows", "csr_thin", "nm", "spmm")),
    *("products/packed.cu", "products/packed_floats.cu", "formats/packed/pack.cu"),
    "formats/csr/csr_transpose.cu",
    *(f"prune/{name}.cu" for name in ("column_order", "diagnostics", "groups")),
    *(f"prune/{name}.cu" for name in ("layerwise", "patterns")),
    *("prune/select.cu", "prune/topk_mask.cu", "regrow/drop_grow.cu"),
    *("products/bsr_wgmma.cu", "products/packed_wgmma.cu"),
    "formats/layout/layout.cu",
]
#: What the units are spared: with_element_type calls its function for this type only.
ONE_TYPE = (
    "base/kernels/numbers.cuh",
    "switch (dtype) {\n    case DType::f64:",
    "return f(__half{});",
)


class Fault(NamedTuple):
    """A piece of a source between « and », within enough to find it, and what stands instead.

    An @ in it is the piece itself. A piece that ends in a semicolon is a statement.
    """

    source: str
    place: str
    wrong: str
    check: str
    operands: tuple[str, str]

    @property
    def name(self) -> str:
        place = " ".join(self.place.replace("«", "[").replace("»", "]").split())
        return f"{Path(self.source).name}: {place} -> {self.wrong or 'nothing'}"


def _faults(source: str, check: str, operands: tuple[str, str], *pairs: tuple[str, str]) -> Any:
    return [Fault(source, place, wrong, check, operands) for place, wrong in pairs]


def _kernel(name: str, check: str, operands: tuple[str, str], *pairs: tuple[str, str]) -> Any:
    return _faults(f"products/kernels/{name}.cuh", check, operands, *pairs)


INT = "static_cast<int>(@)"
#: Forms of operands whose lines are long, and the formats that they have.
FORMATS = {
    **{"long": "csr", "2:4 long": "2:4", "32 long": "32", "64 long": "64", "48 long": "48"},
    **{"bitmap long": "bitmap", "deltas long": "deltas", "lanes long": "lanes"},
}
#: The checks are functions of `Checks`; the operands say which product they are made on.
FAULTS: list[Fault] = [
    # Barriers, waits and stages that are missing.
    *_kernel(
        *("bsr_spmm_mma", "exact", ("spmm", "32 long")),
        ("«cp_async_wait<Tile::kStages - 2>();»", "cp_async_wait<Tile::kStages - 1>();"),
        ("«__syncthreads();»  // orders all threads' copies of this slice", ""),
        ("«__syncthreads();»  // orders the reads of the ring before", ""),
        ("«__syncthreads();»  // orders the writes of all sums before", ""),
        ("if («next_at == Tile::kStages * Tile::kStageElements») next_at = 0;", "true"),
        ("if («stage == ring_end») stage = ring;", "true"),
    ),
    *_kernel(
        *("decoded", "exact", ("spmm", "3:8")),
        ("«cp_async_wait<0>();»", ""),
        ("«__syncthreads();»  // orders these writes before those of the first slice", ""),
        ("«__syncthreads();»  // orders the writes of the tiles before their reads", ""),
        ("«__syncthreads();»  // orders these reads before the writes of the next slice", ""),
    ),
    *_kernel(
        *("nm_mma", "exact", ("spmm", "2:4 long")),
        ("«cp_async_wait<Tile::kStages - 2>();»", "cp_async_wait<Tile::kStages - 1>();"),
        ("«__syncthreads();»  // orders all threads' copies of this slice", ""),
        ("finite = «__syncthreads_and(finite) != 0»;", "finite"),
        ("«__syncthreads();»  // orders the writes of all sums before", ""),
        ("if («next_stage == ring_end») next_stage = ring;", "true"),
        ("if («stage == ring_end») stage = ring;", "true"),
    ),
    *_kernel(
        *("csr_rows", "exact", ("spmm", "long")),
        ("«__syncwarp();»  // orders the reads of the last stage", ""),
        ("«__syncwarp();»  // orders the writes before the reads", ""),
    ),
    *_kernel(
        *("csr_thin", "exact", ("linear-1", "long")),
        ("«__syncthreads();»  // orders the writes of partial", ""),
        ("«__syncthreads();»  // orders these reads before the writes of the next pass", ""),
    ),
    *_faults(
        *("formats/csr/kernels/csr_transpose.cuh", "turned", ("", "csr")),
        ("«__syncthreads();»  // orders the zeros before the first count", ""),
        ("«__syncthreads();»  // orders this row's updates of the cursors", ""),
    ),
    *_kernel(
        *("pack_product", "exact", ("linear", "bitmap long")),
        ("«__syncwarp();»  // orders the writes of the pairs", ""),
        ("«__syncwarp();»  // orders these reads before the writes of the next tile", ""),
        ("«__syncthreads();»  // orders the writes of the warps' sums", ""),
    ),
    *_kernel(
        *("pack_product", "exact", ("linear", "deltas long")),
        ("«__syncwarp();»  // orders the zeros before the values", ""),
        ("«__syncwarp();»  // orders the values before their reads", ""),
        ("«__syncwarp();»  // orders these reads before the zeros", ""),
    ),
    *_kernel(
        *("pack_product", "exact", ("spmm", "bitmap long")),
        ("«__syncthreads();»  // orders the writes of the tile before its reads", ""),
    ),
    *_kernel(
        *("pack_floats", "floats", ("linear-24", "bitmap long")),
        ("«cp_async_wait<1>();»", "cp_async_wait<2>();"),
        ("«__syncwarp();»  // orders all lanes' copies of this tile's values", ""),
        ("«__syncwarp();»  // orders these reads before the copies of the tile after", ""),
        ("«__syncthreads();»  // orders the reads of the values before", ""),
        ("if («left > 2») after = starts[3];", "left > 3"),
        ("static_cast<std::int64_t>(share.begin) * kTileCols + «lane % 16 * 4»;", "lane / 2 * 4"),
        ("«lane / 16 * kRows + summand_of<kRows>(lane)»;", "summand_of<kRows>(lane)"),
    ),
    *_kernel(
        *("pack_floats", "floats", ("linear-40", "bitmap long")),
        ("«cp_async_wait<0>();»\n    __syncwarp();", ""),
        ("«__syncwarp();»  // orders all lanes' copies of the values", ""),
        ("«__syncwarp();»  // orders the reads of the values before their memory", ""),
        ("rows + («lane / 16 * 8 + r») * Tile::kPitchA", "lane / 16 * 8"),
    ),
    *_faults(
        *("formats/packed/kernels/pack_tiles.cuh", "floats", ("linear-1", "bitmap long")),
        ("«lane % 2 == 0» ? mine | other << 4", "true"),
    ),
    *_faults(
        *("products/packed_floats.cu", "floats", ("linear-1", "bitmap")),
        ("grid, dim3(«kPackedThreads»)", "2 * @"),
    ),
    *_kernel(
        *("pack_wide", "exact", ("spmm-264", "bitmap long")),
        ("«cp_async_wait<Shared::kStages - 2>();»", "cp_async_wait<Shared::kStages - 1>();"),
        ("«__syncthreads();»  // orders all threads' copies of this slice", ""),
        ("«__syncthreads();»  // orders the reads of the slices before", ""),
        ("if («left_ > 2») after_ = starts_[3];", "left_ > 3"),
        ("if («next_stage == slices_a») next_stage = ring;", "false"),
        ("if («stage == slices_a») stage = ring;", "false"),
    ),
    *_kernel(
        *("bsr_spmm_wide", "exact", ("spmm-136", "64 long")),
        ("«cp_async_wait<Shared::kStages - 2>();»", "cp_async_wait<Shared::kStages - 1>();"),
        ("«__syncthreads();»  // orders all threads' copies of this slice", ""),
        ("«__syncthreads();»  // orders the reads of the ring before", ""),
        ("«__syncthreads();»  // orders the writes of all sums before", ""),
        ("if («stage == ring_end») stage = ring;", "false"),
    ),
    *_faults(
        *("formats/packed/kernels/pack_tiles.cuh", "exact", ("linear", "bitmap long")),
        ("«__syncwarp();»  // orders the writes of the rows before", ""),
        ("«__syncwarp();»  // orders the reads of the cursors", ""),
        ("«__syncwarp();»  // orders these reads and writes before the next tile's", ""),
    ),
    # Fragments, strides and tails.
    *_kernel(
        *("bsr_mma", "exact", ("spmm", "32")),
        ("ldmatrix_x4(left[i], a + («16 * i + low + j») * Tile::kPitchA", "16 * i + high + j"),
        ("ldmatrix_x4_trans(right[i], b + (k + «low» + j) * Tile::kPitchB", "high"),
        ("from += «kStep * stride»;", "kStep * Length"),
    ),
    *_kernel(
        *("mma_output", "exact", ("spmm", "32")),
        ("|| «column >= columns») continue;\n      float pack", "column > columns"),
    ),
    *_kernel(
        *("mma_output", "exact", ("spmm-72", "bitmap")),
        ("«row >= rows» || column >= columns) continue;\n      float pack", "row > rows"),
    ),
    *_kernel(
        *("bsr_spmm_mma", "exact", ("spmm", "32 long")),
        ("last = static_cast<int>(«all * (blockIdx.y + 1)» / gridDim.y);", "all * blockIdx.y"),
    ),
    *_kernel(
        *("bsr_spmm_mma", "exact", ("spmm", "48 long")),
        ("return Pieces == 1 || «piece < left»;", "true"),
        ("place += «rest»;", "0"),
    ),
    *_kernel(
        *("bsr_spmm_mma", "exact", ("spmm", "64 long")),
        ("entry = begin + «(first + piece) / deep»;", "first + piece"),
        ("if («++place < deep») return;", "++place <= deep"),
    ),
    *_kernel(
        *("wide_tile", "exact", ("spmm-72", "bitmap")),
        ("const bool valid = «group * 8 < lines»;", "group * 8 <= lines"),
        ("(place ^ «order_of_row<Order>(i * kStep)») * 8, at", "0"),
    ),
    *_kernel(
        *("wide_tile", "exact", ("linear-136", "64 long")),
        ("at, «line + i * kStep < lines»);", "line < lines"),
        ("(high ^ «order_of_line<WideOrder::natural>(j)») * 8", "0"),
    ),
    *_kernel(
        *("pack_wide", "exact", ("linear-72", "bitmap long")),
        ("if («staged != 0») TileReader<Layout>::template expand", "false"),
    ),
    *_kernel(
        *("pack_wide", "infinite", ("linear-72", "bitmap")),
        ("if («!__syncthreads_and(zero == 0.0f)») {", "false"),
    ),
    *_kernel(
        *("nm_mma", "exact", ("spmm", "2:4")),
        ("a + (16 * r + «i % 2 * 8 + j») * Tile::kPitchA", "i / 2 * 8 + j"),
        ("codes[r] = Spread ? both : «both | (~(both | both >> 1) & 0x44444444u)»;", "both"),
    ),
    *_kernel(
        *("decoded", "exact", ("spmm", "3:8")),
        ("row >= a.m || «column >= a.n») continue;", "column > a.n"),
    ),
    *_kernel(
        *("csr_rows", "exact", ("spmm", "csr")),
        ("if («column(u) >= columns») continue;", "column(u) > columns"),
    ),
    *_kernel(*("csr_thin", "exact", ("linear-2", "csr")), ("at += «a.stride_n»;", "1")),
    *_kernel(
        *("pack_product", "exact", ("linear", "bitmap long")),
        ("if («left > 2») after = starts[3];", "left > 3"),
        ("mine.load(Step * __popc(bits & «before»)) & masks[half]", "before >> 1"),
        ("c >= columns || «row >= a.a.rows») continue;", "row > a.a.rows"),
    ),
    *_kernel(
        *("pack_product", "exact", ("linear", "lanes long")),
        ("const bool has = count > «8 * i + 4 * half»;", "8 * i"),
        ("from += 2 * «__popc(lanes)»;", "32"),
    ),
    *_kernel(
        *("pack_product", "exact", ("linear-24", "lanes long")),
        ("a.deal ? «dealt(k)» : k", "k"),
    ),
    *_kernel(
        *("pack_product", "infinite", ("linear-24", "lanes")),
        ("kDealt ? «dealt(k)» : k", "k"),
    ),
    *_kernel(
        *("nm_pairs", "exact", ("spmm", "2:8")),
        ("(place % 2 == 0 ? within : «3 - within»)", "within"),
        ("codes >>= «2 * a.bits»;", "a.bits"),
    ),
    *_kernel(
        *("nm_pairs", "exact", ("spmm", "1:4")),
        ("second = «a.n == 1 ? static_cast<std::uint32_t>(a.m) : 0»;", "0"),
    ),
    *_kernel(
        *("pack_product", "exact", ("linear", "deltas long")),
        ("put(«__dp4a(step, 0x00000101u, begin) + 1»,", "__dp4a(step, 0x00000101u, begin)"),
    ),
    *_kernel(
        *("pack_product", "infinite", ("linear", "bitmap")),
        ("if («!(sum - sum == 0.0f)»)", "false"),
    ),
    *_kernel(
        *("bsr_spmm_wgmma", "on_wgmma", ("spmm", "64")),
        ("«fence_mbarrier_init();»", ""),
        ("«__syncthreads();»  // orders the making of the mbarriers", ""),
        ("«mbarrier_wait(empty + stage, round ^ 1u);»", ""),
        ("«mbarrier_wait(full + stage, round);»", ""),
        ("«wgmma_fence();»", ""),
        ("«wgmma_wait<1>();»", ""),
        ("«wgmma_wait<0>();»", ""),
        ("if («before >= 0 && lane == 0») mbarrier_arrive", "false"),
        ("mbarrier_arrive(«empty + before»);", "empty + stage"),
        ("«__syncthreads();»  // orders the last reads of the ring", ""),
        ("«__syncthreads();»  // orders the writes of all sums", ""),
        ("ring += «(0 - reinterpret_cast<std::uintptr_t>(ring)) % 1024»;", "0"),
        ("const int column = «column0 + box * kSide»;", "column0"),
        ("right + «i * kStepB», 1);", "2 * i * kStepB"),
    ),
    *_kernel(
        *("pack_wgmma", "packed_on_wgmma", ("spmm-264", "bitmap long")),
        ("«fence_mbarrier_init();»", ""),
        ("«__syncthreads();»  // orders the making of the mbarriers", ""),
        ("«mbarrier_wait(empty + stage, round_of(i) ^ 1u);»", ""),
        ("«mbarrier_wait(full + stage, round_of(i));»", ""),
        ("«wgmma_fence();»", ""),
        ("«wgmma_wait<1>();»", ""),
        ("«wgmma_wait<0>();»", ""),
        ("if («i > 0 && lane == 0») mbarrier_arrive", "false"),
        ("mbarrier_arrive(«empty + stage_of(i - 1)»);", "empty + stage"),
        ("«__syncthreads();»  // orders the last reads of the ring", ""),
        ("ring += «(0 - reinterpret_cast<std::uintptr_t>(ring)) % 1024»;", "0"),
        ("right + k + «static_cast<std::uint64_t>(half) * kNext», 1);", "0"),
        ("expand<WideOrder::natural>(shared, lane, «odd»);", "even"),
    ),
    *_kernel(
        *("pack_product", "packed_on_wgmma", ("spmm-72", "bitmap long")),
        ("values.load(__popc(theirs[from] & «low»)) & spread", "low >> 1"),
        ("first += «counts[from]»;", "counts[0]"),
        ("const int at = «row + from % 2 * 2»;", "row * 2 + from % 2"),
    ),
    *_kernel(
        *("pack_product", "packed_on_wgmma", ("spmm-72", "deltas long")),
        ("if («Order == WideOrder::natural») number ^=", "false"),
    ),
    *_kernel(
        *("bsr_spmm_wgmma", "on_wgmma", ("linear", "128")),
        ("ring + stage * stage_bytes + «below * Tile::kBox»;", "0"),
        ("const int row = «inner_row + box * kSide»;", "inner_row"),
        ("static_cast<unsigned>(«4 * groups»)", "4"),
    ),
    *_kernel(
        *("bsr_spmm_wgmma", "on_wgmma", ("wide", "64")),
        ("stage_bytes + («shape.down + 2 * beside») * Tile::kBox;", "shape.down"),
        ("const int column = «beside * Tile::kColumns» + i / 4", "0"),
    ),
    # Offsets of 32 bits.
    *_kernel(
        *("bsr_spmm_mma", "far", ("spmm", "32")),
        ("args.b + «times(k, args.ldb)» + column0, args.ldb", INT),
    ),
    *_kernel(
        *("mma_output", "far", ("spmm", "32")),
        ("to.finish.store_pack(to.out + «(row0 + row) * to.ldo»", INT),
    ),
    *_kernel(
        *("mma_output", "far", ("linear", "32")),
        ("? to.out + «(column0 + column) * to.ldo» + row0 + row", INT),
    ),
    *_kernel(
        *("wide_tile", "far", ("spmm-72", "bitmap")),
        ("const T* at = from + «k * stride» + group * 8;", INT),
    ),
    *_kernel(
        *("wide_tile", "far", ("linear-72", "bitmap")),
        ("const T* at = from + «line * stride» + group * 8;", INT),
    ),
    *_kernel(
        *("bsr_mma", "far", ("linear", "32")),
        ("const T* from = global + «row * stride» + column;", INT),
    ),
    *_kernel(
        *("bsr_spmm_mma", "far_blocks", ("spmm", "32")),
        ("«times(slices.entry, args.block_size)» +", INT),
    ),
    *_kernel(
        *("csr_rows", "far", ("spmm", "csr")),
        (
            "b + «j.at[k] * a.ldb»;\n#pragma unroll\n            for (int u = 0; u < U; ++u) x[k]",
            INT,
        ),
        ("store_pack(out + «row * a.ldo» + column0 + column(u)", INT),
    ),
    *_kernel(
        *("csr_thin", "far", ("linear-2", "csr")),
        ("a.out + row * a.out_m + «(column0 + column) * a.out_n», total", INT),
    ),
    *_kernel(
        *("decoded", "far", ("spmm", "3:8")),
        ("valid ? b + «r * stride» + c : a.b", INT),
        ("a.finish.store(a.out + «row * a.out_row» + column * a.out_col, sums[i]", INT),
    ),
    *_kernel(
        *("nm_mma", "far", ("spmm", "2:4")),
        ("b + «r * kDownB * args.ldb»", INT),
    ),
    *_kernel(
        *("pack_product", "far", ("linear", "bitmap")),
        ("const T* x = a.x + «(column0 + column) * a.ldx»", INT),
        ("load_columns<kColumnOrder>(x + «8 * c * a.ldx»,", INT),
    ),
    *_kernel(
        *("pack_product", "far", ("spmm", "bitmap")),
        ("a.finish.store(a.out + «row * a.out_row» + (column0 + c)", INT),
        ("a.from[«(k0 + k) * a.row» + (j0 + j) * a.col]", INT),
    ),
    # Which of several matrices, and where its entries begin.
    *_faults(
        *("products/kernels/sets.cuh", "several", ("", "")),
        ("«set % inner» * steps.step;", "set / inner"),
    ),
    *_kernel(
        *("csr_rows", "several", ("", "")),
        ("values += «set / a.sets.stacks» * a.sets.values;", "set"),
        ("const std::int64_t first = «indptr[0]» + chunk * a.cut, last", "0"),
        ("final_chunk = «(end - 1 - base)» / a.cut;", "end - 1"),
    ),
    *_faults(
        *("formats/csr/kernels/csr_transpose.cuh", "decoded", ("", "")),
        ("«__syncwarp();»  // orders the reads of the cursors before their updates", ""),
        ("a.out_indptr[c]) + before + «rank»;", "0"),
    ),
    # Conditions of alignment, for each operand.
    *_faults(
        *("products/bsr_spmm.cu", "alone", ("spmm", "32")),
        ("«access_bytes(a.blocks, operand.pitch(), depth, size) == 16»", "true"),
        ("«access_bytes(b.data, stride, b.transposed ? depth : product.n, size) == 16»", "true"),
    ),
    *_kernel(
        *("mma_output", "alone", ("spmm", "2:4")),
        ("«aligned(out.data, out.stride, sizeof(T), 16)» && product.n", "true"),
    ),
    *_faults(
        *("products/csr_rows.cu", "alone", ("spmm", "csr")),
        ("«aligned(args.b, args.ldb, size, bytes)»", "true"),
        ("«aligned(args.out, args.ldo, size, bytes)»", "true"),
    ),
    *_faults(
        *("products/decoded.h", "alone", ("spmm", "3:8")),
        (".wide = «aligned(b.data, stride, size, 16)»", "true"),
    ),
    *_faults(
        *("products/nm.cu", "alone", ("linear-5", "2:4")),
        ("«aligned(args.x, args.n == 1 ? 0 : args.ldx, sizeof(T), 16)»", "true"),
        ("«aligned(lines.values, lines.slots, sizeof(T), 16)»", "true"),
    ),
    *_faults(
        *("products/nm.cu", "alone", ("spmm", "2:4")),
        ("wide_a = «access_bytes(a.values, a.slots, a.slots, size) == 16»", "true"),
        ("«access_bytes(b.data, stride, ByColumns ? product.k : product.n, size) == 16»", "true"),
    ),
    *_faults(
        *("products/packed.cu", "alone", ("linear", "bitmap")),
        ("«aligned(b.data, stride, size, 16)»", "true"),
    ),
    *_faults(
        *("products/packed.cu", "alone", ("spmm-72", "bitmap")),
        ("«aligned(data, stride, sizeof(std::uint16_t), 16)»", "true"),
    ),
    # Calibration: sums in their order, panels of columns, rows that are swapped.
    *_faults(
        *("prune/kernels/column_stats.cuh", "calibrated", ("", "")),
        ("«__syncthreads();»  // orders the writes of the chunks", ""),
        ("n = «least(kStatsRows, count - from)»;", "kStatsRows"),
    ),
    *_faults(
        *("prune/kernels/obs.cuh", "pruned", ("", "")),
        ("«__syncthreads();»  // orders the writes of the panel", ""),
        ("before += kept_before(other, score, «j < lane») ? 1 : 0;", "j > lane"),
        ("«__syncthreads();»  // orders the writes of both operands", ""),
        ("if (r < rows && «j < columns») a.c[", "j <= columns"),
    ),
    *_faults(
        *("prune/kernels/obs_factor.cuh", "factored", ("", "")),
        ("«__syncwarp();»  // orders the writes of the column", ""),
        ("«__syncwarp();»  // orders the writes of the rest", ""),
        ("«__syncthreads();»  // orders the writes of both operands", ""),
        ("«__syncthreads();»  // orders the writes of the inverse", ""),
        ("row[lane] = «0»;", "rows[warp][lane]"),
    ),
    *_faults(
        *("prune/kernels/dsnot.cuh", "swapped", ("", "")),
        ("«__syncthreads();»  // orders the writes of keys", ""),
        ("«__syncthreads();»  // orders the warps' results", ""),
        ("«__syncthreads();»  // orders the writes of shares", ""),
        ("if (key < low && «signbit(key) == grows») {", "true"),
    ),
    # Layouts: what is kept, its bits, and both transposed.
    *_faults(
        *("formats/layout/kernels/layout_rows.cuh", "laid", ("windows", "")),
        ("(«i - j <= before» && j - i <= after)", "i - j < before"),
        ("if («__ballot_sync(kAllLanes, drawn) != 0») rank", "drawn"),
        ("free += «__popc(others)»;", "0"),
    ),
    *_faults(
        *("formats/layout/kernels/layout_rows.cuh", "laid", ("strides", "")),
        ("if (head < dense_heads || «i - j < local») return true;", "i - j <= local"),
    ),
    *_faults(
        *("formats/layout/kernels/layout_rows.cuh", "laid", ("verticals", "")),
        ("&& «(j + 1) * bn > low») return true;", "(j + 1) * bn >= low"),
        ("own >= 0 && «own <= last» &&", "own < last"),
        ("«!covered(r, own / bn)»", "true"),
    ),
    *_faults(
        *("formats/layout/layout.cu", "laid", ("verticals", "")),
        ("«fill_zero(&parts.status->total, sizeof(parts.status->total), stream);»", ""),
    ),
    *_faults(
        *("formats/layout/kernels/layout_rows.cuh", "laid", ("patterns", "")),
        ("kept && «entries < height * width»", "entries < height * bn"),
        ("(to[c / 8] | «1u << (c % 8)»)", "1u << (7 - c % 8)"),
        ("r > 0 ? «from.bit_counts[r - 1]» : 0", "from.bit_counts[r]"),
    ),
    *_faults(
        *("formats/layout/kernels/layout_turn.cuh", "laid", ("patterns", "")),
        ("& 1u) << «(i % 8)»;", "(c % 8)"),
        ("«(places[q] - 1)» * from.bn * turned", "places[q]"),
        ("static_cast<int>(r / from.rows * «from.cols»)", "0 * @"),
    ),
    # Patterns within blocks.
    *_faults(
        *("prune/kernels/vnm_blocks.cuh", "of_columns", ("exact", "")),
        ("«__syncthreads();»  // orders the writes of the scores", ""),
        ("«__syncthreads();»  // orders each step's writes", ""),
        ("(other.sum == all[t].sum && «other.at < all[t].at»)", "other.at > all[t].at"),
        ("own != own && (other == other || «earlier»)", "true"),
    ),
    *_faults(
        *("prune/kernels/vnm_blocks.cuh", "of_columns", ("greedy", "")),
        ("«__syncthreads();»  // orders the writes of what is held", ""),
    ),
    *_faults(
        *("prune/kernels/transposable.cuh", "transposed", ("", "")),
        ("if («sum > best») best = sum;", "sum >= best - 4096"),
        ("const int bits = fine ? («infinite» ? 28 : 46)", "false"),
    ),
    *_faults(
        *("prune/kernels/transposable_flow.cuh", "balanced", ("exact", "")),
        ("«__syncwarp();»  // orders the writes of the units", ""),
        ("«__syncwarp();»  // orders the reads of the scores", ""),
        ("«__syncwarp();»  // orders the changed scores", ""),
        ("«__syncwarp();»  // orders the writes of the queue", ""),
        ("if («has_ties()») make_first();", "false"),
    ),
    *_faults(
        *("prune/kernels/transposable_flow.cuh", "balanced", ("greedy", "")),
        ("while («complete_one()») {", "false"),
        ("(other == best && «its < cell»)", "its > cell"),
        ("if (at[i] >= 0 && («line(i) == c» || ", "false"),
    ),
    # Selections: the k-th of segments, of processes; places that are listed.
    *_faults(
        *("prune/kernels/select_rows.cuh", "ranked", ("", "")),
        ("if («a.rows.part.mask[i] != 0») low = least", "true"),
        ("!= 0 && «key_at(a.rows.part, map, i) > low» ? 1", "key_at(a.rows.part, map, i) >= low"),
        ("const std::int64_t to = «a.segment + at»;", "at"),
        ("row.first + lane; i < «row.first + row.count»; i += 32) {\n    if", "row.first + 32"),
    ),
    *_faults(
        *("prune/topk_mask.cu", "ranked", ("", "")),
        ("args.rows.first[count] = «bounds.at(args.segment + count)»;", "0"),
    ),
    *_faults(
        *("prune/kernels/select_scan.cuh", "shared", ("", "")),
        ("«__syncthreads();»  // orders the zeros before the counts\n  }", ""),
        ("if («key >= lo» && key <= hi) atomicAdd(counts", "true"),
        ("«state->rank = rank;»", "state->rank = rank + 1;"),
    ),
    *_faults(
        *("regrow/kernels/grow_listed.cuh", "listed", ("", "")),
        ("own != 0xffffffffu && «a.places[i] != 0»;", "true"),
        ("place.row >= 0 && «place.row < a.rows»", "true"),
        ("score.w == nullptr ? «-static_cast<S>(own)»", "static_cast<S>(own)"),
        ("«i * a.column_stride»", "i"),
    ),
    # Orders of columns.
    *_faults(
        *("prune/kernels/column_order.cuh", "ordered", ("", "")),
        ("mine[j] >= before ? «both - mine[j]» : most", "both"),
        ("for (int step = «8»; step > 0;", "4"),
        ("const int behind = «a.count - 1 - next»;", "a.count - next"),
        ("a.n == 2 ? «larger(rest, second)» : rest", "rest"),
        ("if («left < with») break;", "left <= with"),
        ("if («value != value») value = 0.0;", "false"),
    ),
    # Groups and counts.
    *_faults(
        *("prune/kernels/groups.cuh", "grouped", ("", "")),
        ("«__syncthreads();»  // orders the writes of the warps' results", ""),
        ("«__syncthreads();»  // orders the totals", ""),
        ("if («--left == 0») {", "false"),
        ("while (reached < kSlopes && «totals[reached] < a.k»)", "totals[reached] < a.k / 2"),
    ),
    *_faults(
        *("prune/kernels/counts.cuh", "counted", ("", "")),
        ("(lane == 31 || «next != mine») && up_to", "false"),
        ("least(least(left + a.span, «(block + 1) * a.width»), a.cols)", "a.cols"),
        ("std::int64_t c = «span * 32» + lane;", "0"),
    ),
    # Launches: twice the threads, another stream, another device.
    *_faults(
        *("products/bsr_spmm.cu", "exact", ("spmm", "32")),
        ("«Tile::kThreads», Tile::kShared", "2 * @"),
    ),
    *_faults(
        *("products/nm.cu", "exact", ("spmm", "2:4")),
        ("grid, dim3(«kNmMmaThreads»)", "2 * @"),
    ),
    *_faults(
        *("products/csr_rows.cu", "exact", ("spmm", "csr")),
        ("grid, dim3(«kRowsThreads»)", "2 * @"),
    ),
    *_faults(
        *("products/csr_thin.cu", "exact", ("linear-1", "csr")),
        ("grid, dim3(«kThinThreads»)", "2 * @"),
    ),
    *_faults(
        *("products/packed.cu", "exact", ("linear", "bitmap")),
        ("grid, dim3(«kPackedThreads»)", "2 * @"),
    ),
    *_faults(
        *("products/csr_rows.cu", "queued", ("spmm", "csr")),
        ("dim3(kRowsThreads), 0, «stream», part", "nullptr"),
    ),
    *_faults(
        *("products/spmm.cu", "queued", ("spmm", "csr")),
        ("const DeviceGuard guard(«a.device()»);", "Device{DeviceType::cuda, 0}"),
    ),
]  # fmt: skip


# --- building ---


def plant(folder: Path) -> None:
    """Write the sources with their faults into a folder."""
    for source in {fault.source for fault in FAULTS}:
        text = (SOURCES / source).read_text()
        changes = []
        for number, fault in enumerate(FAULTS, 1):
            if fault.source != source:
                continue
            whole = fault.place.replace("«", "").replace("»", "")
            assert text.count(whole) == 1, f"{source} has no longer, or twice: {whole}"
            first = text.index(whole) + fault.place.index("«")
            last = text.index(whole) + fault.place.index("»") - 1
            piece = text[first:last]
            wrong = fault.wrong.replace("@", f"({piece})")
            chosen = f"gossamer_planted_fault() == {number}"
            if piece.endswith(";"):
                changes.append((first, last, f"if ({chosen}) {{ {wrong} }} else {{ {piece} }}"))
            else:
                changes.append((first, last, f"({chosen} ? ({wrong}) : ({piece}))"))
        for first, last, change in sorted(changes, reverse=True):
            text = text[:first] + change + text[last:]
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        (folder / source).write_text(text)
    source, place, instead = ONE_TYPE
    text = (SOURCES / source).read_text()
    assert text.count(place) == 1, f"{source} has no longer, or twice: {place}"
    (folder / source).parent.mkdir(parents=True, exist_ok=True)
    (folder / source).write_text(text.replace(place, f"{instead}\n  {place}"))
    (folder / "planted.h").write_text('extern "C" int gossamer_planted_fault();\n')
    # Its own object file, whose loads are not checked as a kernel's.
    (folder / "planted.cpp").write_text(
        'extern "C" {\n'
        '__attribute__((visibility("default"))) int gossamer_planted = 0;\n'
        "int gossamer_planted_fault() { return gossamer_planted; }\n"
        "}\n"
    )


def build(folder: Path, tree: Path, ninja: str) -> Path:
    """Link the emulated extension of a build tree with planted units in place of its own."""
    plant(folder)
    text = subprocess.run(
        [ninja, "-t", "commands", "_cuda_emulated"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = text.splitlines()
    compilers, objects = [], [folder / "planted.o"]
    for unit in UNITS:
        (line,) = (line for line in lines if line.endswith(f"-c {SOURCES / unit}"))
        words = shlex.split(line)
        words = words[: words.index("-MD")]  # what follows is about files
        first = next(i for i, word in enumerate(words) if word.startswith("-"))
        words[first:first] = ["-I", str(folder)]
        source = folder / unit if (folder / unit).exists() else SOURCES / unit
        objects.append(folder / f"{source.stem}.o")
        extra = ["-O0", "-include", str(folder / "planted.h"), "-o", str(objects[-1])]
        compilers.append(subprocess.Popen([*words, *extra, "-c", str(source)], cwd=tree))
        if len(compilers) > 1:
            compilers[-2].wait()
    (line,) = (line for line in lines if " -shared " in line)
    link = shlex.split(line.removeprefix(": && ").removesuffix(" && :"))
    plain = [link[0], "-O1", "-fPIC", "-c", folder / "planted.cpp", "-o", objects[0]]
    subprocess.run(plain, check=True)
    for compiler in compilers:
        assert compiler.wait() == 0, compiler.args
    at = link.index("-o") + 1
    made = folder / Path(link[at]).name
    # Of a kernel that another source has too, differently compiled, one note is lost: no error.
    link[1:1] = ["-Wl,--noinhibit-exec"]
    words = [*link[: at + 1], str(made), *map(str, objects), *link[at + 2 :]]
    done = subprocess.run(words, cwd=tree, capture_output=True, text=True, check=False)
    assert made.exists(), done.stderr
    return made


# --- running ---


class Checks:
    """What finds faults, most of it the tests' own; each raises where it does."""

    def __init__(self, extension: Any) -> None:
        import device

        device.emulated_extension = lambda: extension  # type: ignore[assignment]
        import cuda_trace
        import gossamer
        import numpy as np
        import pytest
        import test_cuda_operands as operands

        self.patch = pytest.MonkeyPatch()
        self.gpu = device.open_device("cuda-emulated", self.patch)
        self.np, self.gossamer, self.operands = np, gossamer, operands
        self.trace, self.framework = cuda_trace.Trace(), cuda_trace.Framework

    def dense(self, form: str) -> Any:
        np = self.np
        if form == "2:4 long":
            # Thread blocks take more slices than there are stages.
            dense = self.operands.integers((100, 6400), np.float16, 5)
            return np.where(self.gossamer.prune.nm_mask(np.abs(dense), 2, 4), dense, np.float16(0))
        if form == "48 long":  # thread blocks take slices of whole blocks and of parts
            return self.operands.integers((96, 528), np.float16, 5)
        if form in ("32 long", "64 long"):
            return self.operands.integers((64, 512), np.float16, 5)
        if FORMATS.get(form) in ("bitmap", "deltas", "lanes"):
            # Warps take more tiles than are on the way at once; rows and strips end within tiles.
            few = np.random.default_rng(6).random((100, 640)) < (0.1 if form[0] == "d" else 0.6)
            return np.where(few, self.operands.integers((100, 640), np.float16, 5), np.float16(0))
        if form != "long":
            return self.operands.weights(form, np.float16).astype(np.float16)
        # Rows that are cut, or are a thread block's alone, among short ones.
        dense = self.operands.integers((100, 3000), np.float16, 5)
        dense[3:, 8:] = 0
        return dense

    def floats(self, op: str, form: str) -> None:
        self.exact(op, form, self.np.float32)

    def exact(self, op: str, form: str, dtype: Any = None) -> None:
        dense = self.dense(form).astype(dtype or self.np.float16)
        made = self.operands.operation(op, dense)
        a = self.operands.matrix(self.gpu, FORMATS.get(form, form), dense)
        operands = {name: self.gpu.put(x) for name, x in made.dense.items()}
        for seed in "0123":
            os.environ["GOSSAMER_EMULATION_SEED"] = seed
            self.operands.compare(self.gpu, op, a, made.call(a, **operands), made.want)

    def on_wgmma(self, op: str, form: str) -> None:
        # More slices than stages, more columns than a tile has; eight tiles of two warpgroups.
        np, side = self.np, int(form)
        dense = self.operands.integers((side, 512), np.float16, 5)
        columns = {"spmm": 200, "linear": 900, "wide": 1904}[op]
        b = self.operands.integers((512, columns), np.float16, 6)
        want = (dense.astype(float) @ b.astype(float)).astype(np.float16)
        a = self.operands.matrix(self.gpu, form, dense)
        os.environ["GOSSAMER_CUDA_WGMMA"] = "1"
        try:
            for seed in "012":
                os.environ["GOSSAMER_EMULATION_SEED"] = seed
                if op == "linear":
                    x = self.gpu.put(np.ascontiguousarray(b.T))
                    got = self.gpu.get(self.gossamer.linear(x, a)).T
                else:
                    got = self.gpu.get(self.gossamer.spmm(a, self.gpu.put(b)))
                np.testing.assert_array_equal(got, want)
        finally:
            del os.environ["GOSSAMER_CUDA_WGMMA"]

    def packed_on_wgmma(self, op: str, form: str) -> None:
        os.environ["GOSSAMER_CUDA_WGMMA"] = "1"
        try:
            self.exact(op, form)
        finally:
            del os.environ["GOSSAMER_CUDA_WGMMA"]

    def infinite(self, op: str, form: str) -> None:
        dense = self.dense(form)
        dense[:, 70] = 0
        made = self.operands.operation(op, dense)
        x = made.dense["x"].copy()
        x[:, 70] = self.np.inf
        a = self.operands.matrix(self.gpu, form, dense)
        self.operands.compare(self.gpu, op, a, made.call(a, x=self.gpu.put(x)), made.want)

    def alone(self, op: str, form: str) -> None:
        self.operands.test_each_operand_alone_may_be_out_of_line(
            self.gpu, op, form, self.np.float16
        )

    def far(self, op: str, form: str) -> None:
        self.operands.test_rows_may_lie_beyond_32_bits(self.gpu, op, form, self.np.float16)

    def far_blocks(self, op: str, form: str) -> None:
        self.operands.test_blocks_may_lie_beyond_32_bits(self.gpu, self.np.float16)

    def turned(self, op: str, form: str) -> None:
        np, dense = self.np, self.dense(form)
        want = self.gossamer.CSR.from_dense(dense).T
        for seed in "0123":
            os.environ["GOSSAMER_EMULATION_SEED"] = seed
            got = self.operands.matrix(self.gpu, form, dense).T
            for part in ("indptr", "indices", "values"):
                ours = self.gpu.get(getattr(got, part))
                np.testing.assert_array_equal(ours, np.asarray(getattr(want, part)))

    def several(self, op: str, form: str) -> None:
        # Two batches of values, each of two matrices that lie one below the other, long rows last.
        np = self.np
        dense = self.operands.integers((100, 3000), np.float16, 5)
        dense[:97, 30:] = 0
        a = self.gossamer.CSR.from_dense(dense)
        values = np.stack([a.values, 2 * np.asarray(a.values)])
        put = (self.gpu.put(np.asarray(x)) for x in (a.indptr, a.indices, values))
        b = self.operands.integers((2, 2, dense.shape[1], 8), np.float16, 7)
        got = self.gossamer.spmm(self.gossamer.CSR(*put, a.shape), self.gpu.put(b), stacked=True)
        halves = dense.astype(np.float64).reshape(2, -1, dense.shape[1])
        want = halves * np.array([1, 2]).reshape(2, 1, 1, 1) @ b.astype(np.float64)
        np.testing.assert_array_equal(self.gpu.get(got), want.astype(np.float16))

    def laid(self, op: str, form: str) -> None:
        import test_cuda_layout as layouts

        for seed in "01":
            os.environ["GOSSAMER_EMULATION_SEED"] = seed
            if op == "windows":
                for options in layouts.WINDOWS:
                    layouts.test_windows_global_and_random_blocks(self.gpu, options)
            elif op == "strides":
                for options in layouts.STRIDES:
                    layouts.test_local_and_strided_blocks(self.gpu, options)
            elif op == "verticals":
                layouts.test_slashes_that_end_where_a_block_does(self.gpu)
                layouts.test_verticals_and_slashes(self.gpu, 37, (5, 16), 40, self.np.int32)
            else:
                for case in layouts.PATTERNS[:4]:
                    layouts.test_patterns_of_elements_are_turned_and_written(self.gpu, case)

    def decoded(self, op: str, form: str) -> None:
        # Rows of the table that each token names several times.
        np = self.np
        indices = np.arange(3 * 100).reshape(3, 100) % 7
        values, table, dy = (
            self.operands.integers(shape, np.float16, 8) for shape in ((3, 100), (7, 8), (3, 8))
        )
        want = np.zeros(table.shape)
        np.add.at(want, indices, values[..., None].astype(float) * dy[:, None])
        for seed in "0123":
            os.environ["GOSSAMER_EMULATION_SEED"] = seed
            _, got = self.gossamer.gather_decode_backward(
                *map(self.gpu.put, (dy, indices, values, table))
            )
            np.testing.assert_array_equal(self.gpu.get(got), want.astype(np.float16))

    def calibrated(self, op: str, form: str) -> None:
        # Segments beyond those of one block, so that blocks take several.
        x = self.operands.integers((2060, 40), self.np.float16, 8)
        exact = x.astype(self.np.float64)
        for seed in "0123":
            os.environ["GOSSAMER_EMULATION_SEED"] = seed
            got = self.gossamer.prune.ColumnStats().add(self.gpu.put(x))
            self.np.testing.assert_array_equal(self.gpu.get(got.sum), exact.sum(0))
            self.np.testing.assert_array_equal(self.gpu.get(got.sumsq), (exact**2).sum(0))

    def pruned(self, op: str, form: str) -> None:
        np, block = self.np, self.gossamer.prune.obs_block_
        w = self.operands.integers((130, 44), np.float16, 8)
        u = np.eye(44, dtype=np.float32)
        u[:6, 6:] = 1
        want = block(w.copy(), u, nm=(2, 4))
        for seed in "0123":
            os.environ["GOSSAMER_EMULATION_SEED"] = seed
            got = block(self.gpu.put(w), self.gpu.put(u), nm=(2, 4))
            for ours, theirs in zip(got, want, strict=True):
                np.testing.assert_array_equal(self.gpu.get(ours), theirs)

    def factored(self, op: str, form: str) -> None:
        np, prune = self.np, self.gossamer.prune.obs_prune_
        rng = np.random.default_rng(9)
        x = rng.standard_normal((100, 70))
        w, mask = rng.standard_normal((3, 70)).astype(np.float32), rng.random((3, 70)) < 0.5
        want, _ = prune(w.copy(), x.T @ x, mask=mask)
        for seed in "0123":
            os.environ["GOSSAMER_EMULATION_SEED"] = seed
            got, _ = prune(self.gpu.put(w), self.gpu.put(x.T @ x), mask=self.gpu.put(mask))
            np.testing.assert_allclose(self.gpu.get(got), want, rtol=0, atol=1e-4)

    def swapped(self, op: str, form: str) -> None:
        np, prune = self.np, self.gossamer.prune
        rng = np.random.default_rng(10)
        x = rng.integers(-3, 5, (64, 300)).astype(np.float16)
        w, mask = rng.standard_normal((3, 300)).astype(np.float16), rng.random((3, 300)) < 0.5
        want = prune.dsnot_rows_(mask.copy(), w, prune.ColumnStats().add(x), tolerance=0.0)
        for seed in "0123":
            os.environ["GOSSAMER_EMULATION_SEED"] = seed
            stats = prune.ColumnStats().add(self.gpu.put(x))
            got = prune.dsnot_rows_(self.gpu.put(mask), self.gpu.put(w), stats, tolerance=0.0)
            np.testing.assert_array_equal(self.gpu.get(got), want)

    def of_columns(self, op: str, form: str) -> None:
        np, vnm_mask = self.np, self.gossamer.prune.vnm_mask
        x = self.operands.integers((20, 36), np.float16, 11)
        x[3, :9] = np.nan
        want = vnm_mask(x, 10, 2, 9, method=op)
        for seed in "0123":
            os.environ["GOSSAMER_EMULATION_SEED"] = seed
            got = vnm_mask(self.gpu.put(x), 10, 2, 9, method=op)
            np.testing.assert_array_equal(self.gpu.get(got), want)

    def transposed(self, op: str, form: str) -> None:
        np, mask_of = self.np, self.gossamer.prune.nm_mask_transposable
        x = self.operands.integers((8, 40), np.float16, 12)
        x[:4, :4] = np.eye(4) * 1000 + np.random.default_rng(1).random((4, 4))
        x[:4, 4:8] = 8
        x[0, 5] = np.inf
        got = mask_of(self.gpu.put(x), 2, 4)
        np.testing.assert_array_equal(self.gpu.get(got), mask_of(x, 2, 4))

    def balanced(self, op: str, form: str) -> None:
        np, mask_of = self.np, self.gossamer.prune.nm_mask_transposable
        rng = np.random.default_rng(3)
        for m, n in ((6, 2), (9, 4), (34, 3)):
            x = rng.integers(-3, 4, (m, 2 * m)).astype(np.float16)
            x[:, m:] = rng.standard_normal((m, m))
            x[:, m] += 3
            want = mask_of(x, n, m, method=op)
            for seed in "0123":
                os.environ["GOSSAMER_EMULATION_SEED"] = seed
                got = mask_of(self.gpu.put(x), n, m, method=op)
                np.testing.assert_array_equal(self.gpu.get(got), want)

    def ranked(self, op: str, form: str) -> None:
        # More segments than one launch lists, some shorter than a warp.
        np, kth = self.np, self.gossamer.prune.kth
        rng = np.random.default_rng(5)
        offsets = np.concatenate([[0], np.cumsum(rng.integers(1, 80, 140))])
        x = rng.integers(-9, 10, offsets[-1]).astype(np.float16)
        k = (np.diff(offsets) + 1) // 2
        for given in ((x, k, offsets), (x[: x.size // 50 * 50], 20, 50)):
            want, got = (kth(y, given[1], per=given[2]) for y in (given[0], self.gpu.put(given[0])))
            for ours, theirs in zip(got, want, strict=True):
                np.testing.assert_array_equal(self.gpu.get(ours), theirs)

    def shared(self, op: str, form: str) -> None:
        np, prune = self.np, self.gossamer.prune
        x = np.random.default_rng(6).integers(-9, 10, 9000).astype(np.float16)
        for seed in "0123":
            os.environ["GOSSAMER_EMULATION_SEED"] = seed
            selection = prune.Selection(2000, dtype="float16")
            while not selection.done:
                counts = selection.histogram(x)
                np.testing.assert_array_equal(selection.histogram(self.gpu.put(x)), counts)
                selection.narrow(counts)
            got = selection.emit(self.gpu.put(x), ties_before=5)
            np.testing.assert_array_equal(self.gpu.get(got), selection.emit(x, ties_before=5))

    def listed(self, op: str, form: str) -> None:
        # Places that are listed twice, that are taken, that are strided; then one outside.
        np, grow = self.np, self.gossamer.regrow.csr_drop_grow_
        rng = np.random.default_rng(7)
        dense = (rng.random((9, 30)) < 0.3).astype(np.float16)
        places = np.ascontiguousarray(rng.integers(0, (9, 30), (90, 2)), np.int32)
        results = []
        for put, get in ((np.array, np.asarray), (self.gpu.put, self.gpu.get)):
            a = self.gossamer.CSR.from_dense(dense)
            a = self.gossamer.CSR(put(a.indptr), put(a.indices), put(a.values), a.shape)
            listed = put(places)
            a, src = grow(a, (listed[:, 0], listed[:, 1]), 20, 20)
            results.append([get(x) for x in (a.indptr, a.indices, a.values, src)])
            wrong = places.copy()
            wrong[40] = 9, 0
            listed = put(wrong)
            try:
                grow(a, (listed[:, 0], listed[:, 1]), 1, 1)
                raise AssertionError("a place outside of the matrix is refused")
            except ValueError:
                pass
        for ours, theirs in zip(*results, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def ordered(self, op: str, form: str) -> None:
        np, search = self.np, self.gossamer.prune.permutation_search
        w = np.random.default_rng(15).standard_normal((530, 16)).astype(np.float16)
        w[3, 5] = np.nan
        for method in ("swap", "stripe8"):
            order, kept = search(w, 2, 4, method=method, escapes=2)
            there, also = search(self.gpu.put(w), 2, 4, method=method, escapes=2)
            np.testing.assert_array_equal(self.gpu.get(there), order)
            assert also == kept

    def grouped(self, op: str, form: str) -> None:
        np, prune = self.np, self.gossamer.prune
        w = self.operands.integers((5, 4200), np.float16, 13)
        w[:, 0] = 3
        for seed in "0123":
            os.environ["GOSSAMER_EMULATION_SEED"] = seed
            for per in ("row", 7):
                got = prune.group_soft_threshold_(self.gpu.put(w), 2.0, per=per)
                want = prune.group_soft_threshold_(w.copy(), 2.0, per=per)
                np.testing.assert_allclose(self.gpu.get(got), want, rtol=2e-3)
            got = prune.sef_prox_(self.gpu.put(w), 0.5, 700.0, per=7)
            want = prune.sef_prox_(w.copy(), 0.5, 700.0, per=7)
            np.testing.assert_allclose(self.gpu.get(got), want, rtol=2e-3, atol=1e-6)

    def counted(self, op: str, form: str) -> None:
        np, nnz_stats = self.np, self.gossamer.prune.nnz_stats
        x = self.operands.integers((7, 150), np.float16, 14)
        wide = np.ones((2, 8300), np.float16)
        for y, per in ((x, None), (x, "row"), (x, (3, 5)), (x, (2, 40)), (wide, (2, 4100))):
            got = nnz_stats(self.gpu.put(y), per=per)
            np.testing.assert_array_equal(self.gpu.get(got), nnz_stats(y, per=per))

    def queued(self, op: str, form: str) -> None:
        stream = 0x7F3A5C0
        at = self.framework(self.trace, self.patch, index=1)
        at.use(stream)
        dense = self.dense(form)
        a = self.gossamer.CSR.from_dense(dense)
        there = self.gossamer.CSR(at.put(a.indptr), at.put(a.indices), at.put(a.values), a.shape)
        b = at.put(self.np.ones((dense.shape[1], 8), dense.dtype))
        with self.trace.taken() as calls:
            self.gossamer.spmm(there, b)
        launches = [call for call in calls if call.name == "launch"]
        assert launches, "the trace holds the launches"
        assert {call.stream for call in launches} == {stream}, "the caller's stream"
        assert {call.device for call in launches} == {1}, "the operands' device"


def main(library: str) -> None:
    """Print what each fault's check says of it, and of the sources as they are."""
    spec = importlib.util.spec_from_file_location("gossamer._cuda_emulated", library)
    assert spec is not None
    assert spec.loader is not None
    extension = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    active = ctypes.c_int.in_dll(ctypes.CDLL(library), "gossamer_planted")
    checks = Checks(extension)

    def says(fault: Fault) -> str | None:
        try:
            getattr(checks, fault.check)(*fault.operands)
        except (AssertionError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"
        return None

    sound: dict[tuple[Any, ...], str | None] = {}
    outcomes = []
    for number, fault in enumerate(FAULTS, 1):
        key = (fault.check, fault.operands)
        active.value = 0
        if key not in sound:
            sound[key] = says(fault)
        active.value = number
        outcomes.append({"name": fault.name, "without": sound[key], "with": says(fault)})
    print(json.dumps(outcomes))


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    main(sys.argv[1])
