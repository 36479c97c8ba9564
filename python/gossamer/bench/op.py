"""What the benchmark knows of an op: its cases, operands, reference, contenders and least cost.

A class in a file of `families/` says it. The rest of the benchmark sees `Op`, and knows no op by
name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .dtypes import DTYPES, Array
from .libraries import Call, Library
from .matrices import GivenMatrix


@dataclass(frozen=True)
class Parameter:
    """A named number or word of a case.

    What has a `help` is an option of the command line. Numbers of a `shape` come from --shapes, and
    means are taken over them. Words (parameters that are not numbers) have tables of their own.
    """

    name: str
    help: str = ""
    usual: str = ""  # values of the option, where it is not given
    quick: str = ""  # the same with --quick
    parse: Callable[[str], Any] = str  # one value of the option; raises ValueError
    head: str = ""  # of its column in tables
    text: Callable[[Any], str] = str
    label: Callable[[Any], str] = str  # in the line that names a case; may be empty
    shape: bool = False
    word: bool = False
    default: Any = None  # of cases that do not name it
    formerly: str = ""  # its name in results of schema 1


class Parameters(Mapping[str, Any]):
    """The parameters of a case by name. Cannot be changed."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __repr__(self) -> str:
        return f"Parameters({self._values})"


@dataclass(frozen=True)
class Case:
    """One op with one set of parameters, which are read as `case["m"]`."""

    op: Op
    parameters: Parameters
    dtype: str = "f32"
    cold: bool = False  # copies of the weights are rotated past the last cache
    seed: int = 0

    def __getitem__(self, name: str) -> Any:
        return self.parameters[name]

    def with_(self, *, dtype: str | None = None, **parameters: Any) -> Case:
        """Copy the case, with some parameters changed."""
        changed = Parameters({**self.parameters, **parameters})
        return replace(self, parameters=changed, dtype=dtype or self.dtype)

    @property
    def brief(self) -> str:
        """The numbers, for a line of a table whose title says the rest."""
        texts = [p.label(self[p.name]) for p in self.op.parameters if not p.shape and not p.word]
        return " ".join(x for x in (self.shape_text(), *texts) if x)

    @property
    def label(self) -> str:
        """One line for people."""
        words = [p.label(self[p.name]) for p in self.op.parameters if p.word]
        parts = (self.op.name, self.brief, self.dtype, *words, "cold" if self.cold else "")
        return " ".join(x for x in parts if x)

    def shape_text(self, times: str = "x") -> str:
        """Write the shape."""
        return times.join(str(self[p.name]) for p in self.op.parameters if p.shape)


@dataclass(frozen=True)
class Work:
    """What a case costs at the least, whatever the format and the kernel."""

    flops: float
    dense_flops: float  # of the same op without sparsity
    bytes: float  # that must be read and written once
    weights_bytes: float  # of these, what cold weights are


@dataclass(frozen=True)
class Contender:
    """One way of computing the cases of one op.

    `hold(case, weights)` makes what a user would keep between calls (not timed, cached while the
    weights stay). `bind(case, held, inputs)` returns the timed call, and `result(case, returned)`
    turns what the call returned into what the op's `error` takes.
    """

    name: str
    # "ours", "sparse", "dense", "low" (dense, in fewer bits than the case), "selection" or "limit",
    # which computes nothing, and takes the time that the case's bytes need.
    kind: str
    library: Library
    hold: Callable[[Case, Any], Any]
    bind: Callable[[Case, Any, dict[str, Array]], Call]
    result: Callable[[Case, Any], Any]
    dtypes: Sequence[str] = DTYPES
    suits: Callable[[Case], bool] = lambda case: True
    storage: str | None = None  # the type it computes in, where that is not the case's
    threads: int | None = None  # its number of threads, where that is not the run's
    default: bool = True  # part of a run that names no contenders

    def takes(self, case: Case) -> bool:
        """Tell whether the contender can compute the case."""
        return case.dtype in self.dtypes and case.dtype != self.storage and self.suits(case)

    @property
    def process(self) -> str:
        """The worker process that it runs in."""
        name = self.library.process
        return name if self.threads is None else f"{name}@{self.threads}"


class Op(ABC):
    """An op of the benchmark.

    Cases with one `weights_key` have the same weights, which are drawn once and which contenders
    lay out once. `inputs` are the other operands. All operands are NumPy arrays, values stored as
    `dtypes.to_bits` stores them; what is random comes from the case's seed.
    """

    name: str
    parameters: tuple[Parameter, ...]
    over = ""  # the parameter that plots are drawn over

    def __init__(self) -> None:
        self.contenders = {c.name: c for c in self.make_contenders()}

    def case(
        self, *, dtype: str = "f32", cold: bool = False, seed: int = 0, **parameters: Any
    ) -> Case:
        """Make a case; parameters that are not named get their defaults."""
        known = {p.name: p.default for p in self.parameters}
        if unknown := parameters.keys() - known.keys():
            expected = ", ".join(known)
            raise ValueError(f"{self.name}: got parameter {min(unknown)}, expected of {expected}")
        values = known | parameters
        if lacking := [name for name, value in values.items() if value is None]:
            raise ValueError(f"{self.name}: parameter {lacking[0]} is missing")
        return Case(self, Parameters(values), dtype, cold, seed)

    def on_matrix(self, matrix: GivenMatrix) -> dict[str, Any] | None:
        """Name the parameters of cases on a matrix of the user's; None where the op takes none."""
        return None

    def weights_key(self, case: Case) -> Hashable:
        """Tell apart cases with different weights."""
        return case

    def weights(self, case: Case) -> Any:
        """Draw the weights; None for an op that holds nothing between calls."""
        return None

    def nnz(self, case: Case, weights: Any) -> int:
        """Count the entries that are multiplied, or kept."""
        return 0

    def held_bytes(self, case: Case, contender: Contender, nnz: int) -> float:
        """Count what one call reads of a contender's weights, at the least."""
        return self.work(case, nnz).weights_bytes

    @abstractmethod
    def inputs(self, case: Case) -> dict[str, Array]:
        """Draw the other operands, in the layout that the op's users have them in."""

    def turns(self, case: Case, inputs: dict[str, Array]) -> list[dict[str, Array]]:
        """List inputs that take turns where weights are cold: `inputs`, then its like.

        Each makes a call read other weights than the ones before it; those who read all weights
        in each call need no other.
        """
        return [inputs]

    @abstractmethod
    def reference(self, case: Case, weights: Any, inputs: dict[str, Array]) -> dict[str, Array]:
        """Compute what `error` compares with, in float64."""

    @abstractmethod
    def error(
        self, case: Case, weights: Any, reference: dict[str, Array], result: Any, storage: str
    ) -> float:
        """Compare a result: the largest error as a share of its bound. Above 1 it is wrong.

        `storage` is the type in which the contender kept its operands.
        """

    @abstractmethod
    def work(self, case: Case, nnz: int) -> Work:
        """Count useful flops and compulsory bytes."""

    @abstractmethod
    def make_contenders(self) -> list[Contender]:
        """List ours and the peers, in the order of the tables."""
