// The matrix product of fast mode on tensor cores, for machines without cuBLAS.
//
//   c[m][n] = (sum over k of a[m][k] w[n][k])  (+ bias[n])  (+ c[m][n] as it was), summed in float32
//
//   a     (M, K) bf16, rows `a_stride` apart
//   w     (N, K) bf16, rows `w_stride` apart
//   bias  (N) float32, or null
//   c     (M, N) float32 or bf16, rows `c_stride` apart; added to where `accumulate` is not 0
//
//   instance (O: f32 or bf16, of c)   tile of c   grid (x, y)                      block   dynamic shared bytes
//   gemm_bf16_to_O_128x128            128 x 128   ceil(M / 128), ceil(N / 128)       128   98304
//   gemm_bf16_to_O_64x64               64 x 64    ceil(M / 64), ceil(N / 64)         128   65536
//   gemm_bf16_to_O_32x32               32 x 32    ceil(M / 32), ceil(N / 32)          64   65536
//
// The first is for large products, the second for those with fewer than some 150 large tiles, the third for M up to 64,
// where reading w bounds the time. All sum in the same order of k.
//
// Any M, N, K >= 1, any strides and any alignment. Rows of a (or w) are copied 16 bytes at a time where a (or w) is
// 16-byte aligned and its stride a multiple of 8, else number by number, which is several times slower.
#include "common.cuh"

namespace {

// Columns of a and w per stage of the pipeline: a row is 128 bytes, 8 pieces of 16, once around the banks.
constexpr int STEP = 64;
constexpr int PIECES = STEP / 8;

// Piece p of row r lies at p ^ (r % 8), so that the 8 rows of a matrix instruction's operand lie in different banks.
INLINE bf16_t* at(bf16_t* tile, int row, int piece) { return tile + row * STEP + ((piece ^ (row % 8)) * 8); }

// Copies a piece of rows `row`, `row` + COPY_ROWS, ... of a tile of a matrix; zeros where rows or columns pass its end.
template <int COPIES, int COPY_ROWS> struct Copier {
    const bf16_t* from; // the first row
    int64_t apart;
    int row, piece, rows_left;
    bool aligned;

    INLINE Copier(const bf16_t* matrix, int64_t stride, int64_t tile, int rows)
        : row(threadIdx.x / PIECES), piece(threadIdx.x % PIECES), aligned(is_aligned(matrix, stride, 16)) {
        from = matrix + (tile + row) * stride;
        apart = stride * COPY_ROWS;
        rows_left = (int)max(rows - tile - row, (int64_t)0);
    }

    INLINE void copy(bf16_t* stage, int k, int K) const {
        k += piece * 8;
        const int columns = max(min(K - k, 8), 0);
        bf16_t* to = at(stage, row, piece); // COPY_ROWS is a multiple of 8: the same place in all rows
        if (aligned) {
#pragma unroll
            for (int i = 0; i < COPIES; ++i)
                copy_async16_first(to + i * COPY_ROWS * STEP, from + i * apart + k,
                                   i * COPY_ROWS < rows_left ? columns * 2 : 0);
        } else {
#pragma unroll 1
            for (int i = 0; i < COPIES * 8; ++i) {
                bool valid = i / 8 * COPY_ROWS < rows_left && i % 8 < columns;
                to[i / 8 * COPY_ROWS * STEP + i % 8] = valid ? from[i / 8 * apart + k + i % 8] : (bf16_t)0;
            }
        }
    }
};

INLINE void store_pair(float* p, float x, float y) { *(float2*)p = make_float2(x, y); }
INLINE void store_pair(bf16_t* p, float x, float y) { *(uint32_t*)p = pack_bf16x2(x, y); }

// A block owns BM x BN of c, a warp WM x WN of that.
template <typename Out, int BM, int BN, int WM, int WN, int STAGES>
INLINE void gemm(const bf16_t* a, int64_t a_stride, const bf16_t* w, int64_t w_stride, const float* bias, Out* c,
                 int64_t c_stride, int M, int N, int K, int accumulate) {
    constexpr int THREADS = (BM / WM) * (BN / WN) * 32, COPY_ROWS = THREADS / PIECES;
    static_assert(WM % 16 == 0 && WN % 16 == 0, "whole matrix instructions");
    static_assert(BM % COPY_ROWS == 0 && BN % COPY_ROWS == 0 && COPY_ROWS % 8 == 0, "the same copies for each thread");
    constexpr int STAGE = (BM + BN) * STEP;
    DYNAMIC_SHARED(shared_bytes);
    bf16_t* const stages = (bf16_t*)shared_bytes;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_m = warp / (BN / WN) * WM, warp_n = warp % (BN / WN) * WN;
    const int64_t m0 = (int64_t)blockIdx.x * BM, n0 = (int64_t)blockIdx.y * BN;
    previous_kernel_wait();
    next_kernel_start();

    const Copier<BM / COPY_ROWS, COPY_ROWS> copy_a(a, a_stride, m0, M);
    const Copier<BN / COPY_ROWS, COPY_ROWS> copy_w(w, w_stride, n0, N);
    const int steps = (K + STEP - 1) / STEP;
    auto copy = [&](int step) {
        bf16_t* stage = stages + step % STAGES * STAGE;
        copy_a.copy(stage, step * STEP, K);
        copy_w.copy(stage + BM * STEP, step * STEP, K);
    };

    float sums[WM / 16][WN / 8][4];
#pragma unroll
    for (int i = 0; i < WM / 16; ++i)
#pragma unroll
        for (int j = 0; j < WN / 8; ++j)
#pragma unroll
            for (int l = 0; l < 4; ++l) sums[i][j][l] = 0.0f;
#pragma unroll
    for (int s = 0; s < STAGES - 1; ++s) {
        if (s < steps) copy(s);
        copy_async_commit();
    }
    // Operands of 16 columns, read one turn ahead. Matrices of 8 x 8: of a, upper and lower rows of the left columns,
    // then of the right ones; of w, left and right columns of the first 8 outputs, then of the next 8.
    uint32_t x[2][WM / 16][4], y[2][WN / 16][4];
    auto read = [&](int step, int k) {
        bf16_t* stage_a = stages + step % STAGES * STAGE;
        bf16_t* stage_w = stage_a + BM * STEP;
#pragma unroll
        for (int i = 0; i < WM / 16; ++i)
            load_matrix_x4(x[k % 2][i], at(stage_a, warp_m + i * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (int j = 0; j < WN / 16; ++j)
            load_matrix_x4(y[k % 2][j], at(stage_w, warp_n + j * 16 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
    };
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    read(0, 0);
    constexpr int TURNS = STEP / 16;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
#pragma unroll
        for (int k = 0; k < TURNS; ++k) {
            if (k + 1 < TURNS) {
                read(step, k + 1);
            } else {
                // The next step's columns have arrived, and all warps have read this step's. (After the last step, what
                // is read is not used.)
                copy_async_wait<STAGES - 2>();
                __syncthreads();
                read(step + 1, 0);
            }
            if (k == 0) {
                if (step + STAGES - 1 < steps) copy(step + STAGES - 1); // to where the step before this one was
                copy_async_commit();
            }
#pragma unroll
            for (int i = 0; i < WM / 16; ++i)
#pragma unroll
                for (int j = 0; j < WN / 8; ++j)
                    mma_bf16(sums[i][j], x[k % 2][i], y[k % 2][j / 2][j % 2 * 2], y[k % 2][j / 2][j % 2 * 2 + 1]);
        }
    }

    const bool pairs = is_aligned(c, c_stride, 2 * sizeof(Out));
#pragma unroll
    for (int i = 0; i < WM / 16; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int64_t m = m0 + warp_m + i * 16 + half * 8 + lane / 4;
            if (m >= M) continue;
#pragma unroll
            for (int j = 0; j < WN / 8; ++j) {
                int64_t n = n0 + warp_n + j * 8 + lane % 4 * 2;
                if (n >= N) continue;
                const bool both = n + 1 < N;
                Out* out = c + m * c_stride + n;
                float s = sums[i][j][half * 2], t = sums[i][j][half * 2 + 1];
                if (bias) s += bias[n], t += both ? bias[n + 1] : 0.0f;
                if (accumulate) s += load(out), t += both ? load(out + 1) : 0.0f;
                if (both && pairs) {
                    store_pair(out, s, t);
                } else {
                    store(out, s);
                    if (both) store(out + 1, t);
                }
            }
        }
}

} // namespace

#define INSTANCE(name, threads, blocks, Out, ...)                                                             \
    extern "C" __global__ void __launch_bounds__(threads, blocks)                                             \
        name(const bf16_t* a, int64_t a_stride, const bf16_t* w, int64_t w_stride, const float* bias, Out* c, \
             int64_t c_stride, int M, int N, int K, int accumulate) {                                         \
        gemm<Out, __VA_ARGS__>(a, a_stride, w, w_stride, bias, c, c_stride, M, N, K, accumulate);             \
    }

// rows and columns of a block, of a warp, stages
INSTANCE(gemm_bf16_to_f32_128x128, 128, 2, float, 128, 128, 64, 64, 3)
INSTANCE(gemm_bf16_to_bf16_128x128, 128, 2, bf16_t, 128, 128, 64, 64, 3)
INSTANCE(gemm_bf16_to_f32_64x64, 128, 3, float, 64, 64, 32, 32, 4)
INSTANCE(gemm_bf16_to_bf16_64x64, 128, 3, bf16_t, 64, 64, 32, 32, 4)
INSTANCE(gemm_bf16_to_f32_32x32, 64, 4, float, 32, 32, 16, 32, 8)
INSTANCE(gemm_bf16_to_bf16_32x32, 64, 4, bf16_t, 32, 32, 16, 32, 8)
