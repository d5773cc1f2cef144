// Second moments of activations, added to exact sums: what calibration gathers.
//
//   sum[i][j] += sum over t of x[t][c + i] x[t][c + j]     of each diagonal block of channels c .. c + n, for j <= i
//
//   x       (T, W) float32, rows `x_stride` apart
//   values  float64, the lower triangle of one block after the other: row i of a block has i + 1 numbers
//   rests   float32, likewise: a sum is exactly values + rests, and values is the float64 nearest to it
//
// Blocks have `block` channels, the last one maybe fewer. Precision, as on the CPU: fused multiply-adds in float32 in
// ascending t over segments of 256 tokens; the segments' sums in float64; the sum over all T, rounded to a multiple of
// 2^-32, is added without any loss (quant/src/sums.rs). Each number belongs to one thread: results repeat bit for bit.
//
//   grid (x, y)   m (m + 1), ceil(W / block)      m = ceil(min(W, block) / 128)
//   block         128, with 90112 bytes of dynamic shared memory
//
// Any T, W >= 1, any stride and any 4-byte alignment. Rows of x are read 16 bytes at a time where x is 16-byte aligned and
// stride and block are multiples of 4, else 4 at a time.
#include "common.cuh"

namespace {

constexpr int ROWS = 128, COLUMNS = 64, THREADS = 128;
constexpr int SEGMENT = 256, STEP = 16;
constexpr int STAGE = STEP * (ROWS + COLUMNS);

// Brings a thread's pieces, 4 channels each, of WIDTH channels of STEP tokens to shared memory, where a token is a row.
// Channels past the block's last and tokens past the last are zeros.
template <int WIDTH> struct Copier {
    static constexpr int PIECES = WIDTH / 4, APART = THREADS / PIECES;
    const float* from;
    int to, token, channels;

    INLINE Copier(const float* x, int64_t stride, int channel, int end) {
        int first = threadIdx.x % PIECES * 4;
        token = threadIdx.x / PIECES;
        to = token * WIDTH + first;
        channels = max(0, min(4, end - channel - first));
        from = x + token * stride + (channels > 0 ? channel + first : 0);
    }
    // The next STEP tokens, of which `tokens` are left.
    INLINE void next(float* stage, int64_t stride, int tokens, bool aligned) {
#pragma unroll
        for (int i = 0; i < STEP / APART; ++i) {
            const int there = token + i * APART < tokens ? channels : 0;
            const float* at = from + (there > 0 ? i * APART * stride : 0);
            float* shared = stage + to + i * APART * WIDTH;
            if (aligned) {
                copy_async16_first(shared, at, there * 4);
            } else {
#pragma unroll 1
                for (int l = 0; l < 4; ++l) copy_async4(shared + l, at + (l < there ? l : 0), l < there);
            }
        }
        from += STEP * stride;
    }
};

// Exact: Knuth's sum of two numbers, then Dekker's for the two parts.
INLINE void add_exactly(double* value, float* rest, double term) {
    const double old = *value;
    const double sum = old + term, part = sum - old;
    const double lost = (old - (sum - part)) + (term - part) + (double)*rest;
    const double nearest = sum + lost;
    *value = nearest;
    *rest = (float)(lost - (nearest - sum));
}

} // namespace

// A block of threads owns 128 x 64 sums, a thread 8 x 8 of them in runs of 4; a warp is 4 (rows) x 8 (columns) threads:
//   rows     64 i + 16 warp + 4 (lane / 8) .. + 4
//   columns  32 j + 4 (lane % 8) .. + 4
// Row m of such tiles has 2 m + 2 of them in the triangle.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    gram_f32(const float* x, int64_t x_stride, double* values, float* rests, int T, int W, int block) {
    DYNAMIC_SHARED(shared_bytes);
    double* const totals = (double*)shared_bytes + threadIdx.x; // one in THREADS is this thread's
    float* const stages = (float*)(shared_bytes + ROWS * COLUMNS * sizeof(double));
    int m = (int)((sqrtf(4.0f * blockIdx.x + 1.0f) - 1.0f) * 0.5f);
    while (m * (m + 1) > (int)blockIdx.x) --m;
    while ((m + 1) * (m + 2) <= (int)blockIdx.x) ++m;
    const int row0 = m * ROWS, column0 = ((int)blockIdx.x - m * (m + 1)) * COLUMNS;
    const int64_t channel = (int64_t)blockIdx.y * block;
    const int channels = (int)min((int64_t)block, W - channel);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = warp * 16 + lane / 8 * 4, column = lane % 8 * 4;
    if (row0 >= channels || column0 >= channels) return;

    x += channel;
    const bool aligned = is_aligned(x, x_stride, 16);
    Copier<ROWS> rows(x, x_stride, row0, channels);
    Copier<COLUMNS> columns(x, x_stride, column0, channels);
    auto bring = [&](int step) {
        float* stage = stages + step % 2 * STAGE;
        rows.next(stage, x_stride, T - step * STEP, aligned);
        columns.next(stage + STEP * ROWS, x_stride, T - step * STEP, aligned);
        copy_async_commit();
    };
    const int steps = (T + STEP - 1) / STEP;
    float sums[8][8];
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) sums[i][j] = 0.0f, totals[(i * 8 + j) * THREADS] = 0.0;
    bring(0);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        copy_async_wait<0>();
        __syncthreads(); // this stage is there, and the other may be overwritten
        if (step + 1 < steps) bring(step + 1);
        const float* stage = stages + step % 2 * STAGE;
#pragma unroll
        for (int k = 0; k < STEP; ++k) {
            float a[8], b[8];
#pragma unroll
            for (int i = 0; i < 8; i += 4) {
                float4 v = *(const float4*)(stage + k * ROWS + row + i * 16);
                float4 w = *(const float4*)(stage + STEP * ROWS + k * COLUMNS + column + i * 8);
                a[i] = v.x, a[i + 1] = v.y, a[i + 2] = v.z, a[i + 3] = v.w;
                b[i] = w.x, b[i + 1] = w.y, b[i + 2] = w.z, b[i + 3] = w.w;
            }
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
        }
        if (step % (SEGMENT / STEP) == SEGMENT / STEP - 1 || step == steps - 1) {
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) totals[(i * 8 + j) * THREADS] += (double)sums[i][j], sums[i][j] = 0.0f;
        }
    }

    const int64_t before = (int64_t)block * (block + 1) / 2 * blockIdx.y;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const int64_t r = row0 + row + i / 4 * 64 + i % 4;
        if (r >= channels) continue;
        const int64_t triangle_row = before + r * (r + 1) / 2;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const int c = column0 + column + j / 4 * 32 + j % 4;
            if (c > r) continue;
            const double term = rint(totals[(i * 8 + j) * THREADS] * 0x1p32) * 0x1p-32;
            add_exactly(values + triangle_row + c, rests + triangle_row + c, term);
        }
    }
}
