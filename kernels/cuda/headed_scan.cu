// The selective scan of PLaMo-2, whose step size, A and D are one number a head; one token or many:
//
//     dt       = softplus(dt_raw[t, m] + dt_bias[m])                         (the identity above 20)
//     h[p, n]  = exp(dt a[m]) h[p, n] + dt b[t, n] u[t, m, p]
//     y[t,m,p] = (sum_n c[t, n] h[p, n] + d[m] u[t, m, p]) silu(gate[t, m, p])
//
//   u, gate, y  (L, heads * head_dim) T        dt_bias, a, d  (heads) float32
//   dt_raw      (L, heads) T                   b, c           (L, states) T
//   state       (heads, head_dim, states) float32, read and written
//   Rows are `*_stride` apart.
//
// headed_scan_{f32,bf16}_n{16,64,128}: states up to the number in the name.
// Launch: grid (ceil(head_dim / 16), heads), block 128, no dynamic shared memory. Any L, heads, head_dim >= 1; any alignment.
//
// 8 lanes share a channel and keep its states in registers. Tokens come in groups of TOKENS: what all channels of the head
// use is put into shared memory first.
#include "common.cuh"

namespace {

constexpr int LANES = 8, CHANNELS = 16, TOKENS = 16, THREADS = LANES * CHANNELS;

INLINE float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

// S states a lane.
template <typename T, int S>
INLINE void headed_scan(const T* u, int64_t u_stride, const T* dt_raw, int64_t dt_stride, const T* b, int64_t b_stride,
                        const T* c, int64_t c_stride, const T* gate, int64_t gate_stride, const float* dt_bias,
                        const float* a, const float* d, float* state, T* y, int64_t y_stride, int rows, int head_dim,
                        int states) {
    constexpr int N = LANES * S, TOGETHER = S > 8 ? 1 : 2; // tokens under way
    __shared__ float driven[TOKENS][N], read[TOKENS][N], decay[TOKENS], inputs[TOKENS][CHANNELS];
    const int head = blockIdx.y, lane = threadIdx.x % LANES, place = threadIdx.x / LANES;
    const int first = blockIdx.x * CHANNELS, channel = first + place;
    const bool valid = channel < head_dim;
    const float bias = dt_bias[head], rate = a[head], skip = d[head];
    previous_kernel_wait();
    next_kernel_start();
    u += head * head_dim, gate += head * head_dim, y += head * head_dim;
    float* own = state + ((int64_t)head * head_dim + channel) * states + lane * S;
    float h[S];
#pragma unroll
    for (int i = 0; i < S; ++i) h[i] = valid && lane * S + i < states ? own[i] : 0.0f;
    for (int start = 0; start < rows; start += TOKENS) {
        const int count = min(TOKENS, rows - start);
        __syncthreads(); // the group before is done with
        for (int i = threadIdx.x; i < count * N; i += THREADS) {
            const int t = i / N, n = i % N;
            const int64_t token = start + t;
            const float dt = softplus(load(dt_raw + token * dt_stride + head) + bias);
            driven[t][n] = n < states ? dt * load(b + token * b_stride + n) : 0.0f;
            read[t][n] = n < states ? load(c + token * c_stride + n) : 0.0f;
            if (n == 0) decay[t] = expf(dt * rate);
        }
        for (int i = threadIdx.x; i < count * CHANNELS; i += THREADS) {
            const int t = i / CHANNELS, p = first + i % CHANNELS;
            inputs[t][i % CHANNELS] = p < head_dim ? load(u + (start + t) * u_stride + p) : 0.0f;
        }
        __syncthreads();
#pragma unroll TOGETHER
        for (int t = 0; t < count; ++t) {
            const float x = inputs[t][place], forget = decay[t];
            float sum = 0.0f;
#pragma unroll
            for (int i = 0; i < S; ++i) {
                h[i] = forget * h[i] + driven[t][lane * S + i] * x;
                sum += h[i] * read[t][lane * S + i];
            }
#pragma unroll
            for (int mask = LANES / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, mask);
            // Each lane finishes a token of its own in turn.
            if (valid && t % LANES == lane) {
                const float z = load(gate + (start + t) * gate_stride + channel);
                store(y + (start + t) * y_stride + channel, (sum + skip * x) * silu(z));
            }
        }
    }
#pragma unroll
    for (int i = 0; i < S; ++i)
        if (valid && lane * S + i < states) own[i] = h[i];
}

} // namespace

#define HEADED_SCAN(T, suffix, N)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS) headed_scan_##suffix##_n##N(                                     \
        const T* u, int64_t u_stride, const T* dt_raw, int64_t dt_stride, const T* b, int64_t b_stride, const T* c,        \
        int64_t c_stride, const T* gate, int64_t gate_stride, const float* dt_bias, const float* a, const float* d,        \
        float* state, T* y, int64_t y_stride, int rows, int head_dim, int states) {                                        \
        headed_scan<T, N / LANES>(u, u_stride, dt_raw, dt_stride, b, b_stride, c, c_stride, gate, gate_stride, dt_bias, a, \
                                  d, state, y, y_stride, rows, head_dim, states);                                          \
    }
HEADED_SCAN(float, f32, 16)
HEADED_SCAN(float, f32, 64)
HEADED_SCAN(float, f32, 128)
HEADED_SCAN(bf16_t, bf16, 16)
HEADED_SCAN(bf16_t, bf16, 64)
HEADED_SCAN(bf16_t, bf16, 128)
