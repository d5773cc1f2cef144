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
//     Good numbers of runs: so many that all blocks are there at once, 8 on each multiprocessor, while runs are not long;
//     1 for decoding.
//     A graph of length 1 may be replayed: nothing but memory changes.
//     Any alignment is right. Full speed: 16 bytes divide x, y and what lies between their rows; so do they taps, bias
//     and state.
//
// A warp owns 128 channels, four a lane, over one run of time. Its rows come through a ring in shared memory, asked for in
// groups: that keeps much under way in few registers, so that the blocks of the next launch come up beside those of this
// one. A lane keeps the inputs that the next step needs in registers. Nobody reads x after this kernel, but y at once, so x
// is the first to leave L2.
//
//     ring   | group worked on | groups under way ... | asked for again once all lanes have left it
//
// Who has run 0 also replaces the state, after reading it; no other run reads it, since run 0 has at least as many steps
// as the state where there are others.
#include "common.cuh"

constexpr int WARPS = 2;             // of a block
constexpr int GROUP = 4, GROUPS = 4; // rows asked for together, groups in a ring
// Blocks of a multiprocessor, those of two launches together, that there are registers for in fast mode.
constexpr int BLOCKS = 16;
constexpr int V = 4;         // channels of a lane
constexpr int LINE = 32 * V; // channels of a warp

// A warp's part of the work. ALIGNED: 16 bytes divide what the head of this file says, and y is aligned as x is.
template <bool ALIGNED, int WIDTH, typename T>
INLINE void conv1d(T (&ring)[GROUPS][GROUP][LINE], const T* __restrict__ x, int x_stride,
                   const float* __restrict__ taps, const float* __restrict__ bias, float* state, T* __restrict__ y,
                   int length, int channels, int width) {
    const int lane = threadIdx.x % 32, first = (blockIdx.x * WARPS + threadIdx.x / 32) * LINE;
    // Lanes after the last channel do what the last lane does, but for the state.
    const int valid = channels - first - lane * V, channel = first + lane * V + (ALIGNED ? min(valid - V, 0) : 0);
    auto row_f32 = [&](float (&to)[V], const float* p) {
        if constexpr (ALIGNED) {
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
    // silu(x) = x / (1 + 2^z) = z / (s + s 2^z) with z = s x
    constexpr float s = sizeof(T) == 2 ? -1.4426950408889634f : 1.0f;
#pragma unroll
    for (int v = 0; v < V; ++v) {
        start[v] *= s;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) tap[j][v] *= s;
    }
    // Runs of whole groups, except for the last group, so that all but the last have at least as many tokens as the state.
    const int groups = (length + GROUP - 1) / GROUP, run = blockIdx.y;
    const int runs = max(min((int)gridDim.y, groups / ((WIDTH + GROUP - 2) / GROUP)), 1);
    const int begin = GROUP * (run * (groups / runs) + min(run, groups % runs));
    const int end = min(begin + GROUP * (groups / runs + (run < groups % runs)), length);
    previous_kernel_wait();
    next_kernel_start();
    if (run >= runs) return;

    // The ring is filled in pieces of 16 bytes, any lane's by any; unaligned, by each lane with its own channels.
    constexpr int PIECE = ALIGNED ? 16 / sizeof(T) : V, PIECES = LINE / PIECE; // channels of a piece, pieces of a row
    const int row = lane / PIECES, column = lane % PIECES * PIECE;
    const T* from = x + (int64_t)(begin + row) * x_stride + first + column;
    int left = first + column < channels ? end - begin - row : 0; // rows from there on
    auto ask = [&](int group) {
        T* to = &ring[group][row][column];
        if constexpr (ALIGNED) {
#pragma unroll
            for (int i = 0; i < GROUP; i += 32 / PIECES)
                if (i < left) copy_async16_once(to + i * LINE, from + (int64_t)i * x_stride);
        } else {
#pragma unroll 1
            for (int i = 0; i < min(GROUP, left); ++i)
#pragma unroll
                for (int v = 0; v < V; ++v)
                    if (v < valid) to[i * LINE + v] = from[(int64_t)i * x_stride + v];
        }
        copy_async_commit();
        from += (int64_t)GROUP * x_stride;
        left -= GROUP;
    };
    auto fetch = [&](int t) {
        Packed<T, V> inputs;
        const T* p = x + (int64_t)t * x_stride + channel;
        if constexpr (ALIGNED) inputs.load_whole(p);
        else inputs.load_some(p, valid);
        return inputs;
    };
    auto replace_state = [&](int k, const float (&input)[V]) {
        float* to = state + (int64_t)(width - 2 - k) * channels + channel;
#pragma unroll
        for (int v = 0; v < V; ++v)
            if (v < valid) to[v] = input[v];
    };

    float past[WIDTH - 1][V] = {}; // [k]: the input of k + 1 steps before
    Packed<T, V> inputs[WIDTH - 1];
    if (run > 0) {
#pragma unroll
        for (int k = 0; k < WIDTH - 1; ++k) inputs[k] = fetch(begin - 1 - k);
    }
#pragma unroll 1
    for (int g = 0; g < GROUPS - 1; ++g) ask(g);
    auto unpack = [&](float (&to)[V], const Packed<T, V>& packed) {
#pragma unroll
        for (int v = 0; v < V; ++v) to[v] = packed[v];
    };
    if (run > 0) {
#pragma unroll
        for (int k = 0; k < WIDTH - 1; ++k) unpack(past[k], inputs[k]);
    } else {
#pragma unroll
        for (int k = 0; k < WIDTH - 1; ++k)
            if (k < width - 1) row_f32(past[k], state + (int64_t)(width - 2 - k) * channels);
        if (runs > 1) {
            // While rows are under way anyway: at the end it would be waited for.
#pragma unroll
            for (int k = 0; k < WIDTH - 1; ++k) inputs[k] = fetch(length - 1 - k);
            __syncwarp(); // lanes after the last channel have read the state, too
#pragma unroll
            for (int k = 0; k < WIDTH - 1; ++k) {
                float last[V];
                unpack(last, inputs[k]);
                if (k < width - 1) replace_state(k, last);
            }
        }
    }

    T* to = y + (int64_t)begin * channels + channel;
    for (int rows = end - begin, group = 0; rows > 0; rows -= GROUP) {
        copy_async_wait<GROUPS - 2>();
        __syncwarp(); // this group is there for all lanes, and all have left the one before
        ask(group == 0 ? GROUPS - 1 : group - 1);
        const T* own = &ring[group][0][channel - first];
        auto step = [&](int i) {
            Packed<T, V> input;
            input.load_whole(own + i * LINE);
            float out[V];
#pragma unroll
            for (int v = 0; v < V; ++v) {
                float sum = start[v];
#pragma unroll
                for (int j = 0; j < WIDTH - 1; ++j) sum += tap[j][v] * past[WIDTH - 2 - j][v];
                sum += tap[WIDTH - 1][v] * input[v];
#pragma unroll
                for (int k = WIDTH - 2; k > 0; --k) past[k][v] = past[k - 1][v];
                past[0][v] = input[v];
                if constexpr (sizeof(T) == 4) out[v] = silu(sum);
                else out[v] = sum * rcp_approx(s + s * ex2_approx(sum));
            }
            if constexpr (ALIGNED) {
                store_vector(to, out);
            } else {
#pragma unroll
                for (int v = 0; v < V; ++v)
                    if (v < valid) store(to + v, out[v]);
            }
            to += channels;
        };
        if (ALIGNED && rows >= GROUP) {
#pragma unroll
            for (int i = 0; i < GROUP; ++i) step(i);
        } else {
#pragma unroll 1
            for (int i = 0; i < min(rows, GROUP); ++i) step(i);
        }
        group = group == GROUPS - 1 ? 0 : group + 1;
    }
    if (runs == 1) {
#pragma unroll
        for (int k = 0; k < WIDTH - 1; ++k)
            if (k < width - 1) replace_state(k, past[k]);
    }
}

#define CONV1D(name, T, WIDTH, blocks)                                                                                 \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, blocks)                                                   \
    name(const T* x, int x_stride, const float* taps, const float* bias, float* state, T* y, int length, int channels, \
         int width) {                                                                                                  \
        __shared__ __align__(16) T rings[WARPS][GROUPS][GROUP][LINE];                                                  \
        auto& ring = rings[threadIdx.x / 32];                                                                          \
        if ((blockIdx.x * WARPS + threadIdx.x / 32) * LINE >= channels) return;                                        \
        if (is_aligned(x, x_stride, 16) && is_aligned(y, channels, 16) && is_aligned(taps, 0, 16))                     \
            conv1d<true, WIDTH>(ring, x, x_stride, taps, bias, state, y, length, channels, width);                     \
        else conv1d<false, WIDTH>(ring, x, x_stride, taps, bias, state, y, length, channels, width);                   \
    }
CONV1D(conv1d_f32, float, 4, 1)
CONV1D(conv1d_bf16, bf16_t, 4, BLOCKS)
CONV1D(conv1d_wide_f32, float, 8, 1)
CONV1D(conv1d_wide_bf16, bf16_t, 8, 1)
