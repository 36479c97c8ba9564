#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "gossamer/activation.h"
#include "gossamer/attention.h"
#include "gossamer/bsr.h"
#include "gossamer/csr.h"
#include "gossamer/csr_attention.h"
#include "gossamer/graph.h"
#include "gossamer/group_quant.h"
#include "gossamer/layout.h"
#include "gossamer/nm.h"
#include "gossamer/packed.h"
#include "gossamer/packed_tiles.h"
#include "gossamer/products.h"
#include "gossamer/prune/diagnostics.h"
#include "gossamer/prune/layerwise.h"
#include "gossamer/prune/patterns.h"
#include "gossamer/prune/proximal.h"
#include "gossamer/prune/select.h"
#include "gossamer/regrow.h"
#include "gossamer/tensor.h"

struct CUstream_st;

/// The operations of gossamer/products.h, gossamer/csr.h and gossamer/bsr.h, the layers of
/// gossamer/activation.h, and those of gossamer/csr_attention.h, gossamer/graph.h, gossamer/prune
/// and gossamer/regrow.h that stand here, on CUDA devices.
/// Arguments, equations and errors are those that stand there; matrices have int32 indices.
///
/// An operation queues its work on `stream` and returns: it neither allocates nor waits, unless its
/// comment says so, and may be captured into a CUDA graph. What it needs beside its operands is
/// `workspace`: memory on their device, aligned to 16 bytes, of at least as many bytes as the
/// `…_workspace` function of the same arguments says; an empty view where that is 0. Its contents
/// do not matter, and it may be freed in the order of the stream. Results do not depend on the run.
///
/// A failed call of the CUDA runtime throws CudaError. With GOSSAMER_CUDA_SYNC=1 in the environment
/// each launch is waited for, so that the error names the kernel that it comes from; except while
/// its stream is captured. What waits throws CudaError on a stream that is being captured.
namespace gossamer::cuda {

/// cudaStream_t.
using Stream = CUstream_st*;

/// Devices that this process may use; 0 without a driver.
[[nodiscard]] int device_count() noexcept;

/// Waits for what was queued on `stream` of `device`.
void synchronize(Device device, Stream stream);

/// New memory on `device` for callers without an allocator of their own. May wait for the device.
[[nodiscard]] std::shared_ptr<void> allocate(Device device, std::int64_t bytes);

/// Queues a write of zeros to a contiguous array.
void fill_zero(const TensorView& to, Stream stream);

/// Copies a contiguous array to host memory and waits for it.
void copy_to_host(const TensorView& from, void* to, Stream stream);

/// Rows of weights of channels that do not pass are not read, whatever the number of tokens.
[[nodiscard]] std::int64_t sparse_linear_workspace(const TensorView& x, const TensorView& wt);
void sparse_linear(const TensorView& x, const TensorView& wt, const Threshold& threshold,
                   const TensorView& out, const Epilogue& epilogue, const TensorView& workspace,
                   Stream stream);

[[nodiscard]] std::int64_t gated_mlp_workspace(const TensorView& x, const TensorView& w_gate);
void gated_mlp(const TensorView& x, const TensorView& w_gate, const TensorView& w_up,
               const TensorView& w_down_t, const Threshold& threshold, const TensorView& out,
               const GatedMlpOptions& options, const TensorView& workspace, Stream stream);

/// `sent` [] (int32) gets how many channels have sent: the host does not wait for it. Whether a
/// change is finite is found out on the device.
[[nodiscard]] std::int64_t delta_linear_workspace(const TensorView& x, const TensorView& wt);
void delta_linear(const TensorView& x, const TensorView& wt, const DeltaState& state,
                  const Threshold& threshold, const TensorView& out, const TensorView& sent,
                  bool refresh, const Epilogue& epilogue, const TensorView& workspace,
                  Stream stream);

/// Indices are not checked, since the host would have to wait. The row of `out` and the gradient of
/// the value of an index out of range are NaN, and the gradient of the table leaves it out. Then
/// topk_rows_backward makes its row NaN.
void gather_decode(const TensorView& indices, const TensorView& values, const TensorView& table,
                   const TensorView& out, const std::optional<TensorView>& bias, Stream stream);
[[nodiscard]] std::int64_t gather_decode_backward_workspace(
    const TensorView& dy, const TensorView& indices, const TensorView& values,
    const TensorView& table, const std::optional<TensorView>& dvalues,
    const std::optional<TensorView>& dtable);
void gather_decode_backward(const TensorView& dy, const TensorView& indices,
                            const TensorView& values, const TensorView& table,
                            const std::optional<TensorView>& dvalues,
                            const std::optional<TensorView>& dtable, const TensorView& workspace,
                            Stream stream);
void topk_rows_backward(const TensorView& dy, const TensorView& indices, const TensorView& out,
                        Stream stream);

[[nodiscard]] std::int64_t spmm_workspace(const Csr& a, const TensorView& b, bool transpose_a);
void spmm(const Csr& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue, const TensorView& workspace, Stream stream);

/// float16 and bfloat16 blocks whose sides are multiples of 16 are multiplied by tensor cores, in
/// the transposed product too: it transposes the structure, and reads blocks where they are.
[[nodiscard]] std::int64_t spmm_workspace(const Bsr& a, const TensorView& b, bool transpose_a);
void spmm(const Bsr& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue, const TensorView& workspace, Stream stream);

/// Of at most 8 columns that are stored one after the other, elements are picked as they are
/// needed. Of more, 2:4 in half precision is multiplied by sparse tensor cores where its rows are
/// lines; else the matrix is decoded into dense tiles, which half precision multiplies on tensor
/// cores.
[[nodiscard]] std::int64_t spmm_workspace(const Nm& a, const TensorView& b, bool transpose_a);
void spmm(const Nm& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue, const TensorView& workspace, Stream stream);

/// As those of N:M matrices, in float32 where they are decoded.
[[nodiscard]] std::int64_t spmm_workspace(const GroupQuant& a, const TensorView& b,
                                          bool transpose_a);
void spmm(const GroupQuant& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue, const TensorView& workspace, Stream stream);

/// Tiles are expanded in registers and multiplied by tensor cores, whatever the number of columns.
/// What is not contiguous along B's columns, or not in whole tiles, is copied first. There is no
/// transposed product: NotImplementedError.
[[nodiscard]] std::int64_t spmm_workspace(const PackedTiles& a, const TensorView& b,
                                          bool transpose_a);
void spmm(const PackedTiles& a, const TensorView& b, const TensorView& out, bool transpose_a,
          const Epilogue& epilogue, const TensorView& workspace, Stream stream);

[[nodiscard]] std::int64_t linear_workspace(const TensorView& x, const Csr& w);
void linear(const TensorView& x, const Csr& w, const TensorView& out, const Epilogue& epilogue,
            const TensorView& workspace, Stream stream);

[[nodiscard]] std::int64_t linear_workspace(const TensorView& x, const Bsr& w);
void linear(const TensorView& x, const Bsr& w, const TensorView& out, const Epilogue& epilogue,
            const TensorView& workspace, Stream stream);

[[nodiscard]] std::int64_t linear_workspace(const TensorView& x, const Nm& w);
void linear(const TensorView& x, const Nm& w, const TensorView& out, const Epilogue& epilogue,
            const TensorView& workspace, Stream stream);

[[nodiscard]] std::int64_t linear_workspace(const TensorView& x, const GroupQuant& w);
void linear(const TensorView& x, const GroupQuant& w, const TensorView& out,
            const Epilogue& epilogue, const TensorView& workspace, Stream stream);

[[nodiscard]] std::int64_t linear_workspace(const TensorView& x, const PackedTiles& w);
void linear(const TensorView& x, const PackedTiles& w, const TensorView& out,
            const Epilogue& epilogue, const TensorView& workspace, Stream stream);

[[nodiscard]] std::int64_t sddmm_workspace(const TensorView& a, const TensorView& b,
                                           const Csr& pattern);
void sddmm(const TensorView& a, const TensorView& b, const Csr& pattern, const TensorView& out,
           bool accumulate, const TensorView& workspace, Stream stream);

/// Leading axes form at most two in memory, those of all operands of a call alike.
void sddmm(const TensorView& a, const TensorView& b, const CsrPattern& pattern,
           const TensorView& out, const SddmmOptions& options, Stream stream);
[[nodiscard]] std::int64_t spmm_workspace(const CsrPattern& a, const TensorView& values,
                                          const TensorView& b, bool transpose_a, bool stacked);
void spmm(const CsrPattern& a, const TensorView& values, const TensorView& b, const TensorView& out,
          bool transpose_a, bool stacked, const Epilogue& epilogue, const TensorView& workspace,
          Stream stream);

/// float16 and bfloat16 blocks of multiples of 16 by multiples of 8 are filled by tensor cores.
[[nodiscard]] std::int64_t sddmm_workspace(const TensorView& a, const TensorView& b,
                                           const Bsr& pattern);
void sddmm(const TensorView& a, const TensorView& b, const Bsr& pattern, const TensorView& out,
           bool accumulate, const TensorView& workspace, Stream stream);

/// Products and sampled products as above. Beside what these need, the workspace of linear_backward
/// holds the transposes of dy and x where the values have a gradient, and where blocks of half
/// precision are multiplied by tensor cores those of dy and dx.
[[nodiscard]] std::int64_t linear_backward_workspace(const TensorView& dy, const Csr& w,
                                                     const Gradients& gradients);
void linear_backward(const TensorView& dy, const std::optional<TensorView>& x, const Csr& w,
                     const Gradients& gradients, const TensorView& workspace, Stream stream);
[[nodiscard]] std::int64_t spmm_backward_workspace(const TensorView& dy, const Csr& a,
                                                   const Gradients& gradients, bool transpose_a);
void spmm_backward(const TensorView& dy, const Csr& a, const std::optional<TensorView>& b,
                   const Gradients& gradients, bool transpose_a, const TensorView& workspace,
                   Stream stream);
[[nodiscard]] std::int64_t linear_backward_workspace(const TensorView& dy, const Bsr& w,
                                                     const Gradients& gradients);
void linear_backward(const TensorView& dy, const std::optional<TensorView>& x, const Bsr& w,
                     const Gradients& gradients, const TensorView& workspace, Stream stream);
[[nodiscard]] std::int64_t spmm_backward_workspace(const TensorView& dy, const Bsr& a,
                                                   const Gradients& gradients, bool transpose_a);
void spmm_backward(const TensorView& dy, const Bsr& a, const std::optional<TensorView>& b,
                   const Gradients& gradients, bool transpose_a, const TensorView& workspace,
                   Stream stream);
[[nodiscard]] std::int64_t linear_backward_workspace(const TensorView& dy, const Nm& w,
                                                     const Gradients& gradients);
void linear_backward(const TensorView& dy, const std::optional<TensorView>& x, const Nm& w,
                     const Gradients& gradients, const TensorView& workspace, Stream stream);
[[nodiscard]] std::int64_t spmm_backward_workspace(const TensorView& dy, const Nm& a,
                                                   const Gradients& gradients, bool transpose_a);
void spmm_backward(const TensorView& dy, const Nm& a, const std::optional<TensorView>& b,
                   const Gradients& gradients, bool transpose_a, const TensorView& workspace,
                   Stream stream);

/// Waits for the stream: the number of entries is needed to allocate what csr_fill writes.
[[nodiscard]] std::int64_t csr_count(const TensorView& w, const std::optional<TensorView>& mask,
                                     const TensorView& indptr, const TensorView& workspace,
                                     Stream stream);
[[nodiscard]] std::int64_t csr_count_workspace(const TensorView& w);

/// `indptr` is trusted to be csr_count's for the same arguments.
void csr_fill(const TensorView& w, const std::optional<TensorView>& mask, const TensorView& indptr,
              const TensorView& indices, const TensorView& values, Stream stream);

void csr_to_dense(const Csr& a, const TensorView& out, Stream stream);

[[nodiscard]] std::int64_t csr_transpose_workspace(const Csr& a);
void csr_transpose(const Csr& a, const TensorView& indptr, const TensorView& indices,
                   const std::optional<TensorView>& values,
                   const std::optional<TensorView>& permutation, const TensorView& workspace,
                   Stream stream);

/// `kept` [M/br, K/bc] (bool) gets which blocks are kept, for bsr_fill. Waits for the stream.
[[nodiscard]] std::int64_t bsr_count(const TensorView& w, const std::optional<TensorView>& mask,
                                     std::int64_t block_rows, std::int64_t block_cols,
                                     const TensorView& kept, const TensorView& indptr,
                                     const TensorView& workspace, Stream stream);
[[nodiscard]] std::int64_t bsr_count_workspace(const TensorView& w, std::int64_t block_rows,
                                               std::int64_t block_cols);

/// `kept` and `indptr` are trusted to be bsr_count's for the same arguments.
void bsr_fill(const TensorView& w, const std::optional<TensorView>& mask, const TensorView& kept,
              const TensorView& indptr, const TensorView& indices, const TensorView& blocks,
              Stream stream);

void bsr_to_dense(const Bsr& a, const TensorView& out, Stream stream);

[[nodiscard]] std::int64_t bsr_transpose_workspace(const Bsr& a);
void bsr_transpose(const Bsr& a, const TensorView& indptr, const TensorView& indices,
                   const std::optional<TensorView>& blocks, const TensorView& permutation,
                   const TensorView& workspace, Stream stream);

/// Waits for the stream, to know whether a group has too many elements; the error names the first,
/// without their number.
[[nodiscard]] std::int64_t nm_pack_workspace(const TensorView& w);
void nm_pack(const TensorView& w, const std::optional<TensorView>& mask, std::int64_t n,
             std::int64_t m, int axis, const TensorView& values, const TensorView& indices,
             const TensorView& workspace, Stream stream);

void nm_to_dense(const Nm& a, const TensorView& out, Stream stream);

void quant_to_dense(const GroupQuant& a, const TensorView& out, Stream stream);

/// A CSR matrix of float32, float16 or bfloat16 becomes PackedTiles in three steps. The layout is
/// that of its density, its type and, of half precision, of the columns to come; throws what `pack`
/// does, and NotImplementedError for float64.
[[nodiscard]] TileLayout choose_tiles(const Csr& a, const PackOptions& options);

/// Fills `marks` [32·tiles] (int32), for bitmaps and lanes the matrix's `places`, else needed for
/// pack_fill alone, and `starts` [tiles+1]. Returns the units of values. Waits for the stream: they
/// are needed to allocate.
[[nodiscard]] std::int64_t pack_count(const Csr& a, TileLayout layout, const TensorView& marks,
                                      const TensorView& starts, Stream stream);

/// Fills what pack_count did not. `marks` is trusted to be pack_count's, `values` the CSR's.
void pack_fill(const TensorView& marks, const TensorView& values, const PackedTiles& to,
               Stream stream);

/// With more columns a product is predicted to take longer than a dense one, on Hopper; empty where
/// no number of columns is (docs/gpu-performance.md).
[[nodiscard]] std::optional<std::int64_t> columns_before_dense(const PackedTiles& a);

/// Replaces the values by `values` [nnz] in the order of the matrix that was packed.
[[nodiscard]] std::int64_t packed_update_workspace(const PackedTiles& a);
void packed_update(const PackedTiles& a, const TensorView& values, const TensorView& workspace,
                   Stream stream);

/// The matrix that was packed: its column `indices` (int32) and `values`, [nnz]; `a` has its
/// indptr. The workspace is that of packed_update. Zeros that are entries come back as +0 from
/// deltas.
void packed_to_csr(const PackedTiles& a, const TensorView& indices, const TensorView& values,
                   const TensorView& workspace, Stream stream);

/// A zero that the matrix has as an entry is +0.
void packed_to_dense(const PackedTiles& a, const TensorView& out, Stream stream);

/// Masks have the bits that the CPU gives, with two differences. Where `within` has fewer than k
/// entries, all of them are marked: to refuse it, the host would have to wait. Of
/// ScoreKind::snr_abs the functions exp and erfc may be rounded differently. Nan::error waits for
/// the stream.
[[nodiscard]] std::int64_t topk_mask_workspace(std::span<const prune::Score> scores);
void topk_mask(std::span<const prune::Score> scores, std::int64_t k,
               const prune::SelectOptions& options, std::span<const TensorView> within,
               std::span<const TensorView> outs, const TensorView& workspace, Stream stream);

[[nodiscard]] std::int64_t topk_mask_workspace(const prune::Score& score, prune::MaskFormat format);
void topk_mask(const prune::Score& score, const prune::Segments& segments,
               std::span<const std::int64_t> k, const prune::SelectOptions& options,
               const std::optional<TensorView>& within, const TensorView& out,
               const TensorView& workspace, Stream stream);

/// The keys of an element are computed twice or more often, not stored. `within` as above.
[[nodiscard]] std::int64_t random_mask_workspace(const TensorView& out, const prune::Part& part);
void random_mask(std::int64_t k, std::uint64_t seed, std::uint64_t step,
                 const std::optional<TensorView>& within, const TensorView& out,
                 const prune::Part& part, const TensorView& workspace, Stream stream);

/// Rows are contiguous.
[[nodiscard]] std::int64_t topk_rows_workspace(const TensorView& x,
                                               const std::optional<TensorView>& key);
void topk_rows(const TensorView& x, std::int64_t k, const std::optional<TensorView>& key,
               const prune::SelectOptions& options, const TensorView& values,
               const TensorView& indices, const TensorView& workspace, Stream stream);

/// These wait for the stream.
[[nodiscard]] std::int64_t kth_workspace(const prune::Score& score);
[[nodiscard]] prune::Kth kth(const prune::Score& score, std::int64_t k,
                             const prune::SelectOptions& options, const TensorView& workspace,
                             Stream stream);
/// Of each segment; does not wait.
[[nodiscard]] std::int64_t kth_segments_workspace(const prune::Score& score);
void kth(const prune::Score& score, const prune::Segments& segments,
         std::span<const std::int64_t> k, const prune::SelectOptions& options,
         const TensorView& threshold, const TensorView& n_strict, const TensorView& n_tie,
         const TensorView& workspace, Stream stream);
[[nodiscard]] std::array<double, 2> kth_pair(const prune::Score& score, std::int64_t k,
                                             const prune::SelectOptions& options,
                                             const TensorView& workspace, Stream stream);
inline constexpr std::int64_t kCountNanWorkspace = 16;
[[nodiscard]] std::int64_t count_nan(const prune::Score& score, const TensorView& workspace,
                                     Stream stream);

/// The steps of prune::Selection over scores on a device, of which a process may have several. The
/// first two wait for the stream; `counts` are the host's.
inline constexpr std::int64_t kSelectionWorkspace = prune::Selection::kCounts * 8;
void selection_histogram(const prune::Selection& selection, const prune::Score& score,
                         std::span<std::int64_t> counts, const TensorView& workspace,
                         Stream stream);
[[nodiscard]] std::int64_t selection_ties(const prune::Selection& selection,
                                          const prune::Score& score, const TensorView& workspace,
                                          Stream stream);
[[nodiscard]] std::int64_t selection_emit_workspace(const prune::Selection& selection,
                                                    const prune::Score& score);
void selection_emit(const prune::Selection& selection, const prune::Score& score,
                    std::int64_t ties_before, const TensorView& out, const TensorView& workspace,
                    Stream stream);

[[nodiscard]] std::int64_t nm_mask_workspace(const prune::NmOptions& options);
void nm_mask(const prune::Score& score, std::int64_t n, std::int64_t m,
             const prune::NmOptions& options, const TensorView& out, const TensorView& workspace,
             Stream stream);

void nm_mask_transposable(const prune::Score& score, std::int64_t n, std::int64_t m,
                          prune::MaskMethod method, const TensorView& out, Stream stream);
/// Throws NotImplementedError for a v whose blocks do not fit into 160 KB of shared memory.
void vnm_mask(const prune::Score& score, std::int64_t v, std::int64_t n, std::int64_t m,
              prune::MaskMethod method, const TensorView& out, Stream stream);

/// With the CPU's result. Waits for the stream at each step of the search.
[[nodiscard]] std::int64_t permutation_search_workspace(const prune::Score& score, std::int64_t m);
double permutation_search(const prune::Score& score, std::int64_t n, std::int64_t m,
                          const prune::PermutationOptions& options, const TensorView& perm,
                          const TensorView& workspace, Stream stream);

void block_pool(const prune::Score& score, prune::BlockShape block, prune::Reduce reduce,
                const TensorView& out, Stream stream);
void expand_blocks(const TensorView& mask, prune::BlockShape block, const TensorView& out,
                   Stream stream);

void evaluate(const prune::Score& score, const TensorView& out, Stream stream);

/// Updates are rounded as the CPU rounds them, but for srste_grad_, where a product and a sum may
/// be rounded once.
void soft_threshold_(const TensorView& w, double threshold, Stream stream);
void shrink_(const TensorView& w, const TensorView& mask, double factor, Stream stream);
void srste_grad_(const TensorView& g, const TensorView& w, const TensorView& mask, double decay,
                 Stream stream);
[[nodiscard]] std::int64_t l0_project_workspace(const TensorView& w);
void l0_project_(const TensorView& w, std::int64_t k, const TensorView& mask,
                 const TensorView& workspace, Stream stream);

/// The first and the second of these wait for the stream; the third where matrices have index
/// arrays of their own, to say whether they are equal.
inline constexpr std::int64_t kCountWorkspace = 16;
[[nodiscard]] std::int64_t coverage_or_(const TensorView& fired, const TensorView& mask,
                                        const TensorView& workspace, Stream stream);
[[nodiscard]] prune::NmViolations check_nm(const TensorView& x, std::int64_t n, std::int64_t m,
                                           int axis, const TensorView& workspace, Stream stream);
[[nodiscard]] std::int64_t mean_same_pattern_workspace(std::span<const Csr> matrices);
void mean_same_pattern(std::span<const Csr> matrices, const TensorView& values,
                       const TensorView& workspace, Stream stream);
void nnz_stats(const TensorView& x, const prune::CountBlock& block, const TensorView& counts,
               Stream stream);
void nnz_stats(const Csr& a, const prune::CountBlock& block, const TensorView& counts,
               Stream stream);
void nnz_stats(const Bsr& a, const prune::CountBlock& block, const TensorView& counts,
               Stream stream);

/// Norms are the CPU's but for rounding. sef_prox_ waits for the stream, to say whether w is
/// finite, and polarization for its result.
[[nodiscard]] std::int64_t group_soft_threshold_workspace(const TensorView& w,
                                                          const prune::Groups& groups);
void group_soft_threshold_(const TensorView& w, double threshold, const prune::Groups& groups,
                           const TensorView& workspace, Stream stream);
[[nodiscard]] std::int64_t sef_prox_workspace(const TensorView& w, const prune::Groups& groups);
void sef_prox_(const TensorView& w, double lambda, double k, const prune::Groups& groups,
               const TensorView& workspace, Stream stream);
inline constexpr std::int64_t kPolarizationWorkspace = 16;
[[nodiscard]] double polarization(const TensorView& gamma, double t, double alpha,
                                  const TensorView& grad, const TensorView& workspace,
                                  Stream stream);

void channel_threshold(const TensorView& squares, double scale, const TensorView& out,
                       Stream stream);
[[nodiscard]] std::int64_t cett_threshold_workspace(const TensorView& w);
void cett_threshold(const TensorView& w, double t, const TensorView& out,
                    const TensorView& workspace, Stream stream);

/// The state lies on the device of x or of the other state, and only its `n` on the host. Sums are
/// made in the order of the CPU's, so that they differ by what its processor rounds otherwise.
[[nodiscard]] std::int64_t column_stats_workspace(const TensorView& x);
void column_stats_(prune::ColumnStats& stats, const TensorView& x, const TensorView& workspace,
                   Stream stream);
void merge_(prune::ColumnStats& into, const prune::ColumnStats& from, Stream stream);
/// out [C] = numerator [C]/n, of the arrays of a state, in float64 or float32.
void column_quotient(const TensorView& numerator, double n, const TensorView& out, Stream stream);

/// As prune::obs_prune_ and obs_block_, but that the diagonal of u is not refused where it is not
/// positive: rows that drop a weight there become NaN.
[[nodiscard]] std::int64_t obs_prune_workspace(const TensorView& w,
                                               const prune::ObsOptions& options);
void obs_prune_(const TensorView& w, const TensorView& u, const TensorView& mask,
                const prune::ObsOptions& options, const TensorView& workspace, Stream stream);
[[nodiscard]] std::int64_t obs_block_workspace(const TensorView& w,
                                               const prune::ObsOptions& options);
void obs_block_(const TensorView& w, const TensorView& u, const TensorView& mask,
                const prune::ObsOptions& options, const TensorView& err,
                const TensorView& workspace, Stream stream);

/// The u that obs_prune_ takes, float64 or float32 [n, n], from a Hessian of either type, to whose
/// diagonal its mean times `damping` is added: that of the Hessian times a power of four, which
/// cancels in the updates. Computed in float64. Waits for the stream, to say whether the Hessian is
/// finite and positive definite; where it is not, u is no factor.
enum class Factored : std::uint8_t { yes, not_finite, not_definite };
[[nodiscard]] std::int64_t obs_factor_workspace(std::int64_t n);
[[nodiscard]] Factored obs_factor(const TensorView& hessian, double damping, const TensorView& u,
                                  const TensorView& workspace, Stream stream);

/// Masks have the CPU's bits where the power is 0 or 1; pow of others may be rounded differently.
[[nodiscard]] std::int64_t dsnot_rows_workspace(const TensorView& w);
void dsnot_rows_(const TensorView& mask, const TensorView& w, const prune::ColumnStats& stats,
                 const prune::DsnotOptions& options, const TensorView& workspace, Stream stream);

/// A drop and growth of a mask, in two steps, as regrow::MaskRegrowth. The first chooses,
/// waits for the stream, and returns the number of places that are new; the second makes the change
/// that the first left in `workspace`, `fresh` being that number.
[[nodiscard]] std::int64_t drop_grow_workspace(const TensorView& mask, const prune::Score& drop,
                                               const regrow::MaskRegrowth::Growth& grow);
[[nodiscard]] std::int64_t drop_grow_choose(const TensorView& mask, const prune::Score& drop,
                                            const regrow::MaskRegrowth::Growth& grow,
                                            std::int64_t n_drop, std::int64_t n_grow,
                                            const std::optional<TensorView>& forbid,
                                            const regrow::RegrowOptions& options,
                                            const TensorView& workspace, Stream stream);
void drop_grow_apply(const TensorView& mask, std::int64_t fresh,
                     std::span<const regrow::Followed> arrays, const TensorView& places,
                     const TensorView& workspace, Stream stream);

/// Waits for the stream where what stays is given as a mask, where something is forbidden and where
/// places are listed: how many those are is compared with n_drop and n_grow. The workspace holds
/// two bytes for each place of the dense shape (where places are listed, 10 or 14), what the
/// selections need, and a copy of the largest array that follows.
[[nodiscard]] std::int64_t csr_drop_grow_workspace(const regrow::RowStructure& structure,
                                                   const regrow::Drop& drop,
                                                   const regrow::RowsGrowth& grow,
                                                   std::int64_t n_drop, std::int64_t n_grow,
                                                   std::span<const regrow::Followed> arrays);
void csr_drop_grow_(const regrow::RowStructure& structure, const regrow::Drop& drop,
                    const regrow::RowsGrowth& grow, std::int64_t n_drop, std::int64_t n_grow,
                    const regrow::Forbidden& forbid, std::span<const regrow::Followed> arrays,
                    const TensorView& src, const regrow::RegrowOptions& options,
                    const TensorView& workspace, Stream stream);
void block_norms(const TensorView& blocks, const TensorView& norms, Stream stream);

/// Waits for the stream, to know how many values there are on each side.
[[nodiscard]] std::int64_t set_drop_workspace(const TensorView& values);
void set_drop(const TensorView& values, std::int64_t n_positive, std::int64_t n_negative,
              const TensorView& keep, const TensorView& workspace, Stream stream);

/// int64 to int32 or the reverse. Values that int32 cannot hold are trusted not to be there.
void convert_indices(const TensorView& from, const TensorView& to, Stream stream);

void csr_softmax(const CsrPattern& pattern, const TensorView& x, const TensorView& out,
                 Stream stream);
void csr_softmax_backward(const CsrPattern& pattern, const TensorView& y, const TensorView& dy,
                          const TensorView& dx, Stream stream);

[[nodiscard]] std::int64_t csr_attention_backward_workspace(const TensorView& q,
                                                            const CsrPattern& pattern,
                                                            const CsrAttentionOptions& options,
                                                            bool with_dbias);
void csr_attention(const TensorView& q, const TensorView& k, const TensorView& v,
                   const CsrPattern& pattern, const TensorView& o, const TensorView& lse,
                   const CsrAttentionOptions& options, Stream stream);
/// The pattern is transposed for dk and dv. What is kept beside that and the operands is as on a
/// CPU.
void csr_attention_backward(const TensorView& grad, const TensorView& q, const TensorView& k,
                            const TensorView& v, const TensorView& o, const TensorView& lse,
                            const CsrPattern& pattern, const TensorView& dq, const TensorView& dk,
                            const TensorView& dv, const std::optional<TensorView>& dbias,
                            const std::optional<TensorView>& dlse,
                            const CsrAttentionOptions& options, const TensorView& workspace,
                            Stream stream);

/// By tensor cores; float32 as three products of tf32, which is nearly float32's precision. What
/// cu_seqlens hold is not checked: sequences end where the operands, the layout and the bias do.
[[nodiscard]] std::int64_t attention_workspace(const BlockLayout& layout);
void attention(const TensorView& q, const TensorView& k, const TensorView& v,
               const BlockLayout& layout, const AttentionOptions& options, const TensorView& o,
               const TensorView& lse, const TensorView& workspace, Stream stream);
/// The layout is transposed for dk and dv.
[[nodiscard]] std::int64_t attention_backward_workspace(const AttentionGradient& gradient,
                                                        const BlockLayout& layout);
void attention_backward(const AttentionGradient& gradient, const TensorView& q, const TensorView& k,
                        const TensorView& v, const BlockLayout& layout,
                        const AttentionOptions& options, const AttentionGradients& gradients,
                        const TensorView& workspace, Stream stream);

/// layout_count fills indptr, waits, and returns the number of blocks, which is needed to allocate
/// what layout_fill writes. Lists have at most 2048 columns; those that are sorted, as block_topk's
/// are, take a part of the time. Of WindowGlobal, at most 128 blocks of a row are random, and the
/// global blocks are at most 64 ranges. Rows of formulas and slashes are looked at whole.
[[nodiscard]] std::int64_t layout_workspace(const LayoutSource& source);
[[nodiscard]] LayoutCount layout_count(const LayoutSource& source, const TensorView& indptr,
                                       const TensorView& workspace, Stream stream);
/// `indptr` is trusted to be layout_count's for the same source.
void layout_fill(const LayoutSource& source, const LayoutArrays& arrays,
                 const TensorView& workspace, Stream stream);
[[nodiscard]] std::int64_t layout_transpose_workspace(const BlockLayout& layout);
void layout_transpose(const BlockLayout& layout, const LayoutArrays& arrays,
                      const TensorView& workspace, Stream stream);
[[nodiscard]] std::int64_t layout_to_mask_workspace(const BlockLayout& layout);
void layout_to_mask(const BlockLayout& layout, const TensorView& mask, const TensorView& workspace,
                    Stream stream);

/// What the lists hold is not checked: a page that the cache does not have counts as zeros. Their
/// tokens are cut into parts by shapes alone, so that the size of `indices` is what takes time.
[[nodiscard]] std::int64_t attention_decode_workspace(const TensorView& q,
                                                      const TensorView& k_cache,
                                                      const TensorView& v_cache,
                                                      const DecodeKeys& keys);
void attention_decode(const TensorView& q, const TensorView& k_cache, const TensorView& v_cache,
                      const DecodeKeys& keys, const AttentionOptions& options, const TensorView& o,
                      const TensorView& lse, const TensorView& workspace, Stream stream);

/// More than 16 parts are merged by several launches, which keep what they have in the workspace.
[[nodiscard]] std::int64_t merge_attention_workspace(std::span<const TensorView> o_parts,
                                                     std::span<const TensorView> lse_parts);
void merge_attention(std::span<const TensorView> o_parts, std::span<const TensorView> lse_parts,
                     const TensorView& o, const TensorView& lse, const TensorView& workspace,
                     Stream stream);

/// With the CPU's bits.
void attention_block_pool(const TensorView& x, std::int64_t block, PoolMode mode,
                          const TensorView& out, Stream stream);

/// A workspace where what scores take of a few rows is more than shared memory has.
[[nodiscard]] std::int64_t attention_block_topk_workspace(
    const TensorView& q, const TensorView& pooled, const std::optional<TensorView>& pooled_min);
void attention_block_topk(const TensorView& q, const TensorView& pooled,
                          const std::optional<TensorView>& pooled_min,
                          const BlockTopkOptions& options, const TensorView& indices,
                          const TensorView& workspace, Stream stream);

namespace graph {

/// With the CPU's bits.
[[nodiscard]] std::int64_t edge_score_workspace(const CsrPattern& a);
void edge_score(const CsrPattern& a, const TensorView& scores, const TensorView& workspace,
                Stream stream);
/// Sums are kept in float64. Columns are the rows of the transpose, which the workspace holds.
[[nodiscard]] std::int64_t strength_workspace(const Csr& a, int axis);
void strength(const Csr& a, int axis, const TensorView& sums, const TensorView& workspace,
              Stream stream);

void row_sum(const CsrPattern& a, const std::optional<TensorView>& values, const TensorView& sums,
             double power, Stream stream);
void row_max(const CsrPattern& a, const TensorView& values, const TensorView& out, Stream stream);
void scale_rows_cols(const CsrPattern& a, const std::optional<TensorView>& values,
                     const std::optional<TensorView>& rows, const std::optional<TensorView>& cols,
                     const TensorView& out, Stream stream);

}  // namespace graph

}  // namespace gossamer::cuda
