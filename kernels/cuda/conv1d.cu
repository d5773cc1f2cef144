// The depthwise causal convolution in front of the selective scan, SiLU after it, the last inputs carried along:
//
//     y[t,c] = silu(bias[c] + sum_j taps[j,c] x[t - (width - 1) + j, c])       with x[-k, c] = state[width - 1 - k, c]
//
//     conv1d_{f32,bf16}(x, x_stride, taps, bias, state, y, length, channels, width)             1 <= width <= 4
//     conv1d_wide_{f32,bf16}(the same)                                                           1 <= width <= 8
//       x      (length, channels) T, rows x_stride apart     taps   (width, channels) float32
//       y      (length, channels) T, dense                   bias   (channels) float32, or null for 0
//       state  (width - 1, channels) float32: the inputs before the first token, replaced by those before the token
//              after the last
//     T is float32 (exact) or bf16 (fast). length, channels >= 1.
//     Launch: grid (ceil(channels / 256), any number of runs), block 64, no dynamic shared memory.
//     Good numbers of runs: ceil(length / 50), 1 for decoding. A graph of length 1 may be replayed: nothing but memory
//     changes.
//     Any alignment is right. Full speed: channels, x and x_stride multiples of V elements.
//
// A thread owns V adjacent channels over one run of time and keeps the last inputs in registers. Who has run 0 also
// replaces the state, after reading it; no other run reads it, since runs have at least as many steps as the state.
#include "common.cuh"

template <typename T, int V, int WIDTH>
INLINE void conv1d(const T* __restrict__ x, int x_stride, const float* __restrict__ taps,
                   const float* __restrict__ bias, float* state, T* __restrict__ y, int length, int channels,
                   int width) {
    constexpr int AHEAD = sizeof(T) == 2 ? 6 : 8; // rows that are loaded before the first is used
    const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * V, valid = channels - channel;
    if (valid <= 0) return;
    const bool whole = valid >= V && is_aligned(x + channel, x_stride, V * sizeof(T)) &&
                       is_aligned(y + channel, channels, V * sizeof(T));
    const bool whole_f32 = valid >= V && channels % 4 == 0;
    auto row_f32 = [&](float (&to)[V], const float* p) {
        if (whole_f32) {
            load_vector(to, p + channel);
        } else {
#pragma unroll
            for (int v = 0; v < V; ++v) to[v] = v < valid ? p[channel + v] : 0.0f;
        }
    };

    // Shorter filters begin with taps of 0.
    float tap[WIDTH][V] = {}, start[V] = {};
#pragma unroll
    for (int j = 0; j < WIDTH; ++j)
        if (j >= WIDTH - width) row_f32(tap[j], taps + (int64_t)(j - (WIDTH - width)) * channels);
    if (bias) row_f32(start, bias);
    previous_kernel_wait();
    next_kernel_start();

    int run = max((length + (int)gridDim.y - 1) / (int)gridDim.y, WIDTH - 1);
    const int begin = blockIdx.y * run, end = min(begin + run, length);
    if (begin >= end) return;
    auto fetch = [&](Packed<T, V>& row, int t) {
        const T* p = x + (int64_t)t * x_stride + channel;
        if (whole) row.load_whole(p);
        else row.load_some(p, valid);
    };
    Packed<T, V> next[AHEAD] = {};
#pragma unroll
    for (int i = 0; i < AHEAD; ++i)
        if (begin + i < end) fetch(next[i], begin + i);
    float past[WIDTH][V] = {}; // [k]: the input of k + 1 steps before
#pragma unroll
    for (int k = 0; k < WIDTH - 1; ++k) {
        if (begin > k) {
            Packed<T, V> row;
            fetch(row, begin - 1 - k);
#pragma unroll
            for (int v = 0; v < V; ++v) past[k][v] = row[v];
        } else if (k < width - 1) {
            row_f32(past[k], state + (int64_t)(width - 2 - k) * channels);
        }
    }

    for (int t = begin; t < end; t += AHEAD) {
        Packed<T, V> now[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            now[i] = next[i];
            if (t + AHEAD + i < end) fetch(next[i], t + AHEAD + i);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            if (t + i >= end) break;
            float out[V];
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const float input = now[i][v];
                float sum = start[v];
#pragma unroll
                for (int j = 0; j < WIDTH - 1; ++j) sum += tap[j][v] * past[WIDTH - 2 - j][v];
                sum += tap[WIDTH - 1][v] * input;
#pragma unroll
                for (int k = WIDTH - 1; k > 0; --k) past[k][v] = past[k - 1][v];
                past[0][v] = input;
                if constexpr (sizeof(T) == 4) out[v] = silu(sum);
                else out[v] = sum * rcp_approx(1.0f + ex2_approx(-1.4426950408889634f * sum));
            }
            T* to = y + (int64_t)(t + i) * channels + channel;
            if (whole) {
                store_vector(to, out);
            } else {
#pragma unroll
                for (int v = 0; v < V; ++v)
                    if (v < valid) store(to + v, out[v]);
            }
        }
    }

    if (blockIdx.y == 0) {
        // Where there were fewer tokens than the state has rows, the old rows move up: row r is read before it is
        // written.
        for (int r = 0; r < width - 1; ++r) {
            const int t = length - (width - 1) + r;
            float* to = state + (int64_t)r * channels + channel;
            const T* from = x + (int64_t)t * x_stride + channel;
            for (int v = 0; v < V; ++v)
                if (v < valid) to[v] = t >= 0 ? load(from + v) : to[(int64_t)length * channels + v];
        }
    }
}

#define CONV1D(name, T, V, WIDTH)                                                                                      \
    extern "C" __global__ void __launch_bounds__(64)                                                                   \
    name(const T* x, int x_stride, const float* taps, const float* bias, float* state, T* y, int length, int channels, \
         int width) {                                                                                                  \
        conv1d<T, V, WIDTH>(x, x_stride, taps, bias, state, y, length, channels, width);                               \
    }
CONV1D(conv1d_f32, float, 4, 4)
CONV1D(conv1d_bf16, bf16_t, 4, 4)
CONV1D(conv1d_wide_f32, float, 4, 8)
CONV1D(conv1d_wide_bf16, bf16_t, 4, 8)
