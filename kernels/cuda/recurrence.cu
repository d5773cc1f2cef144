// The matrix-valued recurrence of linear attention (retention, gated linear attention). Per head and token t:
//
//   S = diag(decay[t]) S + k[t] v[t]^T,   o[t] = scale S^T q[t]
//
//   q, k   (L, heads * keys) T, rows `q_stride`, `k_stride` apart
//   v      (L, heads * values) T, rows `v_stride` apart
//   decay  (L, heads * keys) float32, rows `decay_stride` apart; 0: all tokens have the same decay (retention)
//   o      (L, heads * values) T, rows `o_stride` apart; not one of the others
//   state  (heads, keys, values) float32: S before the first token, replaced by S after the last
//
//   instance (T: f32 or bf16)   keys up to   value channels C of a block   dynamic shared bytes, f32   bf16
//   outer_scan_T_64             64           32                            14336                       9216
//   outer_scan_T_128            128          32                            26624                       17408
//   outer_scan_T_192            192          32                            38912                       25600
//   outer_scan_T_256            256          32                            51200                       33792
//   outer_scan_T_384            384          16                            74752                       49664
//   outer_scan_T_512            512          16                            99328                       66048
//
// Launch: grid (ceil(values / C), heads), block 128. Time is sequential; S lives in registers, spread over the chip.
//
// Any L, heads, values >= 1 and keys from 1 to the instance's. Rows are copied 16 bytes at a time where a matrix starts
// 16-byte aligned and its stride and a head's channels are multiples of 16 bytes, else number by number.
//
// A token's o is summed over a thread's keys in ascending order, then over 16 threads as a
// tree: the same bits however a sequence is cut into calls.
#include "common.cuh"

namespace {

// Tokens per stage of the pipeline.
constexpr int TOKENS = 8;
constexpr int THREADS = 128;

// Copies columns 0 .. `count` of `tokens` rows into rows of COLS numbers, zeros in the rest.
template <int COLS, typename T>
INLINE void copy_rows(T* shared, const T* rows, int64_t stride, int tokens, int count, bool aligned) {
    constexpr int PIECE = 16 / sizeof(T), PIECES = COLS / PIECE, AT_ONCE = THREADS / PIECES;
    if (aligned) {
        const int c = threadIdx.x % PIECES * PIECE, valid = max(min(count - c, PIECE), 0);
        if (valid > 0) rows += c;
        if (threadIdx.x < AT_ONCE * PIECES)
            for (int t = threadIdx.x / PIECES; t < tokens; t += AT_ONCE)
                copy_async16_first(shared + t * COLS + c, rows + t * stride, valid * (int)sizeof(T));
    } else {
        for (int i = threadIdx.x; i < tokens * COLS; i += THREADS) {
            int t = i / COLS, c = i % COLS;
            shared[i] = c < count ? rows[t * stride + c] : (T)0;
        }
    }
}

// TURN tokens: S of a lane's keys and N value channels, of which `valid` exist, and the lane's part of o. Rows of v
// have COLUMNS numbers.
template <typename T, int GROUPS, int N, int TURN, int COLUMNS>
INLINE void step(float (&s)[GROUPS][4][N], const T* q, const T* k, const float* decay, const T* v, float scale, T* o,
                 int64_t o_stride, int r, int valid) {
    // Number N t + c: this lane's share of value channel c of token t.
    float sums[TURN * N];
#pragma unroll
    for (int t = 0; t < TURN; ++t) {
        float x[N];
#pragma unroll
        for (int c = 0; c < N; ++c) x[c] = load(v + t * COLUMNS + c), sums[t * N + c] = 0.0f;
#pragma unroll
        for (int j = 0; j < GROUPS; ++j) {
            float a[4], b[4], d[4];
            const int at = t * GROUPS * 64 + j * 64;
            load_vector(a, q + at);
            load_vector(b, k + at);
            load_vector(d, decay + at);
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int c = 0; c < N; ++c) {
                    s[j][i][c] = fmaf(b[i], x[c], s[j][i][c] * d[i]);
                    sums[t * N + c] = fmaf(a[i], s[j][i][c], sums[t * N + c]);
                }
        }
    }
    // Sum over the 16 lanes of the keys, the same tree for any TURN: first whole, then each time half of the sums go to
    // the other lane, so that lane r is left with sum r % (N TURN).
#pragma unroll
    for (int level = 0; level < 4; ++level) {
        const int d = 8 >> level;
#pragma unroll
        for (int i = 0; i < TURN * N; ++i) {
            if (d >= TURN * N) {
                sums[i] += __shfl_xor_sync(FULL_WARP, sums[i], d);
            } else if (i < d) {
                float keep = r & d ? sums[i + d] : sums[i], give = r & d ? sums[i] : sums[i + d];
                sums[i] = keep + __shfl_xor_sync(FULL_WARP, give, d);
            }
        }
    }
    if (r < TURN * N && r % N < valid) store(o + r / N * o_stride + r % N, sums[0] * scale);
}

// A warp holds S for 2 N value channels: 16 lanes by keys, 2 by value channels,
//
//   lane = 16 c + r:  keys 64 j + 4 r .. + 4 for j < GROUPS,  value channels N c .. + N of the warp's
//
// so that a lane reads q, k and decay 4 keys at a time and a quarter of a warp reads 128 bytes in a row.
template <typename T, int GROUPS, int N>
INLINE void scan(const T* q, int64_t q_stride, const T* k, int64_t k_stride, const T* v, int64_t v_stride,
                 const float* decay, int64_t decay_stride, float scale, T* o, int64_t o_stride, float* state, int L,
                 int keys, int values) {
    constexpr int KEYS = GROUPS * 64, COLUMNS = THREADS / 16 * N;
    constexpr int STAGE = TOKENS * (KEYS * 4 + (2 * KEYS + COLUMNS) * (int)sizeof(T));
    DYNAMIC_SHARED(shared_bytes);
    const int lane = threadIdx.x % 32, r = lane % 16;
    const int head = blockIdx.y, column0 = blockIdx.x * COLUMNS, column = threadIdx.x / 16 * N;
    previous_kernel_wait();
    next_kernel_start();
    q += head * keys, k += head * keys, decay += head * keys;
    v += (int64_t)head * values + column0, o += (int64_t)head * values + column0;
    state += (int64_t)head * keys * values + column0;
    const int count = min(values - column0, COLUMNS);
    const bool q_aligned = is_aligned(q, q_stride, 16), k_aligned = is_aligned(k, k_stride, 16);
    const bool v_aligned = is_aligned(v, v_stride, 16), decay_aligned = is_aligned(decay, decay_stride, 16);
    const bool state_aligned = is_aligned(state, values, 16);

    auto copy = [&](int chunk) {
        float* to_decay = (float*)(shared_bytes + chunk % 2 * STAGE);
        T* to_q = (T*)(to_decay + TOKENS * KEYS);
        const int64_t t = chunk * TOKENS;
        const int tokens = min(L - chunk * TOKENS, TOKENS);
        copy_rows<KEYS>(to_decay, decay + t * decay_stride, decay_stride, tokens, keys, decay_aligned);
        copy_rows<KEYS>(to_q, q + t * q_stride, q_stride, tokens, keys, q_aligned);
        copy_rows<KEYS>(to_q + TOKENS * KEYS, k + t * k_stride, k_stride, tokens, keys, k_aligned);
        copy_rows<COLUMNS>(to_q + 2 * TOKENS * KEYS, v + t * v_stride, v_stride, tokens, count, v_aligned);
    };
    copy(0);
    copy_async_commit();

    float s[GROUPS][4][N];
    state += (int64_t)r * 4 * values + column;
    const bool whole = state_aligned && N == 4 && column + N <= count;
    if (whole) {
#pragma unroll
        for (int j = 0; j < GROUPS; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                if (j * 64 + r * 4 + i < keys) x = *(const float4*)(state + (int64_t)(j * 64 + i) * values);
                s[j][i][0] = x.x, s[j][i][1] = x.y;
                if constexpr (N == 4) s[j][i][2] = x.z, s[j][i][3] = x.w;
            }
    } else {
#pragma unroll
        for (int j = 0; j < GROUPS; ++j)
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int c = 0; c < N; ++c) {
                    bool valid = j * 64 + r * 4 + i < keys && column + c < count;
                    s[j][i][c] = valid ? state[(int64_t)(j * 64 + i) * values + c] : 0.0f;
                }
    }

    const int chunks = (L + TOKENS - 1) / TOKENS;
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; ++chunk) {
        if (chunk + 1 < chunks) copy(chunk + 1);
        copy_async_commit();
        copy_async_wait<1>();
        __syncthreads();
        const float* from_decay = (const float*)(shared_bytes + chunk % 2 * STAGE) + r * 4;
        const T* from_q = (const T*)(from_decay - r * 4 + TOKENS * KEYS) + r * 4;
        const T* from_k = from_q + TOKENS * KEYS;
        const T* from_v = from_k - r * 4 + TOKENS * KEYS + column;
        T* to = o + (int64_t)chunk * TOKENS * o_stride + column;
        const int tokens = min(L - chunk * TOKENS, TOKENS);
        int t = 0;
#pragma unroll 1
        for (; t + 4 <= tokens; t += 4)
            step<T, GROUPS, N, 4, COLUMNS>(s, from_q + t * KEYS, from_k + t * KEYS, from_decay + t * KEYS,
                                           from_v + t * COLUMNS, scale, to + t * o_stride, o_stride, r, count - column);
#pragma unroll 1
        for (; t < tokens; ++t)
            step<T, GROUPS, N, 1, COLUMNS>(s, from_q + t * KEYS, from_k + t * KEYS, from_decay + t * KEYS,
                                           from_v + t * COLUMNS, scale, to + t * o_stride, o_stride, r, count - column);
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < GROUPS; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float* to = state + (int64_t)(j * 64 + i) * values;
            if (j * 64 + r * 4 + i >= keys) continue;
            if constexpr (N == 4) {
                if (whole) {
                    store_vector(to, s[j][i]);
                    continue;
                }
            }
#pragma unroll
            for (int c = 0; c < N; ++c)
                if (column + c < count) to[c] = s[j][i][c];
        }
}

} // namespace

#define INSTANCE(T, suffix, max_keys, N)                                                                              \
    extern "C" __global__ void __launch_bounds__(128, 2) outer_scan_##suffix##_##max_keys(                            \
        const T* q, int64_t q_stride, const T* k, int64_t k_stride, const T* v, int64_t v_stride, const float* decay, \
        int64_t decay_stride, float scale, T* o, int64_t o_stride, float* state, int L, int keys, int values) {       \
        scan<T, max_keys / 64, N>(q, q_stride, k, k_stride, v, v_stride, decay, decay_stride, scale, o, o_stride,     \
                                  state, L, keys, values);                                                            \
    }
#define INSTANCES(max_keys, N)        \
    INSTANCE(float, f32, max_keys, N) \
    INSTANCE(bf16_t, bf16, max_keys, N)

INSTANCES(64, 4)
INSTANCES(128, 4)
INSTANCES(192, 4)
INSTANCES(256, 4)
INSTANCES(384, 2)
INSTANCES(512, 2)
