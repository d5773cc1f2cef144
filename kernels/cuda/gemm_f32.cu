// The matrix product of exact mode: float32, one fused multiply-add after the other.
//
//   c[m][n] = (sum over k of a[m][k] w[n][k])  (+ bias[n])  (+ c[m][n] as it was)
//
//   a     (M, K) float32, rows `a_stride` apart
//   w     (N, K) float32, rows `w_stride` apart
//   bias  (N) float32, or null
//   c     (M, N) float32, rows `c_stride` apart; added to where `accumulate` is not 0
//
// Order of the sum: K is cut into segments of 256. Within a segment fused multiply-adds in ascending k from 0; the sums
// of segments are added in ascending order, then the bias, then the old c. All instances keep this order, so they give
// the same bits, and a row of c depends on nothing but that row of a: the host may choose by speed alone.
//
//   instance           tile of c    grid (x, y)                        block   dynamic shared bytes
//   gemm_f32_128x128   128 x 128    ceil(M / 128), ceil(N / 128)         128   98304
//   gemm_f32_64x64      64 x 64     ceil(M / 64),  ceil(N / 64)          128   49152
//   gemm_f32_16x32      16 x 32     ceil(M / 16),  ceil(N / 32)          256   51200
//
// The first is for large products. The other two have groups of warps that share a tile and take segments in turn,
// which keeps a chip busy where tiles are few: 64x64 for fewer than some 150 large tiles, 16x32 for M up to 64.
//
// Any M, N, K >= 1, any strides and any 4-byte alignment. Rows of a (or w) are read 16 bytes at a time where a (or w)
// is 16-byte aligned and its stride a multiple of 4, else 4 at a time.
#include "common.cuh"

namespace {

constexpr int SEGMENT = 256;

// Shared memory holds a stage with k as the row, so that a thread reads 4 rows of c (or columns) of one k at once.
// Threads bring pieces of 4 columns k of a matrix row r, so a piece p becomes 4 numbers, one in each of the rows 4 p ..
// 4 p + 4. In each of them r lies at r ^ X(p), so that the numbers that a warp writes at a time, 32 / PIECES matrix
// rows of PIECES pieces, fall into different banks. For 2 pieces:
//
//   k 0..3      r: 0 .. 15, 16 .. 31, 32 .. 47, ...
//   k 4..7        16 .. 31,  0 .. 15, 48 .. 63, ...
template <int WIDTH, int PIECES> INLINE int swizzle(int piece, int r) { return r ^ (piece * (32 / PIECES) % WIDTH); }

// Carries one piece each of rows `row`, `row` + APART, ... of a tile of WIDTH rows of a matrix from global memory
// through registers to shared memory. Rows past the last are that again: nobody uses what becomes of them. Columns past
// the last are zeros.
template <int WIDTH, int APART, int PIECES> struct Copier {
    static constexpr int COPIES = WIDTH / APART;
    const float* from[COPIES];
    float held[COPIES][4];
    int to;
    bool aligned;

    INLINE Copier(const float* matrix, int64_t stride, int64_t tile, int rows, int row, int k) {
#pragma unroll
        for (int i = 0; i < COPIES; ++i) from[i] = matrix + min(tile + row + i * APART, (int64_t)rows - 1) * stride + k;
        to = row;
        aligned = is_aligned(matrix, stride, 16);
    }
    // `left`: columns from here to the end of the matrix.
    INLINE void load(int left) {
        if (aligned && left >= 4) {
#pragma unroll
            for (int i = 0; i < COPIES; ++i) load_vector(held[i], from[i]);
        } else {
#pragma unroll
            for (int i = 0; i < COPIES; ++i)
#pragma unroll
                for (int l = 0; l < 4; ++l) held[i][l] = l < left ? from[i][l] : 0.0f;
        }
    }
    INLINE void advance(int columns) {
#pragma unroll
        for (int i = 0; i < COPIES; ++i) from[i] += columns;
    }
    INLINE void store(float* stage, int piece) const {
        float* first = stage + piece * 4 * WIDTH + swizzle<WIDTH, PIECES>(piece, to);
#pragma unroll
        for (int i = 0; i < COPIES; ++i) {
            float* at = first + i * APART;
            if (APART % 32 != 0) at = stage + piece * 4 * WIDTH + swizzle<WIDTH, PIECES>(piece, to + i * APART);
#pragma unroll
            for (int l = 0; l < 4; ++l) at[l * WIDTH] = held[i][l];
        }
    }
};

INLINE void read4(float* to, const float* from) {
    float4 v = *(const float4*)from;
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}

// A block owns BM x BN of c. Its GROUPS groups of threads each hold sums of the whole tile, TM x TN a thread, of the
// segments group, group + GROUPS, ...; after each round of GROUPS segments they add them, in turn, to the totals in
// shared memory.
//
// A thread's rows and columns come in runs of 4, ROW_RUN and COLUMN_RUN apart; a warp is 4 (rows) x 8 (columns)
// threads:
//   rows     ROW_RUN i + 16 (warp's row) + 4 (lane / 8) .. + 4
//   columns  COLUMN_RUN j + 32 (warp's column) + 4 (lane % 8) .. + 4
template <int BM, int BN, int TM, int TN, int GROUPS, int STEP> struct Gemm {
    static constexpr int PIECES = STEP / 4;
    static constexpr int GROUP_THREADS = (BM / TM) * (BN / TN);
    static constexpr int THREADS = GROUP_THREADS * GROUPS;
    static constexpr int WARPS_N = BN / (8 * TN);
    static constexpr int ROW_RUN = BM * 4 / TM, COLUMN_RUN = BN * 4 / TN;
    static constexpr int GROUP_STAGE = (BM + BN) * STEP;
    static constexpr int STAGE = GROUP_STAGE * GROUPS;
    static constexpr int COPY_ROWS = GROUP_THREADS / PIECES;
    static_assert(GROUP_THREADS % 32 == 0 && BM % (4 * TM) == 0 && TM % 4 == 0 && TN % 4 == 0, "whole warps and runs");
    static_assert((TM == 4 || ROW_RUN % 32 == 0) && (TN == 4 || COLUMN_RUN % 32 == 0),
                  "a run is swizzled like the first");
    static_assert(BM % COPY_ROWS == 0 && BN % COPY_ROWS == 0, "the same copies for each thread");

    static INLINE void run(const float* a, int64_t a_stride, const float* w, int64_t w_stride, const float* bias,
                           float* c, int64_t c_stride, int M, int N, int K, int accumulate) {
        DYNAMIC_SHARED(shared_bytes);
        float* const stages = (float*)shared_bytes;
        float* const totals = stages + 2 * STAGE;
        const int group = threadIdx.x / GROUP_THREADS, thread = threadIdx.x % GROUP_THREADS;
        const int lane = thread % 32, warp = thread / 32;
        const int row = warp / WARPS_N * 16 + lane / 8 * 4, column = warp % WARPS_N * 32 + lane % 8 * 4;
        const int64_t m0 = (int64_t)blockIdx.x * BM, n0 = (int64_t)blockIdx.y * BN;
        previous_kernel_wait();
        next_kernel_start();

        constexpr int ROUND = SEGMENT / STEP;
        const int segments = (K + SEGMENT - 1) / SEGMENT, rounds = (segments + GROUPS - 1) / GROUPS;
        const int last_from = (rounds - 1) * GROUPS * SEGMENT;
        const int steps = (rounds - 1) * ROUND + min(ROUND, (K - last_from + STEP - 1) / STEP);
        const int piece = thread % PIECES;
        int left = K - group * SEGMENT - piece * 4;
        Copier<BM, COPY_ROWS, PIECES> copy_a(a, a_stride, m0, M, thread / PIECES, K - left);
        Copier<BN, COPY_ROWS, PIECES> copy_w(w, w_stride, n0, N, thread / PIECES, K - left);
        // Where this thread reads in a row of a stage, for each piece.
        int x_at[PIECES], y_at[PIECES];
#pragma unroll
        for (int p = 0; p < PIECES; ++p) {
            x_at[p] = group * GROUP_STAGE + swizzle<BM, PIECES>(p, row);
            y_at[p] = group * GROUP_STAGE + BM * STEP + swizzle<BN, PIECES>(p, column);
        }
        float* const store_at = stages + group * GROUP_STAGE;

        copy_a.load(left);
        copy_w.load(left);
        copy_a.store(store_at, piece);
        copy_w.store(store_at + BM * STEP, piece);
        __syncthreads();
        int step = 0;
#pragma unroll 1
        for (int round = 0; round < rounds; ++round) {
            float sums[TM][TN];
#pragma unroll
            for (int i = 0; i < TM; ++i)
#pragma unroll
                for (int j = 0; j < TN; ++j) sums[i][j] = 0.0f;
            const int end = min(steps, (round + 1) * ROUND);
#pragma unroll 1
            for (; step < end; ++step) {
                if (step + 1 < steps) {
                    // The columns that follow, or those of this group's next segment.
                    const int columns = GROUPS > 1 && step % ROUND == ROUND - 1 ? STEP + (GROUPS - 1) * SEGMENT : STEP;
                    left -= columns;
                    copy_a.advance(columns);
                    copy_w.advance(columns);
                    copy_a.load(left);
                    copy_w.load(left);
                }
                const float* stage = stages + step % 2 * STAGE;
                float x[2][TM], y[2][TN];
                auto read = [&](int k) {
#pragma unroll
                    for (int i = 0; i < TM; i += 4) read4(x[k % 2] + i, stage + x_at[k / 4] + k * BM + i / 4 * ROW_RUN);
#pragma unroll
                    for (int j = 0; j < TN; j += 4)
                        read4(y[k % 2] + j, stage + y_at[k / 4] + k * BN + j / 4 * COLUMN_RUN);
                };
                read(0);
#pragma unroll
                for (int k = 0; k < STEP; ++k) {
                    if (k + 1 < STEP) read(k + 1);
#pragma unroll
                    for (int i = 0; i < TM; ++i)
#pragma unroll
                        for (int j = 0; j < TN; ++j) sums[i][j] = fmaf(x[k % 2][i], y[k % 2][j], sums[i][j]);
                }
                if (step + 1 < steps) {
                    copy_a.store(store_at + (step + 1) % 2 * STAGE, piece);
                    copy_w.store(store_at + (step + 1) % 2 * STAGE + BM * STEP, piece);
                }
                __syncthreads(); // the next stage is there, and this one may be overwritten
            }
            // totals (+)= sums, each thread its own numbers, one group after the other.
#pragma unroll 1
            for (int g = 0; g < GROUPS; ++g) {
                if (g == group && (round * GROUPS + g) * SEGMENT < K) {
#pragma unroll
                    for (int i = 0; i < TM; ++i)
#pragma unroll
                        for (int j = 0; j < TN; j += 4) {
                            float4* at = (float4*)totals + (i * (TN / 4) + j / 4) * GROUP_THREADS + thread;
                            float4 t = round + g > 0 ? *at : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                            t.x += sums[i][j], t.y += sums[i][j + 1], t.z += sums[i][j + 2], t.w += sums[i][j + 3];
                            *at = t;
                        }
                }
                if (GROUPS > 1) __syncthreads();
            }
        }

        // The threads of a thread's place in all groups share its totals, a row each.
        const bool c_aligned = is_aligned(c, c_stride, 16);
#pragma unroll
        for (int i = 0; i < TM; ++i) {
            int64_t m = m0 + row + i / 4 * ROW_RUN + i % 4;
            if (i % GROUPS != group || m >= M) continue;
#pragma unroll
            for (int j = 0; j < TN; j += 4) {
                float sum[4];
                load_vector(sum, totals + ((i * (TN / 4) + j / 4) * GROUP_THREADS + thread) * 4);
                int64_t n = n0 + column + j / 4 * COLUMN_RUN;
                float* out = c + m * c_stride + n;
                if (bias) {
#pragma unroll
                    for (int l = 0; l < 4; ++l) sum[l] += n + l < N ? bias[n + l] : 0.0f;
                }
                if (c_aligned && n + 4 <= N) {
                    if (accumulate) {
                        float old[4];
                        load_vector(old, out);
#pragma unroll
                        for (int l = 0; l < 4; ++l) sum[l] += old[l];
                    }
                    store_vector(out, sum);
                } else {
#pragma unroll
                    for (int l = 0; l < 4; ++l)
                        if (n + l < N) out[l] = accumulate ? sum[l] + out[l] : sum[l];
                }
            }
        }
    }
};

} // namespace

#define INSTANCE(name, blocks, ...)                                                                           \
    extern "C" __global__ void __launch_bounds__((Gemm<__VA_ARGS__>::THREADS), blocks)                        \
        name(const float* a, int64_t a_stride, const float* w, int64_t w_stride, const float* bias, float* c, \
             int64_t c_stride, int M, int N, int K, int accumulate) {                                         \
        Gemm<__VA_ARGS__>::run(a, a_stride, w, w_stride, bias, c, c_stride, M, N, K, accumulate);             \
    }

// rows, columns, rows and columns of a thread, groups, step
INSTANCE(gemm_f32_128x128, 2, 128, 128, 8, 16, 1, 16)
INSTANCE(gemm_f32_64x64, 3, 64, 64, 8, 8, 2, 16)
INSTANCE(gemm_f32_16x32, 2, 16, 32, 4, 4, 8, 16)
