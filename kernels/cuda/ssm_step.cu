// One token of the selective scan, for decoding:
//
//     dt[c]  = softplus(dt_raw[c] + dt_bias[c])                    (the identity above 20)
//     h[n]   = exp(dt[c] A[c,n]) h[n] + dt[c] u[c] B[n]
//     y[c]   = sum_n C[n] h[n] + D[c] u[c]                         (times silu(z[c]) where there is z)
//
//     ssm_step_{f32,bf16}(u, dt_raw, dt_bias, a, b, c, d, z, state, y, channels, states)
//     ssm_step_{f32,bf16}_w{f32,bf16}(u, driven, w, dt_bias, a, d, z, state, y, rank, channels, states)
//       the latter with dt_raw = w driven[0 .. rank], B = driven[rank .. rank + states], C the `states` after those
//       u, dt_raw, z, y  (channels) T; z may be null          a        (channels, states) float32
//       b, c             (states) T                           dt_bias  (channels) float32, or null for 0
//       driven           (rank + 2 states) T                  d        (channels) float32, or null for 0
//       w                (channels, rank), float32 or bf16    state    (states, channels) float32, read and written
//     T is float32 (exact) or bf16 (fast). channels, states, rank >= 1.
//     Launch: grid ceil(channels / 16), block 128, no dynamic shared memory.
//     Any alignment is right. Full speed: rank a multiple of 8, w and driven 16-byte aligned.
//
// 8 lanes share a channel: its row of w, then its states.
// Order (programmatic dependent launch): all but dt_raw, b, c and driven is read before previous_kernel_wait. Hence the kernel
// right before in the stream must write none of it, or this one must be launched without the overlap.
#include "common.cuh"

constexpr int LANES = 8;
constexpr int AHEAD = 32 / LANES; // accesses to w that a lane begins before anything else

template <typename T> INLINE float softplus(float x) {
    if constexpr (sizeof(T) == 4) return x > 20.0f ? x : log1pf(expf(x));
    constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;
    float e = ex2_approx(x * LOG2_E);
    float y = e < 0.03125f ? e * (1.0f + e * (-0.5f + e * (1.0f / 3))) : LN_2 * lg2_approx(1.0f + e);
    return x > 20.0f ? x : y;
}

// Sum over the lanes of a channel, the same in all of them.
INLINE float channel_sum(float x) {
#pragma unroll
    for (int d = LANES / 2; d > 0; d >>= 1) x += __shfl_xor_sync(FULL_WARP, x, d);
    return x;
}

// From dt on. `rate`, `h`, `b` and `c` begin as those of this lane's first two states, loaded before.
template <typename T> struct Step {
    const float* a;
    float* state;
    int channels, states, channel, lane;
    bool valid;
    const T *b_row, *c_row;
    float rate[2], h[2], b[2], c[2];

    INLINE void load_rates(int n) {
#pragma unroll
        for (int i = 0; i < 2; ++i)
            rate[i] = valid && n + i * LANES < states ? a[(int64_t)channel * states + n + i * LANES] : 0.0f;
    }
    INLINE void load_states(int n) {
#pragma unroll
        for (int i = 0; i < 2; ++i)
            h[i] = valid && n + i * LANES < states ? state[(int64_t)(n + i * LANES) * channels + channel] : 0.0f;
    }
    INLINE void load_b_and_c(int n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int at = min(n + i * LANES, states - 1);
            b[i] = load(b_row + at), c[i] = load(c_row + at);
        }
    }
    // sum_n C[n] h[n] after the step, in all lanes.
    INLINE float advance(float dt, float u) {
        float sum = 0.0f;
        for (int n = lane; n < states; n += 2 * LANES) {
            if (n != lane) load_rates(n), load_states(n), load_b_and_c(n);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int at = n + i * LANES;
                if (at < states) {
                    float decay = sizeof(T) == 4 ? expf(dt * rate[i]) : ex2_approx(dt * rate[i] * 1.4426950408889634f);
                    float after = decay * h[i] + dt * u * b[i];
                    if (valid) state[(int64_t)at * channels + channel] = after;
                    sum += after * c[i];
                }
            }
        }
        return channel_sum(sum);
    }
};

template <typename T, typename W>
INLINE void ssm_step(const T* __restrict__ u, const T* __restrict__ dt_raw, const T* __restrict__ driven,
                     const W* __restrict__ w, const float* __restrict__ dt_bias, const float* __restrict__ a,
                     const T* b, const T* c, const float* __restrict__ d, const T* __restrict__ z, float* state,
                     T* __restrict__ y, int rank, int channels, int states) {
    constexpr int V = 16 / sizeof(W); // of w in an access
    const int lane = threadIdx.x % LANES, channel = (blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    const bool valid = channel < channels;
    const int row = valid ? channel : channels - 1;
    Step<T> step = {a, state, channels, states, channel, lane, valid, b, c};
    step.load_rates(lane);
    const float bias = dt_bias ? dt_bias[row] : 0.0f, skip = d ? d[row] : 0.0f;

    const W* weights = w + (int64_t)row * rank;
    const bool whole = w && is_aligned(w, rank, 16) && is_aligned(driven, 0, 16);
    Packed<W, V> ahead[AHEAD];
    if (w && whole) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int at = (i * LANES + lane) * V;
            if (at < rank) ahead[i].load_whole(weights + at);
        }
    }
    step.load_states(lane);
    const float input = load(u + row), gate = z ? load(z + row) : 0.0f;
    previous_kernel_wait();
    next_kernel_start();
    step.load_b_and_c(lane);

    float dt;
    if (w) {
        float sum = 0.0f;
        if (whole) {
            auto add = [&](const Packed<W, V>& part, int at) {
                float x[V];
                load_vector(x, driven + at);
#pragma unroll
                for (int v = 0; v < V; ++v) sum += part[v] * x[v];
            };
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                const int at = (i * LANES + lane) * V;
                if (at < rank) add(ahead[i], at);
            }
            for (int at = (AHEAD * LANES + lane) * V; at < rank; at += LANES * V) {
                Packed<W, V> part;
                part.load_whole(weights + at);
                add(part, at);
            }
        } else {
            for (int at = lane; at < rank; at += LANES) sum += load(weights + at) * load(driven + at);
        }
        dt = channel_sum(sum);
    } else {
        dt = load(dt_raw + row);
    }
    dt = softplus<T>(dt + bias);

    float out = step.advance(dt, input) + skip * input;
    if (z) {
        if constexpr (sizeof(T) == 4) out *= silu(gate);
        else out *= gate * rcp_approx(1.0f + ex2_approx(-1.4426950408889634f * gate));
    }
    if (lane == 0 && valid) store(y + channel, out);
}

#define SSM_STEP(name, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
    name(const T* u, const T* dt_raw, const float* dt_bias, const float* a, const T* b, const T* c, const float* d,    \
         const T* z, float* state, T* y, int channels, int states) {                                                   \
        ssm_step<T, T>(u, dt_raw, nullptr, nullptr, dt_bias, a, b, c, d, z, state, y, 0, channels, states);            \
    }
#define SSM_STEP_W(name, T, W)                                                                                         \
    extern "C" __global__ void __launch_bounds__(128)                                                                  \
    name(const T* u, const T* driven, const W* w, const float* dt_bias, const float* a, const float* d, const T* z,    \
         float* state, T* y, int rank, int channels, int states) {                                                     \
        ssm_step<T, W>(u, nullptr, driven, w, dt_bias, a, driven + rank, driven + rank + states, d, z, state, y, rank, \
                       channels, states);                                                                              \
    }
SSM_STEP(ssm_step_f32, float)
SSM_STEP(ssm_step_bf16, bf16_t)
SSM_STEP_W(ssm_step_f32_wf32, float, float)
SSM_STEP_W(ssm_step_f32_wbf16, float, bf16_t)
SSM_STEP_W(ssm_step_bf16_wf32, bf16_t, float)
SSM_STEP_W(ssm_step_bf16_wbf16, bf16_t, bf16_t)
