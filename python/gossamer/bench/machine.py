"""The machine: what it is, what it can do, and the least time that a case could take."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from gossamer import _core

from .op import Case, Work

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}


def usable_cpus() -> int:
    """Count the processors that this process may use at once."""
    return _core.processors()


def cpu_model() -> str:
    """Name the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.findall(r"^([\w ]+?)\s*: (.*)$", text.split("\n\n")[0], re.MULTILINE)
    fields: dict[str, str] = dict(found)
    name = fields.get("model name", platform.machine())
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']} model {fields.get('model', '?')})"
    return name


def cache_sizes() -> dict[str, int]:
    """Bytes of the caches: L1 and L2 of one core, all of L3. Usual sizes where unknown."""
    sizes = dict(_USUAL)
    units = {"K": 1 << 10, "M": 1 << 20}
    for entry in _CACHES.glob("index*"):
        try:
            level, kind, size = ((entry / x).read_text().strip() for x in ("level", "type", "size"))
        except OSError:
            continue
        if kind != "Instruction" and f"L{level}" in sizes:
            sizes[f"L{level}"] = int(size[:-1]) * units[size[-1]]
    return sizes


def memory_size() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peer_environment(threads: int) -> dict[str, str]:
    """Build the environment of a worker: every runtime is held to the same number of threads."""
    names = ("GOSSAMER", "OMP", "MKL", "OPENBLAS")
    environment = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in names}
    # sparse-dot-mkl looks for an unversioned libmkl_rt, which MKL's wheel lacks.
    runtime = sorted((Path(sys.prefix) / "lib").glob("libmkl_rt.so*"))
    if runtime:
        environment.setdefault("MKL_RT", str(runtime[0]))
    return environment


@dataclass(frozen=True)
class Limits:
    """Measured limits for one number of threads: read bandwidth by level, float32 peak."""

    threads: int
    sizes: dict[str, int]
    gbps: dict[str, float]
    gflops: float

    @staticmethod
    def probe_sizes(threads: int) -> dict[str, int]:
        """Bytes each thread should read to meet each level."""
        sizes = cache_sizes()
        return {
            "L1": sizes["L1"] // 2,
            "L2": sizes["L2"] // 2,
            "L3": max(sizes["L3"] // 2 // threads, 2 * sizes["L2"]),
            "DRAM": max(4 * sizes["L3"], 256 << 20) // threads,
        }

    def level(self, size: float) -> str:
        """Name the nearest level that holds so many bytes in all."""
        for name in ("L1", "L2"):
            if size <= self.sizes[name] * self.threads:
                return name
        return "L3" if size <= self.sizes["L3"] else "DRAM"

    def least_seconds(self, case: Case, cost: Work) -> float:
        """Bound the time from below: the peak, and the level that holds the operands.

        Half the rate at float64; twice it is not granted to 16-bit types, whose sums are float32.
        """
        peak = self.gflops * 1e9 / (2 if case.dtype == "f64" else 1)
        if case.cold:
            warm = cost.bytes - cost.weights_bytes
            traffic = cost.weights_bytes / self.gbps["DRAM"] + warm / self.gbps[self.level(warm)]
        else:
            traffic = cost.bytes / self.gbps[self.level(cost.bytes)]
        return max(cost.flops / peak, traffic / 1e9)


@dataclass(frozen=True)
class GpuLimits:
    """Measured limits of a GPU: bandwidth of a large copy, peaks of large dense products by type.

    Operands that stay in the GPU's cache may move faster than a copy of large arrays does.
    """

    device: str
    gbps: float
    gflops: dict[str, float]

    def least_seconds(self, case: Case, cost: Work) -> float:
        """Bound the time from below: the peak of the type, and the bandwidth."""
        peak = self.gflops["bf16" if case.dtype == "f16" else case.dtype]
        return max(cost.flops / peak, cost.bytes / self.gbps) / 1e9


AnyLimits: TypeAlias = Limits | GpuLimits
