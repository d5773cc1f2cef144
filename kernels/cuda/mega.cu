// The attention of Mega-S6: one head, inside fixed chunks of the sequence, with a position bias.
//
//   place(t) = (position + first + t) % chunk, the token's place in its chunk
//   q[t] = silu(z[t]) gamma[0] + beta[0]
//   key[place(t)] = silu(z[t]) gamma[1] + beta[1],   value[place(t)] = silu(v[t])
//   score[t][s] = scale <q[t], key[s]> + <query_bias[place(t)], key_bias[s]>   for s <= place(t)
//   out[t] = (sum over s of softmax(score[t])[s] value[s]) silu(r[t])
//
// A call to these kernels serves `rows` tokens of one chunk: place(0) + rows <= chunk. A longer text is cut where
// chunks begin. The keys and values of the chunk so far are the layer's state, kept from call to call.
//
//   position    one int64 in device memory: where in the text the forward pass begins;
//               `first` counts tokens from there
//   z           (rows, z_dim) T, rows `z_stride` apart
//   v, r, out   (rows, d) T, rows `*_stride` apart
//   gamma, beta (2, z_dim) float32: of queries, of keys
//   q           (rows, z_dim) T, scratch
//   keys        (chunk, z_dim) T, values (chunk, d) T: the state
//   query_bias, key_bias  (chunk, z_dim) float32
//   scores      (rows, chunk) float32, rows `scores_stride` apart, a multiple of 4; scratch
//   p           (rows, chunk) T, rows `p_stride` apart, a multiple of 8 (f32: 4), 16-byte aligned; scratch. For f32 it
//               may be `scores`.
//
//   In this order                      grid                                  block   dynamic shared bytes
//   mega_prepare_T                     rows                                  256     none
//   many tokens
//     mega_scores_T                    ceil(rows / 64), ceil(reach / 64)     256     none
//     mega_softmax_T                   rows                                  256     none
//     mega_values_T                    ceil(rows / 128), ceil(d / 128)       128     49152 (f32), 98304 (bf16)
//   one token (rows = 1)
//     mega_score_one_T                 ceil(reach / 8)                       256     none
//     mega_values_one_T                ceil(d / 16)                          256     chunk * 4 + 8192
//
// `reach` is place(0) + rows, or chunk where it is not known, as in a CUDA graph: blocks with nothing to do return.
//
// T is float32 (*_f32) or bf16 (*_bf16, products of scores and values on tensor cores). Any z_dim, d, chunk >= 1. Rows
// of values are copied 16 bytes at a time where d is a multiple of 8 (f32: 4), else number by number.
#include "common.cuh"

namespace {

INLINE int place_of(const int64_t* position, int first, int chunk) { return (int)((*position + first) % chunk); }

// Products and sums are rounded one by one, like the CPU's.
INLINE float scaled(float x, float gamma, float beta) { return __fadd_rn(__fmul_rn(silu(x), gamma), beta); }

template <typename T>
INLINE void prepare(const T* z, int64_t z_stride, const T* v, int64_t v_stride, const float* gamma, const float* beta,
                    T* q, T* keys, T* values, const int64_t* position, int first, int z_dim, int d, int chunk) {
    previous_kernel_wait();
    next_kernel_start();
    const int64_t t = blockIdx.x, place = place_of(position, first, chunk) + t;
    z += t * z_stride, v += t * v_stride, q += t * z_dim, keys += place * z_dim, values += place * d;
    for (int i = threadIdx.x; i < z_dim; i += blockDim.x) {
        float x = load(z + i);
        store(q + i, scaled(x, gamma[i], beta[i]));
        store(keys + i, scaled(x, gamma[z_dim + i], beta[z_dim + i]));
    }
    for (int i = threadIdx.x; i < d; i += blockDim.x) store(values + i, silu(load(v + i)));
}

// ---- Many tokens ----------------------------------------------------------------------------------------------

constexpr int SCORE_TILE = 64;
constexpr int SCORE_STEP = 32;
typedef float ScoreTile[SCORE_STEP][SCORE_TILE + 4];

// Columns k .. of 64 rows, of which `rows` exist, transposed.
template <typename T>
INLINE void load_transposed(ScoreTile& to, const T* from, int64_t stride, int rows, int k, int columns) {
    for (int i = threadIdx.x; i < SCORE_TILE * SCORE_STEP; i += 256) {
        int row = i / SCORE_STEP, column = i % SCORE_STEP;
        to[column][row] = row < rows && k + column < columns ? load(from + row * stride + k + column) : 0.0f;
    }
}

// sums += a b^T, 4 x 4 numbers a thread.
template <typename T>
INLINE void add_products(float (&sums)[4][4], const T* a, int a_rows, const T* b, int b_rows, int columns, ScoreTile& x,
                         ScoreTile& y) {
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
#pragma unroll 1
    for (int k = 0; k < columns; k += SCORE_STEP) {
        __syncthreads();
        load_transposed(x, a, columns, a_rows, k, columns);
        load_transposed(y, b, columns, b_rows, k, columns);
        __syncthreads();
#pragma unroll 8
        for (int l = 0; l < SCORE_STEP; ++l) {
            float u[4], w[4];
            load_vector(u, &x[l][row]);
            load_vector(w, &y[l][column]);
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(u[i], w[j], sums[i][j]);
        }
    }
}

template <typename T>
INLINE void score_tile(const T* q, const T* keys, const float* query_bias, const float* key_bias, float scale,
                       float* scores, int64_t scores_stride, const int64_t* position, int first, int rows, int z_dim,
                       int chunk) {
    __shared__ __align__(16) ScoreTile x, y;
    previous_kernel_wait();
    next_kernel_start();
    const int t0 = blockIdx.x * SCORE_TILE, s0 = blockIdx.y * SCORE_TILE, place = place_of(position, first, chunk);
    const int t_count = min(rows - t0, SCORE_TILE), s_count = min(place + t0 + t_count - s0, SCORE_TILE);
    if (s_count <= 0) return;
    float sums[4][4] = {};
    add_products(sums, q + (int64_t)t0 * z_dim, t_count, keys + (int64_t)s0 * z_dim, s_count, z_dim, x, y);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] *= scale;
    add_products(sums, query_bias + (int64_t)(place + t0) * z_dim, t_count, key_bias + (int64_t)s0 * z_dim, s_count,
                 z_dim, x, y);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            int t = threadIdx.x / 16 * 4 + i, s = threadIdx.x % 16 * 4 + j;
            if (t < t_count && s < s_count) scores[(t0 + t) * scores_stride + s0 + s] = sums[i][j];
        }
}

// Sum or maximum over a block of 256, the same in all threads.
INLINE float block_sum(float x, float (&partial)[8]) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = partial[0];
#pragma unroll
    for (int i = 1; i < 8; ++i) sum += partial[i];
    return sum;
}
INLINE float block_max(float x, float (&partial)[8]) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    float most = partial[0];
#pragma unroll
    for (int i = 1; i < 8; ++i) most = fmaxf(most, partial[i]);
    return most;
}

// Zeros follow up to the last key that any row of the call sees.
template <typename T>
INLINE void softmax_row(const float* scores, int64_t scores_stride, T* p, int64_t p_stride, const int64_t* position,
                        int first, int rows, int chunk) {
    __shared__ float partial[8];
    previous_kernel_wait();
    next_kernel_start();
    const int t = blockIdx.x, place = place_of(position, first, chunk), n = place + t + 1;
    scores += t * scores_stride, p += t * p_stride;
    float most = -3.402823466e38f, sum = 0.0f;
    for (int s = threadIdx.x; s < n; s += 256) most = fmaxf(most, scores[s]);
    most = block_max(most, partial);
    for (int s = threadIdx.x; s < n; s += 256) sum += expf(scores[s] - most);
    const float norm = 1.0f / block_sum(sum, partial);
    for (int s = threadIdx.x; s < place + rows; s += 256) store(p + s, s < n ? expf(scores[s] - most) * norm : 0.0f);
}

constexpr int VALUE_TILE = 128;

// out = sums silu(r) at one place.
template <typename T> INLINE void store_gated(T* out, float sum, const T* r) { store(out, sum * silu(load(r))); }

// float32: a block of 4 warps owns 128 x 128 of out, a thread 8 rows (4 apart) and 4 times 4 columns (32 apart).
//
// A stage of shared memory is 16 columns of p (piece c of row t at c ^ (t / 2 % 4), as in gemm_f32.cu) and 16 rows of
// values.
constexpr int F32_STEP = 16;
constexpr int F32_STAGE = 2 * VALUE_TILE * F32_STEP;
constexpr int F32_STAGES = 3;

INLINE void value_tile(const float* p, int64_t p_stride, const float* values, const float* r, int64_t r_stride,
                       float* out, int64_t out_stride, const int64_t* position, int first, int rows, int d, int chunk) {
    DYNAMIC_SHARED(shared_bytes);
    float* const stages = (float*)shared_bytes;
    const int thread = threadIdx.x, lane = thread % 32, row = thread / 32 * 32 + lane / 8, column = lane % 8 * 4;
    const bool aligned = d % 4 == 0;
    previous_kernel_wait();
    next_kernel_start();
    const int t0 = blockIdx.x * VALUE_TILE, c0 = blockIdx.y * VALUE_TILE, t_count = min(rows - t0, VALUE_TILE);
    const int place = place_of(position, first, chunk), reach = place + rows,
              steps = (place + t0 + t_count + F32_STEP - 1) / F32_STEP;
    p += t0 * p_stride;

    auto copy = [&](int step) {
        float* to = stages + step % F32_STAGES * F32_STAGE;
        const int s0 = step * F32_STEP;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int t = thread / 4 + i * 32, piece = thread % 4, s = s0 + piece * 4;
            int count = t < t_count ? max(min(reach - s, 4), 0) : 0;
            copy_async16_first(to + t * F32_STEP + ((piece ^ (t / 2 % 4)) * 4), count > 0 ? p + t * p_stride + s : p,
                               count * 4);
        }
        to += VALUE_TILE * F32_STEP;
        if (aligned) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                int s = thread / 32 + i * 4, c = thread % 32 * 4;
                bool valid = s0 + s < reach && c0 + c < d;
                copy_async16(to + s * VALUE_TILE + c, valid ? values + (int64_t)(s0 + s) * d + c0 + c : values, valid);
            }
        } else {
#pragma unroll 1
            for (int s = 0; s < F32_STEP; ++s) {
                bool valid = s0 + s < reach && c0 + thread < d;
                copy_async4(to + s * VALUE_TILE + thread, valid ? values + (int64_t)(s0 + s) * d + c0 + thread : values,
                            valid);
            }
        }
    };

    float sums[8][16];
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 16; ++j) sums[i][j] = 0.0f;
#pragma unroll
    for (int s = 0; s < F32_STAGES - 1; ++s) {
        if (s < steps) copy(s);
        copy_async_commit();
    }
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        copy_async_wait<F32_STAGES - 2>();
        __syncthreads();
        if (step + F32_STAGES - 1 < steps) copy(step + F32_STAGES - 1);
        copy_async_commit();
        const float* from_p = stages + step % F32_STAGES * F32_STAGE + row * F32_STEP;
        const float* from_v = stages + step % F32_STAGES * F32_STAGE + VALUE_TILE * F32_STEP + column;
#pragma unroll 1
        for (int piece = 0; piece < 4; ++piece) {
            float x[8][4];
#pragma unroll
            for (int i = 0; i < 8; ++i)
                load_vector(x[i], from_p + i * 4 * F32_STEP + ((piece ^ (i % 2 * 2) ^ (lane / 16)) * 4));
#pragma unroll
            for (int l = 0; l < 4; ++l)
#pragma unroll
                for (int j = 0; j < 16; j += 4) {
                    float y[4];
                    load_vector(y, from_v + (piece * 4 + l) * VALUE_TILE + j * 8);
#pragma unroll
                    for (int c = 0; c < 4; ++c)
#pragma unroll
                        for (int i = 0; i < 8; ++i) sums[i][j + c] = fmaf(x[i][l], y[c], sums[i][j + c]);
                }
        }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        int t = row + 4 * i;
        if (t >= t_count) continue;
#pragma unroll
        for (int j = 0; j < 16; ++j) {
            int c = c0 + column + j / 4 * 32 + j % 4;
            if (c < d) store_gated(out + (t0 + t) * out_stride + c, sums[i][j], r + (t0 + t) * r_stride + c);
        }
    }
}

// bf16: a block of 4 warps owns 128 x 128 of out, a warp 64 x 64.
//
// A stage of shared memory is 64 columns of p, rows of 8 pieces of 16 bytes, and 64 rows of values, of 16 pieces; piece
// c of row t lies at c ^ (t % 8).
constexpr int BF16_STEP = 64;
constexpr int BF16_STAGE = 2 * VALUE_TILE * BF16_STEP;
constexpr int BF16_STAGES = 3;

INLINE void value_tile(const bf16_t* p, int64_t p_stride, const bf16_t* values, const bf16_t* r, int64_t r_stride,
                       bf16_t* out, int64_t out_stride, const int64_t* position, int first, int rows, int d,
                       int chunk) {
    DYNAMIC_SHARED(shared_bytes);
    bf16_t* const stages = (bf16_t*)shared_bytes;
    const int thread = threadIdx.x, lane = thread % 32, warp_t = thread / 64 * 64, warp_c = thread / 32 % 2 * 64;
    const bool aligned = d % 8 == 0;
    previous_kernel_wait();
    next_kernel_start();
    const int t0 = blockIdx.x * VALUE_TILE, c0 = blockIdx.y * VALUE_TILE, t_count = min(rows - t0, VALUE_TILE);
    const int place = place_of(position, first, chunk), reach = place + rows,
              steps = (place + t0 + t_count + BF16_STEP - 1) / BF16_STEP;
    p += t0 * p_stride;

    auto copy = [&](int step) {
        bf16_t* to = stages + step % BF16_STAGES * BF16_STAGE;
        const int s0 = step * BF16_STEP;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            int t = thread / 8 + i * 16, piece = thread % 8, s = s0 + piece * 8;
            int count = t < t_count ? max(min(reach - s, 8), 0) : 0;
            copy_async16_first(to + t * BF16_STEP + ((piece ^ (t % 8)) * 8), count > 0 ? p + t * p_stride + s : p,
                               count * 2);
        }
        to += VALUE_TILE * BF16_STEP;
        if (aligned) {
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                int s = thread / 16 + i * 8, piece = thread % 16, c = c0 + piece * 8;
                bool valid = s0 + s < reach && c < d;
                copy_async16(to + s * VALUE_TILE + ((piece ^ (s % 8)) * 8),
                             valid ? values + (int64_t)(s0 + s) * d + c : values, valid);
            }
        } else {
#pragma unroll 1
            for (int s = 0; s < BF16_STEP; ++s) {
                bool valid = s0 + s < reach && c0 + thread < d;
                to[s * VALUE_TILE + ((thread / 8 ^ (s % 8)) * 8) + thread % 8] =
                    valid ? values[(int64_t)(s0 + s) * d + c0 + thread] : (bf16_t)0;
            }
        }
    };

    float sums[4][8][4] = {};
#pragma unroll
    for (int s = 0; s < BF16_STAGES - 1; ++s) {
        if (s < steps) copy(s);
        copy_async_commit();
    }
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
        copy_async_wait<BF16_STAGES - 2>();
        __syncthreads();
        if (step + BF16_STAGES - 1 < steps) copy(step + BF16_STAGES - 1);
        copy_async_commit();
        const bf16_t* from_p = stages + step % BF16_STAGES * BF16_STAGE;
        const bf16_t* from_v = from_p + VALUE_TILE * BF16_STEP;
#pragma unroll
        for (int k = 0; k < BF16_STEP / 16; ++k) {
            uint32_t x[4][4], y[4][4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                int t = warp_t + i * 16 + lane % 16, piece = 2 * k + lane / 16;
                load_matrix_x4(x[i], from_p + t * BF16_STEP + ((piece ^ (t % 8)) * 8));
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                int s = k * 16 + lane % 16, piece = warp_c / 8 + 2 * j + lane / 16;
                load_matrix_x4_transposed(y[j], from_v + s * VALUE_TILE + ((piece ^ (s % 8)) * 8));
            }
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) mma_bf16(sums[i][j], x[i], y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1]);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int t = warp_t + i * 16 + half * 8 + lane / 4;
            if (t >= t_count) continue;
#pragma unroll
            for (int j = 0; j < 8; ++j)
#pragma unroll
                for (int l = 0; l < 2; ++l) {
                    int c = c0 + warp_c + j * 8 + lane % 4 * 2 + l;
                    if (c < d)
                        store_gated(out + (t0 + t) * out_stride + c, sums[i][j][half * 2 + l],
                                    r + (t0 + t) * r_stride + c);
                }
        }
}

// ---- One token ------------------------------------------------------------------------------------------------

// A warp a key.
template <typename T>
INLINE void score_one(const T* q, const T* keys, const float* query_bias, const float* key_bias, float scale,
                      float* scores, const int64_t* position, int first, int z_dim, int chunk) {
    previous_kernel_wait();
    next_kernel_start();
    const int place = place_of(position, first, chunk), s = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (s > place) return;
    keys += (int64_t)s * z_dim, key_bias += (int64_t)s * z_dim, query_bias += (int64_t)place * z_dim;
    float product = 0.0f, bias = 0.0f;
    for (int i = lane; i < z_dim; i += 32) {
        product = fmaf(load(q + i), load(keys + i), product);
        bias = fmaf(query_bias[i], key_bias[i], bias);
    }
    product = warp_sum(product), bias = warp_sum(bias);
    if (lane == 0) scores[s] = product * scale + bias;
}

constexpr int ONE_TILE = 16;

// A block owns 16 columns; V columns a thread, and keys in turn.
template <int V, typename T>
INLINE void value_columns(const float* p, float norm, const T* values, const T* r, T* out, int n, int d,
                          float* partial) {
    constexpr int ACROSS = ONE_TILE / V, DOWN = 256 / ACROSS;
    const int across = threadIdx.x % ACROSS * V, down = threadIdx.x / ACROSS, c0 = blockIdx.x * ONE_TILE;
    float sums[V];
#pragma unroll
    for (int l = 0; l < V; ++l) sums[l] = 0.0f;
    if (c0 + across < d) {
#pragma unroll 8
        for (int s = down; s < n; s += DOWN) {
            float x[V];
            load_vector(x, values + (int64_t)s * d + c0 + across);
#pragma unroll
            for (int l = 0; l < V; ++l) sums[l] = fmaf(p[s], x[l], sums[l]);
        }
    }
    // Sums of every 16th row, then of those.
#pragma unroll
    for (int l = 0; l < V; ++l) partial[down * ONE_TILE + across + l] = sums[l];
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < DOWN / 16; ++i) sum += partial[i * 256 + threadIdx.x];
    __syncthreads();
    partial[threadIdx.x] = sum;
    __syncthreads();
    const int c = c0 + threadIdx.x;
    if (threadIdx.x >= ONE_TILE || c >= d) return;
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; ++i) sum += partial[i * ONE_TILE + threadIdx.x];
    store_gated(out + c, sum * norm, r + c);
}

template <typename T>
INLINE void values_one(const float* scores, const T* values, const T* r, T* out, const int64_t* position, int first,
                       int d, int chunk) {
    DYNAMIC_SHARED(shared_bytes);
    float* const partial = (float*)shared_bytes; // (DOWN, 16), at most 128 x 16
    float* const p = partial + 2048;
    __shared__ float of_warps[8];
    previous_kernel_wait();
    next_kernel_start();
    const int n = place_of(position, first, chunk) + 1;
    float most = -3.402823466e38f, sum = 0.0f;
    for (int s = threadIdx.x; s < n; s += 256) most = fmaxf(most, p[s] = scores[s]);
    most = block_max(most, of_warps);
    for (int s = threadIdx.x; s < n; s += 256) sum += p[s] = expf(p[s] - most);
    const float norm = 1.0f / block_sum(sum, of_warps);
    constexpr int V = 16 / sizeof(T);
    if (d % V == 0)
        value_columns<V>(p, norm, values, r, out, n, d, partial);
    else
        value_columns<1>(p, norm, values, r, out, n, d, partial);
}

} // namespace

#define INSTANCES(T, suffix)                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) mega_prepare_##suffix(                                        \
        const T* z, int64_t z_stride, const T* v, int64_t v_stride, const float* gamma, const float* beta, T* q,    \
        T* keys, T* values, const int64_t* position, int first, int z_dim, int d, int chunk) {                      \
        prepare<T>(z, z_stride, v, v_stride, gamma, beta, q, keys, values, position, first, z_dim, d, chunk);       \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(256) mega_scores_##suffix(                                         \
        const T* q, const T* keys, const float* query_bias, const float* key_bias, float scale, float* scores,      \
        int64_t scores_stride, const int64_t* position, int first, int rows, int z_dim, int chunk) {                \
        score_tile<T>(q, keys, query_bias, key_bias, scale, scores, scores_stride, position, first, rows, z_dim,    \
                      chunk);                                                                                       \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                               \
        mega_softmax_##suffix(const float* scores, int64_t scores_stride, T* p, int64_t p_stride,                   \
                              const int64_t* position, int first, int rows, int chunk) {                            \
        softmax_row<T>(scores, scores_stride, p, p_stride, position, first, rows, chunk);                           \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(128, 2)                                                            \
        mega_values_##suffix(const T* p, int64_t p_stride, const T* values, const T* r, int64_t r_stride, T* out,   \
                             int64_t out_stride, const int64_t* position, int first, int rows, int d, int chunk) {  \
        value_tile(p, p_stride, values, r, r_stride, out, out_stride, position, first, rows, d, chunk);             \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(256) mega_score_one_##suffix(                                      \
        const T* q, const T* keys, const float* query_bias, const float* key_bias, float scale, float* scores,      \
        const int64_t* position, int first, int z_dim, int chunk) {                                                 \
        score_one<T>(q, keys, query_bias, key_bias, scale, scores, position, first, z_dim, chunk);                  \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                               \
        mega_values_one_##suffix(const float* scores, const T* values, const T* r, T* out, const int64_t* position, \
                                 int first, int d, int chunk) {                                                     \
        values_one<T>(scores, values, r, out, position, first, d, chunk);                                           \
    }

INSTANCES(float, f32)
INSTANCES(bf16_t, bf16)
