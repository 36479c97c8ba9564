from collections.abc import Callable, Sequence
from typing import Any, final, type_check_only

@type_check_only
class _Native(type): ...  # stands for pybind11's metaclass

@final
class Tensor(metaclass=_Native):
    def __init__(self, shape: Sequence[int], dtype: str) -> None: ...
    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...

def key(op: str, argument: str, value: object) -> int: ...
def pair(op: str, argument: str, value: object) -> tuple[int, int]: ...
def lend_directly(
    type: type,
    *,
    unset: Sequence[str],
    refused: Sequence[str],
    levels: dict[str, Any],
    level: str,
    detach: object,
    written: object,
    empty: object,
    dtypes: dict[str, Any],
    is_traced: object,
    constant: object,
) -> bool: ...

@final
class Csr(metaclass=_Native):
    def __init__(
        self,
        indptr: object,
        indices: object,
        values: object,
        rows: int,
        cols: int,
        check: bool | None,
        index_dtype: str | None,
    ) -> None: ...
    def with_values(self, values: object) -> Csr | CsrPattern: ...
    @property
    def indptr(self) -> Any: ...
    @property
    def indices(self) -> Any: ...
    @property
    def values(self) -> Any: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nnz(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def index_dtype(self) -> str: ...
    @property
    def device(self) -> str: ...

@final
class CsrPattern(metaclass=_Native):
    def __init__(
        self,
        indptr: object,
        indices: object,
        values: object,
        rows: int,
        cols: int,
        check: bool | None,
        index_dtype: str | None,
    ) -> None: ...
    def with_values(self, values: object) -> Csr | CsrPattern: ...
    @property
    def indptr(self) -> Any: ...
    @property
    def indices(self) -> Any: ...
    @property
    def values(self) -> Any: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nnz(self) -> int: ...
    @property
    def dtype(self) -> str | None: ...
    @property
    def index_dtype(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def batch(self) -> tuple[int, ...]: ...

@final
class Bsr(metaclass=_Native):
    def __init__(
        self,
        indptr: object,
        indices: object,
        blocks: object,
        rows: int,
        cols: int,
        check: bool | None,
        index_dtype: str | None,
    ) -> None: ...
    def with_values(self, blocks: object) -> Bsr: ...
    @property
    def indptr(self) -> Any: ...
    @property
    def indices(self) -> Any: ...
    @property
    def blocks(self) -> Any: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def block(self) -> tuple[int, int]: ...
    @property
    def nblocks(self) -> int: ...
    @property
    def nnz(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def index_dtype(self) -> str: ...
    @property
    def device(self) -> str: ...

@final
class Nm(metaclass=_Native):
    def __init__(
        self,
        values: object,
        indices: object,
        rows: int,
        cols: int,
        n: int,
        m: int,
        axis: int,
        check: bool | None,
    ) -> None: ...
    def with_values(self, values: object) -> Nm: ...
    def transpose(self) -> Nm: ...
    @property
    def values(self) -> Any: ...
    @property
    def indices(self) -> Any: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def n(self) -> int: ...
    @property
    def m(self) -> int: ...
    @property
    def axis(self) -> int: ...
    @property
    def nnz(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def device(self) -> str: ...

def nm_from_dense(w: object, n: int, m: int, axis: int, mask: object) -> Nm: ...
def nm_to_dense(a: Nm, out: object) -> Any: ...

@final
class Packed(metaclass=_Native):
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def n(self) -> int | None: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nnz(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def layouts(self) -> str: ...
    @property
    def why(self) -> str: ...

@final
class PackedTiles(metaclass=_Native):
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def n(self) -> int | None: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def nnz(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def layouts(self) -> str: ...
    @property
    def why(self) -> str: ...

@final
class Layout(metaclass=_Native):
    def __init__(
        self,
        indptr: object,
        indices: object,
        kinds: object,
        bits: object,
        shape: Sequence[int],
        block: tuple[int, int],
        check: bool | None,
    ) -> None: ...
    @property
    def indptr(self) -> Any: ...
    @property
    def indices(self) -> Any: ...
    @property
    def kinds(self) -> Any: ...
    @property
    def bits(self) -> Any: ...
    @property
    def shape(self) -> tuple[int, int, int, int]: ...
    @property
    def block(self) -> tuple[int, int]: ...
    @property
    def nblocks(self) -> int: ...
    @property
    def device(self) -> str: ...

def layout_local_stride(
    heads: object,
    blocks: object,
    local: object,
    stride: object,
    head_shift: object,
    dense_heads: object,
    block: object,
    like: object,
) -> Layout: ...
def layout_window_global(
    heads: object,
    blocks: object,
    window: object,
    globals: object,
    random: object,
    seed: object,
    causal: object,
    block: object,
    like: object,
) -> Layout: ...
def layout_from_mask(mask: object, block: object) -> Layout: ...
def layout_from_lists(indices: object, counts: object, cols: object, block: object) -> Layout: ...
def layout_from_topk(indices: object, cols: object, block: object) -> Layout: ...
def layout_from_csr(
    pattern: Csr | CsrPattern, batch: object, heads: object, block: object
) -> Layout: ...
def layout_vertical_slash(
    columns: object, slashes: object, tokens: object, block: object
) -> tuple[Layout, Layout]: ...
def layout_transpose(layout: Layout) -> Layout: ...
def attention(
    q: object,
    k: object,
    v: object,
    layout: Layout,
    causal: object,
    before: object,
    after: object,
    q_offset: object,
    scale: object,
    softcap: object,
    bias: object,
    sinks: object,
    cu_seqlens: object,
    cu_seqlens_k: object,
    out: object,
    lse: object,
) -> tuple[Any, Any]: ...
def attention_workspace(
    q: object, k: object, v: object, layout: Layout, cu_seqlens: object, cu_seqlens_k: object
) -> int: ...
def attention_backward(
    do: object,
    q: object,
    k: object,
    v: object,
    o: object,
    lse: object,
    layout: Layout,
    causal: object,
    before: object,
    after: object,
    q_offset: object,
    scale: object,
    softcap: object,
    bias: object,
    sinks: object,
    cu_seqlens: object,
    cu_seqlens_k: object,
    dlse: object,
    with_dbias: object,
    dq: object,
    dk: object,
    dv: object,
) -> tuple[Any, Any, Any, Any, Any]: ...
def attention_decode(
    q: object,
    k_cache: object,
    v_cache: object,
    indptr: object,
    indices: object,
    lengths: object,
    causal: object,
    scale: object,
    softcap: object,
    sinks: object,
    out: object,
    lse: object,
) -> tuple[Any, Any]: ...
def merge_attention(
    o: Sequence[object], lse: Sequence[object], out: object, out_lse: object
) -> tuple[Any, Any]: ...
def attention_block_pool(x: object, block: object, mode: object, out: object) -> Any: ...
def attention_block_topk(
    q: object,
    pooled: object,
    k: object,
    pooled_min: object,
    rows: object,
    block: object,
    causal: object,
    q_offset: object,
    keep_first: object,
    keep_local: object,
    out: object,
) -> Any: ...
def layout_to_mask(layout: Layout, elements: object, out: object) -> Any: ...

@final
class GroupQuant(metaclass=_Native):
    def __init__(
        self,
        indptr: object,
        indices: object,
        codes: object,
        scales: object,
        zeros: object,
        rows: int,
        cols: int,
        group: int,
        bits: int,
        dtype: str,
        check: bool | None,
    ) -> None: ...
    @property
    def indptr(self) -> Any: ...
    @property
    def indices(self) -> Any: ...
    @property
    def codes(self) -> Any: ...
    @property
    def scales(self) -> Any: ...
    @property
    def zeros(self) -> Any: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def groups(self) -> int: ...
    @property
    def nnz(self) -> int: ...
    @property
    def group(self) -> int: ...
    @property
    def bits(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def device(self) -> str: ...

def quant_norms(w: object, group: int) -> Any: ...
def quant_from_dense(w: object, mask: object, group: int, bits: int) -> GroupQuant: ...
def quant_to_dense(a: GroupQuant, out: object) -> Any: ...
def pack(a: Csr, n: int | None) -> Packed | PackedTiles: ...
def packed_update(packed: Packed | PackedTiles, values: object) -> None: ...
def packed_to_dense(packed: Packed | PackedTiles, out: object) -> Any: ...
def packed_parts(packed: Packed | PackedTiles) -> tuple[Any, Any, Any]: ...
def packed_from_bytes(
    indptr: bytes, indices: bytes, values: bytes, rows: int, cols: int, dtype: str, n: int | None
) -> Packed: ...
def csr_from_dense(w: object, mask: object) -> Csr: ...
def csr_to_dense(a: Csr, out: object) -> Any: ...
def csr_from_coo(
    row: object, col: object, values: object, shape: tuple[int, int], duplicates: str
) -> Csr | CsrPattern: ...
def csr_transpose_pattern(a: CsrPattern) -> tuple[CsrPattern, Any]: ...
def csr_transpose(a: Csr, with_permutation: bool) -> tuple[Csr, Any]: ...
def bsr_from_dense(w: object, block_rows: int, block_cols: int, mask: object) -> Bsr: ...
def bsr_to_dense(a: Bsr, out: object) -> Any: ...
def bsr_transpose(a: Bsr) -> tuple[Bsr, Any]: ...
def convert_indices(array: object, dtype: str) -> Any: ...
def spmm(
    a: Csr | Bsr | Nm | Packed | PackedTiles | GroupQuant,
    b: object,
    transpose_a: bool,
    bias: object,
    activation: object,
    accumulate: bool,
    out: object,
) -> Any: ...
def linear(
    x: object,
    w: Csr | CsrPattern | Bsr | Nm | Packed | PackedTiles | GroupQuant,
    bias: object,
    activation: object,
    accumulate: bool,
    out: object,
) -> Any: ...
def sddmm(a: object, b: object, pattern: Csr | Bsr, accumulate: bool, out: object) -> Any: ...
def sddmm_batched(
    a: object,
    b: object,
    pattern: Csr | CsrPattern,
    scale: float,
    dtype: str | None,
    accumulate: bool,
    out: object,
) -> Any: ...
def spmm_batched(
    a: Csr | CsrPattern,
    b: object,
    transpose_a: bool,
    stacked: bool,
    bias: object,
    activation: object,
    accumulate: bool,
    out: object,
) -> Any: ...
def sparse_linear(
    x: object,
    wt: object,
    threshold: object,
    bias: object,
    activation: object,
    accumulate: bool,
    out: object,
) -> Any: ...
def gated_mlp(
    x: object,
    w_gate: object,
    w_up: object,
    w_down_t: object,
    threshold: object,
    activation: object,
    out: object,
) -> Any: ...
def delta_linear(
    x: object,
    wt: object,
    last: object,
    sums: object,
    threshold: object,
    refresh: bool,
    bias: object,
    activation: object,
    out: object,
) -> tuple[Any, Any, Any, Any]: ...
def gather_decode(
    indices: object, values: object, table: object, bias: object, out: object
) -> Any: ...
def gather_decode_backward(
    dy: object, indices: object, values: object, table: object, needs: object, out: object
) -> tuple[Any, Any]: ...
def linear_backward(
    dy: object,
    x: object,
    w: Csr | CsrPattern | Bsr | Nm,
    needs: object,
    accumulate: bool,
    out: object,
) -> Any: ...
def spmm_backward(
    dy: object,
    a: Csr | CsrPattern | Bsr | Nm,
    b: object,
    transpose_a: bool,
    needs: object,
    accumulate: bool,
    out: object,
) -> Any: ...
def topk_rows_backward(dy: object, indices: object, columns: int, out: object) -> Any: ...
def csr_softmax(a: Csr | CsrPattern, out: object) -> Any: ...
def csr_softmax_backward(p: Csr | CsrPattern, grad: object, out: object) -> Any: ...
def csr_attention(
    q: object,
    k: object,
    v: object,
    pattern: Csr | CsrPattern,
    score: str,
    scale: float | None,
    slope: float,
    bias: object,
    out: object,
    lse: object,
) -> tuple[Any, Any]: ...
def csr_attention_backward(
    grad: object,
    q: object,
    k: object,
    v: object,
    o: object,
    lse: object,
    pattern: Csr | CsrPattern,
    score: str,
    scale: float | None,
    slope: float,
    bias: object,
    dlse: object,
    outs: tuple[Any, ...],
) -> tuple[Any, ...]: ...

@final
class Score(metaclass=_Native):
    def __init__(
        self,
        w: object,
        kind: str,
        g: object,
        m: object,
        v: object,
        col: object,
        alpha: float,
        beta: float,
        eps: float,
        scale: float,
    ) -> None: ...

def score_check(score: object) -> tuple[tuple[int, ...], str]: ...
def score_array(score: object, out: object) -> Any: ...
def topk_mask_list(
    scores: list[Any],
    k: int,
    largest: bool,
    tie: str,
    nan: str,
    packed: str | None,
    within: list[Any] | None,
    outs: list[Any],
) -> list[Any]: ...
def nm_mask(
    score: object, n: int, m: int, axis: int, tie: str, nan: str, tail: str, out: object
) -> Any: ...
def check_nm(x: object, n: int, m: int, axis: int) -> tuple[int, int | None]: ...
def nm_mask_transposable(score: object, n: int, m: int, method: str, out: object) -> Any: ...
def vnm_mask(score: object, v: int, n: int, m: int, method: str, out: object) -> Any: ...
def block_pool(score: object, block: tuple[int, int], reduce: str, out: object) -> Any: ...
def expand_blocks(
    mask: object, block: tuple[int, int], shape: tuple[int, int], out: object
) -> Any: ...
def permutation_search(
    w: object, n: int, m: int, method: str, escapes: int, seed: int, out: object
) -> tuple[Any, float]: ...
def topk_mask_segments(
    score: object,
    k: object,
    per: int,
    offsets: object,
    largest: bool,
    tie: str,
    nan: str,
    packed: str | None,
    within: object,
    out: object,
) -> Any: ...
def count_nan(score: object) -> int: ...
def kth(score: object, k: int, largest: bool, nan: str) -> tuple[float, int, int]: ...
def kth_pair(score: object, k: int, largest: bool, nan: str) -> tuple[float, float]: ...
def kth_segments(
    score: object,
    k: object,
    per: int,
    offsets: object,
    largest: bool,
    nan: str,
    threshold: object,
    n_strict: object,
    n_tie: object,
) -> tuple[Any, Any, Any]: ...
def random_mask(
    like: object,
    shape_or_like: Sequence[int] | None,
    k: int,
    seed: int,
    step: int,
    within: object,
    offset: int,
    total: int | None,
    out: object,
) -> Any: ...
def topk_rows(
    x: object, k: int, key: object, tie: str, nan: str, values: object, indices: object
) -> tuple[Any, Any]: ...

@final
class Selection(metaclass=_Native):
    def __init__(self, k: int, dtype: str, largest: bool, tie: str, nan: str) -> None: ...
    def narrow(self, counts: object) -> None: ...
    @property
    def done(self) -> bool: ...
    @property
    def threshold(self) -> float: ...

def selection_histogram(selection: Selection, score: object, counts: object) -> None: ...
def selection_ties(selection: Selection, score: object) -> int: ...
def selection_emit(selection: Selection, score: object, ties_before: int, out: object) -> Any: ...
def jax_checks() -> dict[str, Callable[..., None]]: ...
def jax_handlers() -> dict[str, Any]: ...
def version() -> str: ...
def isa() -> str: ...
def available_isas() -> list[str]: ...
def num_threads() -> int: ...
def processors() -> int: ...
def processors_of_quota(root: str = "") -> int: ...
def set_num_threads(n: int) -> None: ...
def read_bandwidth(bytes: int, seconds: float = 0.1) -> float: ...

@final
class ReadProbe(metaclass=_Native):
    def __init__(self, bytes: int) -> None: ...
    def __call__(self) -> None: ...

def fma_peak(seconds: float = 0.1) -> float: ...
def tile_peak(seconds: float = 0.1) -> float: ...
def drop_grow_mask(
    mask: object,
    drop_score: object,
    grow_score: object,
    random: tuple[int, int] | None,
    n_drop: int,
    n_grow: int,
    regrow: str,
    forbid: object,
    weights: object,
    init: object,
    states: list[Any],
    state_init: object,
    clear_states: bool,
    tie: str,
    nan: str,
) -> Any: ...
def set_drop(values: object, n_positive: int, n_negative: int, out: object) -> Any: ...
def drop_grow_rows(
    a: object,
    indptr: object,
    indices: object,
    values: object,
    drop_score: object,
    keep: object,
    grow_score: object,
    places: tuple[Any, ...] | None,
    random: tuple[int, int] | None,
    n_drop: int,
    n_grow: int,
    regrow: str,
    forbid: object,
    init: object,
    states: list[Any],
    room: tuple[Any, ...] | None,
    tie: str,
    nan: str,
) -> Any: ...
def shares_structure(a: object) -> bool: ...
def block_norms(blocks: object) -> Any: ...

@final
class ColumnStats(metaclass=_Native):
    def __init__(self) -> None: ...
    def add(self, x: object) -> None: ...
    def merge(self, other: ColumnStats) -> None: ...
    @property
    def n(self) -> int: ...
    @property
    def sum(self) -> Any: ...
    @property
    def sumsq(self) -> Any: ...
    @property
    def mean(self) -> Any: ...
    @property
    def var(self) -> Any: ...

def obs_prune_(
    w: object,
    u: object,
    mask: object,
    k: int | None,
    nm: tuple[int, int] | None,
    block: int,
    out: object,
) -> Any: ...
def obs_block_(
    w: object,
    u: object,
    mask: object,
    k: int | None,
    nm: tuple[int, int] | None,
    mask_out: object,
    err_out: object,
) -> tuple[Any, Any]: ...
def dsnot_rows_(
    mask: object,
    w: object,
    stats: ColumnStats,
    tolerance: float,
    max_iter: int,
    power: float,
    same_sign: bool,
    per: int | None,
) -> None: ...
def channel_threshold(squares: object, scale: float, out: object) -> Any: ...
def cett_threshold(w: object, t: float, out: object) -> Any: ...
def soft_threshold_(w: object, threshold: float) -> None: ...
def group_soft_threshold_(w: object, threshold: float, kind: str, per: int) -> None: ...
def sef_prox_(w: object, lam: float, k: float, kind: str, per: int) -> None: ...
def l0_project_(w: object, k: int, out: object) -> Any: ...
def shrink_(w: object, mask: object, factor: float) -> None: ...
def srste_grad_(g: object, w: object, mask: object, decay: float) -> None: ...
def polarization(gamma: object, t: float, alpha: float, out: object) -> tuple[float, Any]: ...
def edge_score(a: object, out: object) -> Any: ...
def row_sum(a: Csr | CsrPattern, power: float, out: object) -> Any: ...
def row_max(a: Csr | CsrPattern, out: object) -> Any: ...
def scale_rows_cols(a: Csr | CsrPattern, rows: object, cols: object, out: object) -> Any: ...
def strength(a: object, axis: int, out: object) -> Any: ...
def mean_same_pattern(matrices: list[Csr]) -> Any: ...
def coverage_or_(fired: object, mask: object) -> int: ...
def nnz_stats(x: object, rows: int | None, cols: int | None, out: object) -> Any: ...
