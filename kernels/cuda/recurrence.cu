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
//   outer_scan_chunked_bf16_{64,128,192,256}: the same arguments, chunks of 16 tokens as products on tensor cores. For
//   many tokens (32 and more). It also rounds to bf16 inside. Decays below 1e-4 count as that.
//
//   Launch: grid (ceil(values / 64), heads), block 256, dynamic shared bytes 50688, 76800, 102912, 129024.
//
// Any L, heads, values >= 1 and keys from 1 to the instance's. Rows are copied 16 bytes at a time where a matrix starts
// 16-byte aligned and its stride and a head's channels are multiples of 16 bytes, else number by number.
//
// In the sequential kernels a token's o is summed over a thread's keys in ascending order, then over 16 threads as a
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
    next_kernel_start();
    previous_kernel_wait();
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

// ---- Many tokens on tensor cores -------------------------------------------------------------------------------

// Tokens of a chunk: the depth of a matrix instruction.
constexpr int CHUNK = 16;
constexpr int CHUNK_THREADS = 256;
// Smaller decays count as this, which is as good as forgetting for a result in bf16; products of 8 and their inverses
// stay finite.
constexpr float LEAST_DECAY = 1e-4f;

// With b_t the product of a key's decays of tokens 1 .. t of a chunk, and m its 8th token:
//
//   q'_t = q_t b_t / b_m,   k'_t = k_t b_m / b_t,   S' = b_m S before the chunk
//   o_t = scale (S'^T q'_t + sum over s <= t of <q'_t, k'_s> v_s)
//   S after it = (b_16 / b_m) (S' + sum over s of k'_s v_s^T)
//
// so that a chunk is four matrix products: q' S', q' k'^T, its lower triangle times v, and k'^T v added to S'. The
// factors are relative to the middle to keep both q' and k' far from overflow.
//
// 8 warps share VALUES = 16 V value channels: a warp has 16 of them and one of 8 / V parts of the keys. It holds S'^T
// as matrix accumulators (value, key), which are laid out as the right operand of q' S' needs them. Its part of o goes
// to shared memory, where the parts are added in order.
//
// Iteration c: fetch chunk c + 2, store o of c - 1, scale c + 1 to q' and k', multiply c. One barrier.
template <int KEYS, int V> struct Chunked {
    static constexpr int VALUES = 16 * V, PARTS = 8 / V, TILES = KEYS / PARTS / 8;
    static constexpr int O_ROW = VALUES + 8; // against bank conflicts
    struct Raw {
        float decay[CHUNK * KEYS];
        bf16_t q[CHUNK * KEYS], k[CHUNK * KEYS];
    };
    struct Shared {
        Raw raw[2];
        bf16_t q[2][CHUNK * KEYS], k[2][CHUNK * KEYS];  // scaled; piece p of row t at p ^ (t % 8)
        bf16_t v[3][CHUNK * VALUES];                    // the same
        float to_middle[3][KEYS], from_middle[3][KEYS]; // b_m, b_16 / b_m
        float o[2][PARTS][CHUNK * O_ROW];
    };

    // Piece `piece` of row t of a scaled matrix.
    static INLINE int at(int t, int piece, int row_size) {
        return t * row_size + ((piece ^ (t % 8 % (row_size / 8))) * 8);
    }

    // Copies `columns` of `rows` rows, zeros beyond them.
    template <int COLS, bool SWIZZLED, typename T>
    static INLINE void fetch(T* shared, const T* from, int64_t stride, int rows, int columns, bool aligned) {
        constexpr int PIECE = 16 / sizeof(T), PIECES = COLS / PIECE;
        for (int i = threadIdx.x; i < CHUNK * PIECES; i += CHUNK_THREADS) {
            const int t = i / PIECES, piece = i % PIECES,
                      valid = t < rows ? max(min(columns - piece * PIECE, PIECE), 0) : 0;
            T* to = shared + (SWIZZLED ? at(t, piece, COLS) : i * PIECE);
            const T* source = valid > 0 ? from + t * stride + piece * PIECE : from;
            if (aligned) {
                copy_async16_first(to, source, valid * (int)sizeof(T));
            } else {
#pragma unroll
                for (int l = 0; l < PIECE; ++l) to[l] = l < valid ? source[l] : (T)0;
            }
        }
    }

    // Two neighbouring keys of half of the tokens a thread.
    static INLINE void scale(Shared& shared, int chunk, int tokens) {
        if (threadIdx.x >= KEYS) return;
        const int key = threadIdx.x % (KEYS / 2) * 2, late = threadIdx.x / (KEYS / 2) * 8;
        const Raw& raw = shared.raw[chunk % 2];
        bf16_t *to_q = shared.q[chunk % 2], *to_k = shared.k[chunk % 2];
        // Early tokens from the middle back, w = b_m / b_t; late ones from it on, w = b_t / b_m.
        float w0 = 1.0f, w1 = 1.0f;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int t = late ? 8 + i : 7 - i;
            const float2 decay = *(const float2*)(raw.decay + t * KEYS + key);
            const float d0 = t < tokens ? fmaxf(decay.x, LEAST_DECAY) : 1.0f,
                        d1 = t < tokens ? fmaxf(decay.y, LEAST_DECAY) : 1.0f;
            if (late) w0 *= d0, w1 *= d1;
            const uint32_t q = *(const uint32_t*)(raw.q + t * KEYS + key),
                           k = *(const uint32_t*)(raw.k + t * KEYS + key);
            const float inverse0 = __fdividef(1.0f, w0), inverse1 = __fdividef(1.0f, w1);
            const float q0 = late ? w0 : inverse0, q1 = late ? w1 : inverse1, k0 = late ? inverse0 : w0,
                        k1 = late ? inverse1 : w1;
            const int to = at(t, key / 8, KEYS) + key % 8;
            *(uint32_t*)(to_q + to) = pack_bf16x2(__uint_as_float(q << 16) * q0, __uint_as_float(q & 0xffff0000u) * q1);
            *(uint32_t*)(to_k + to) = pack_bf16x2(__uint_as_float(k << 16) * k0, __uint_as_float(k & 0xffff0000u) * k1);
            if (!late) w0 *= d0, w1 *= d1;
        }
        *(float2*)((late ? shared.from_middle : shared.to_middle)[chunk % 3] + key) = make_float2(w0, w1);
    }

    // The four products. s: this warp's S' (value, key), tiles of 16 x 8.
    static INLINE void multiply(Shared& shared, float (&s)[TILES][4], int chunk) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first_value = warp % V * 16, part = warp / V,
                  first_key = part * TILES * 8;
        const bf16_t *q = shared.q[chunk % 2], *k = shared.k[chunk % 2];
        const float *to_middle = shared.to_middle[chunk % 3] + first_key,
                    *from_middle = shared.from_middle[(chunk + 2) % 3] + first_key;
#pragma unroll
        for (int n = 0; n < TILES; ++n) {
            const int key = n * 8 + lane % 4 * 2;
            float2 a = *(const float2*)(to_middle + key);
            if (chunk > 0) {
                const float2 b = *(const float2*)(from_middle + key); // of the chunk before
                a.x *= b.x, a.y *= b.y;
            }
            s[n][0] *= a.x, s[n][1] *= a.y, s[n][2] *= a.x, s[n][3] *= a.y;
        }
        float o[2][4] = {}, products[2][4] = {};
#pragma unroll
        for (int n = 0; n < TILES; n += 2) {
            const int piece = first_key / 8 + n;
            uint32_t x[4], y[4];
            load_matrix_x4(x, q + at(lane % 16, piece + lane / 16, KEYS));
            load_matrix_x4(y, k + at(lane / 16 * 8 + lane % 8, piece + lane / 8 % 2, KEYS));
            mma_bf16(products[0], x, y[0], y[1]);
            mma_bf16(products[1], x, y[2], y[3]);
            mma_bf16(o[0], x, pack_bf16x2(s[n][0], s[n][1]), pack_bf16x2(s[n + 1][0], s[n + 1][1]));
            mma_bf16(o[1], x, pack_bf16x2(s[n][2], s[n][3]), pack_bf16x2(s[n + 1][2], s[n + 1][3]));
        }
        // Token t sees tokens up to itself.
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
            for (int l = 0; l < 4; ++l)
                if (j * 8 + lane % 4 * 2 + l % 2 > lane / 4 + l / 2 * 8) products[j][l] = 0.0f;
        const uint32_t p[4] = {pack_bf16x2(products[0][0], products[0][1]), pack_bf16x2(products[0][2], products[0][3]),
                               pack_bf16x2(products[1][0], products[1][1]),
                               pack_bf16x2(products[1][2], products[1][3])};
        uint32_t v[4]; // tokens 0-7 and 8-15 of values 0-7, then of values 8-15
        load_matrix_x4_transposed(v, shared.v[chunk % 3] + at(lane % 16, first_value / 8 + lane / 16, VALUES));
        mma_bf16(o[0], p, v[0], v[1]);
        mma_bf16(o[1], p, v[2], v[3]);
        const uint32_t v_left[4] = {v[0], v[2], v[1], v[3]};
#pragma unroll
        for (int n = 0; n < TILES; n += 2) {
            uint32_t y[4];
            load_matrix_x4_transposed(y, k + at(lane % 16, first_key / 8 + n + lane / 16, KEYS));
            mma_bf16(s[n], v_left, y[0], y[1]);
            mma_bf16(s[n + 1], v_left, y[2], y[3]);
        }
        float* to = shared.o[chunk % 2][part] + lane / 4 * O_ROW + first_value + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            *(float2*)(to + j * 8) = make_float2(o[j][0], o[j][1]);
            *(float2*)(to + 8 * O_ROW + j * 8) = make_float2(o[j][2], o[j][3]);
        }
    }

    static INLINE void store_o(const Shared& shared, int chunk, bf16_t* o, int64_t o_stride, float scale, int tokens,
                               int columns, bool aligned) {
        const int i = threadIdx.x * 4, t = i / VALUES, c = i % VALUES;
        if (t >= tokens || c >= columns) return;
        float sum[4];
        load_vector(sum, shared.o[chunk % 2][0] + t * O_ROW + c);
#pragma unroll
        for (int part = 1; part < PARTS; ++part) {
            float x[4];
            load_vector(x, shared.o[chunk % 2][part] + t * O_ROW + c);
#pragma unroll
            for (int l = 0; l < 4; ++l) sum[l] += x[l];
        }
#pragma unroll
        for (int l = 0; l < 4; ++l) sum[l] *= scale;
        o += t * o_stride + c;
        if (aligned && c + 4 <= columns) {
            store_vector(o, sum);
        } else {
#pragma unroll
            for (int l = 0; l < 4; ++l)
                if (c + l < columns) store(o + l, sum[l]);
        }
    }

    static INLINE void run(const bf16_t* q, int64_t q_stride, const bf16_t* k, int64_t k_stride, const bf16_t* v,
                           int64_t v_stride, const float* decay, int64_t decay_stride, float factor, bf16_t* o,
                           int64_t o_stride, float* state, int L, int keys, int values) {
        DYNAMIC_SHARED(shared_bytes);
        Shared& shared = *(Shared*)shared_bytes;
        const int head = blockIdx.y, column0 = blockIdx.x * VALUES, columns = min(values - column0, VALUES),
                  chunks = (L + CHUNK - 1) / CHUNK;
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        next_kernel_start();
        previous_kernel_wait();
        q += head * keys, k += head * keys, decay += head * keys;
        v += (int64_t)head * values + column0, o += (int64_t)head * values + column0;
        const bool q_aligned = is_aligned(q, q_stride, 16), k_aligned = is_aligned(k, k_stride, 16);
        const bool v_aligned = is_aligned(v, v_stride, 16), decay_aligned = is_aligned(decay, decay_stride, 16);
        const bool o_aligned = is_aligned(o, o_stride, 8);

        auto fetch_chunk = [&](int chunk) {
            if (chunk < chunks) {
                const int64_t t = (int64_t)chunk * CHUNK;
                const int rows = min(L - chunk * CHUNK, CHUNK);
                Raw& raw = shared.raw[chunk % 2];
                fetch<KEYS, false>(raw.decay, decay + t * decay_stride, decay_stride, rows, keys, decay_aligned);
                fetch<KEYS, false>(raw.q, q + t * q_stride, q_stride, rows, keys, q_aligned);
                fetch<KEYS, false>(raw.k, k + t * k_stride, k_stride, rows, keys, k_aligned);
                fetch<VALUES, true>(shared.v[chunk % 3], v + t * v_stride, v_stride, rows, columns, v_aligned);
            }
            copy_async_commit();
        };
        auto store_chunk = [&](int chunk) {
            store_o(shared, chunk, o + (int64_t)chunk * CHUNK * o_stride, o_stride, factor,
                    min(L - chunk * CHUNK, CHUNK), columns, o_aligned);
        };
        // Where number l of tile n of this warp's S' lies in memory.
        state += (int64_t)head * keys * values + column0;
        const int first_key = warp / V * TILES * 8 + lane % 4 * 2, first_value = warp % V * 16 + lane / 4;

        fetch_chunk(0);
        fetch_chunk(1);
        float s[TILES][4];
#pragma unroll
        for (int n = 0; n < TILES; ++n)
#pragma unroll
            for (int l = 0; l < 4; ++l) {
                const int key = first_key + n * 8 + l % 2, value = first_value + l / 2 * 8;
                s[n][l] = key < keys && value < columns ? state[(int64_t)key * values + value] : 0.0f;
            }
        copy_async_wait<1>();
        __syncthreads();
        scale(shared, 0, L);
#pragma unroll 1
        for (int chunk = 0; chunk < chunks; ++chunk) {
            copy_async_wait<0>();
            __syncthreads();
            fetch_chunk(chunk + 2);
            if (chunk > 0) store_chunk(chunk - 1);
            if (chunk + 1 < chunks) scale(shared, chunk + 1, L - (chunk + 1) * CHUNK);
            multiply(shared, s, chunk);
        }
        __syncthreads();
        store_chunk(chunks - 1);
#pragma unroll
        for (int n = 0; n < TILES; ++n)
#pragma unroll
            for (int l = 0; l < 4; ++l) {
                const int key = first_key + n * 8 + l % 2, value = first_value + l / 2 * 8;
                if (key < keys && value < columns)
                    state[(int64_t)key * values + value] = s[n][l] * shared.from_middle[(chunks - 1) % 3][key];
            }
    }
};

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

#define CHUNKED(max_keys)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256, 1) outer_scan_chunked_bf16_##max_keys(                      \
        const bf16_t* q, int64_t q_stride, const bf16_t* k, int64_t k_stride, const bf16_t* v, int64_t v_stride,  \
        const float* decay, int64_t decay_stride, float scale, bf16_t* o, int64_t o_stride, float* state, int L,  \
        int keys, int values) {                                                                                   \
        Chunked<max_keys, 4>::run(q, q_stride, k, k_stride, v, v_stride, decay, decay_stride, scale, o, o_stride, \
                                  state, L, keys, values);                                                        \
    }

CHUNKED(64)
CHUNKED(128)
CHUNKED(192)
CHUNKED(256)
