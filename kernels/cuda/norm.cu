// Norms of the residual stream, and the gated norm per head of linear attention.
//
//   rms_norm:        out = x scale weight,                 scale = 1 / sqrt(mean(x^2) + eps)
//   layer_norm:      out = (x - mean) scale weight + bias, scale = 1 / sqrt(mean((x - mean)^2) + eps)
//   gated_head_norm: out = silu(gate) (o scale weight), scale over the `values` channels of a head of o
//
//   x       (L, d) float32, rows `x_stride` apart
//   weight  (d) float32; for gated_head_norm (values), the same for all heads
//   bias    (d) float32, or null; layer_norm only
//   out     (L, d) T, rows `out_stride` apart; not x
//   o, gate (L, heads * values) T, rows `*_stride` apart; out of gated_head_norm like them, and may be either
//
// Instances *_f32 (T float32) and *_bf16 (T bf16). Those of float32 sum in float64 and round where the CPU's twin
// rounds: the scale, then each product. Those of bf16 compute in float32.
//
//   kernel                                       grid                  block
//   {rms,layer}_norm_T                           L                     a multiple of 32, up to 256; best about d / 14
//   gated_head_norm_T                            ceil(L * heads / 8)   256
//
// No dynamic shared memory.
//
// Any L, d, heads, values >= 1. Norms read 4 numbers at a time where d is a multiple of 4 and all matrices start, and
// have strides, at multiples of 4 numbers; gated_head_norm 16 bytes at a time where values and all strides are
// multiples of that and all matrices start 16-byte aligned; else one number at a time. A row is read from memory once
// up to d = 16 * block (values = 512), then twice or thrice.
#include "common.cuh"

namespace {

// Numbers of a row that a thread keeps in registers.
constexpr int KEPT = 16;

// In what a norm of activations T computes.
template <typename T> struct Exact {
    typedef float Sum;
};
template <> struct Exact<float> {
    typedef double Sum;
};

// Sum over the block, the same in all threads. `partial` is for one call.
template <typename Sum> INLINE Sum block_sum(Sum x, Sum* partial) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    Sum sum = partial[0];
    for (unsigned i = 1; i < blockDim.x / 32; ++i) sum += partial[i];
    return sum;
}

// A row spread over THREADS = blockDim.x or 32 threads, V adjacent numbers each in turn: the first ones kept, the rest
// read again in each pass.
template <int V> struct Row {
    float kept[KEPT / V][V];

    // fill(i, x): loads numbers i .. i + V.
    template <typename Fill> INLINE void load(int d, int thread, int threads, Fill fill) {
#pragma unroll
        for (int j = 0; j < KEPT / V; ++j) {
            int i = (j * threads + thread) * V;
            if (i < d) fill(i, kept[j]);
        }
    }
    // f(i, x) for each V numbers of this thread.
    template <typename Fill, typename F> INLINE void each(int d, int thread, int threads, Fill fill, F f) {
#pragma unroll
        for (int j = 0; j < KEPT / V; ++j) {
            int i = (j * threads + thread) * V;
            if (i < d) f(i, kept[j]);
        }
        for (int i = (KEPT / V * threads + thread) * V; i < d; i += threads * V) {
            float x[V];
            fill(i, x);
            f(i, x);
        }
    }
};

// The scale of a row and its product with the weight, in the roundings of the CPU's twin.
template <typename Sum> INLINE float scale_of(Sum squares, int d, float eps);
template <> INLINE float scale_of(double squares, int d, float eps) {
    return (float)(1.0 / sqrt(squares / d + (double)eps));
}
template <> INLINE float scale_of(float squares, int d, float eps) { return 1.0f / sqrtf(squares / (float)d + eps); }

template <typename T, int V, bool LAYER>
INLINE void norm_row(const float* x, const float* weight, const float* bias, float eps, T* out, int d,
                     typename Exact<T>::Sum (&partial)[2][8]) {
    typedef typename Exact<T>::Sum Sum;
    const int thread = threadIdx.x, threads = blockDim.x;
    Row<V> row;
    auto fill = [&](int i, float (&v)[V]) { load_vector(v, x + i); };
    row.load(d, thread, threads, fill);

    Sum mean = 0;
    if (LAYER) {
        Sum sum = 0;
        row.each(d, thread, threads, fill, [&](int, const float (&v)[V]) {
#pragma unroll
            for (int l = 0; l < V; ++l) sum += v[l];
        });
        mean = block_sum(sum, partial[0]) / d;
    }
    Sum squares = 0;
    row.each(d, thread, threads, fill, [&](int, const float (&v)[V]) {
#pragma unroll
        for (int l = 0; l < V; ++l) squares += ((Sum)v[l] - mean) * ((Sum)v[l] - mean);
    });
    squares = block_sum(squares, partial[1]);

    if (LAYER) {
        const Sum scale = (Sum)1 / sqrt(squares / d + (Sum)eps);
        row.each(d, thread, threads, fill, [&](int i, const float (&v)[V]) {
            float w[V], b[V];
            load_vector(w, weight + i);
            if (bias) load_vector(b, bias + i);
#pragma unroll
            for (int l = 0; l < V; ++l) {
                w[l] = __fmul_rn((float)(((Sum)v[l] - mean) * scale), w[l]);
                if (bias) w[l] = __fadd_rn(w[l], b[l]);
            }
            store_vector(out + i, w);
        });
    } else {
        const float scale = scale_of(squares, d, eps);
        row.each(d, thread, threads, fill, [&](int i, const float (&v)[V]) {
            float w[V];
            load_vector(w, weight + i);
#pragma unroll
            for (int l = 0; l < V; ++l) w[l] *= v[l] * scale;
            store_vector(out + i, w);
        });
    }
}

template <typename T, bool LAYER>
INLINE void norm(const float* x, int64_t x_stride, const float* weight, const float* bias, float eps, T* out,
                 int64_t out_stride, int d) {
    previous_kernel_wait();
    next_kernel_start();
    const bool aligned = d % 4 == 0 && is_aligned(x, x_stride, 16) && is_aligned(out, out_stride, 4 * sizeof(T)) &&
                         is_aligned(weight, 0, 16) && is_aligned(bias, 0, 16);
    x += blockIdx.x * x_stride;
    out += blockIdx.x * out_stride;
    __shared__ typename Exact<T>::Sum partial[2][8];
    if (aligned)
        norm_row<T, 4, LAYER>(x, weight, bias, eps, out, d, partial);
    else
        norm_row<T, 1, LAYER>(x, weight, bias, eps, out, d, partial);
}

template <typename T> INLINE float silu_in(float x) { return silu(x); }
template <> INLINE float silu_in<bf16_t>(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

// A warp per head and token.
template <typename T, int V>
INLINE void gated_head(const T* o, const T* gate, const float* weight, float eps, T* out, int values, int lane) {
    typename Exact<T>::Sum squares = 0;
    Row<V> row;
    auto fill = [&](int i, float (&v)[V]) { load_vector(v, o + i); };
    row.load(values, lane, 32, fill);
    row.each(values, lane, 32, fill, [&](int, const float (&v)[V]) {
#pragma unroll
        for (int l = 0; l < V; ++l) squares += (typename Exact<T>::Sum)v[l] * v[l];
    });
    const float scale = scale_of(warp_sum(squares), values, eps);
    row.each(values, lane, 32, fill, [&](int i, const float (&v)[V]) {
        float w[V], g[V];
        load_vector(w, weight + i);
        load_vector(g, gate + i);
#pragma unroll
        for (int l = 0; l < V; ++l) g[l] = silu_in<T>(g[l]) * (v[l] * scale * w[l]);
        store_vector(out + i, g);
    });
}

template <typename T>
INLINE void gated_heads(const T* o, int64_t o_stride, const T* gate, int64_t gate_stride, const float* weight,
                        float eps, T* out, int64_t out_stride, int rows, int heads, int values) {
    previous_kernel_wait();
    next_kernel_start();
    const int64_t index = (int64_t)blockIdx.x * 8 + threadIdx.x / 32, row = index / heads, head = index % heads;
    if (row >= rows) return;
    constexpr int V = 16 / sizeof(T);
    const bool aligned = values % V == 0 && is_aligned(o, o_stride, 16) && is_aligned(gate, gate_stride, 16) &&
                         is_aligned(out, out_stride, 16) && is_aligned(weight, 0, 16);
    o += row * o_stride + head * values;
    gate += row * gate_stride + head * values;
    out += row * out_stride + head * values;
    if (aligned)
        gated_head<T, V>(o, gate, weight, eps, out, values, threadIdx.x % 32);
    else
        gated_head<T, 1>(o, gate, weight, eps, out, values, threadIdx.x % 32);
}

} // namespace

#define INSTANCES(T, suffix)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256, 3) rms_norm_##suffix(                                       \
        const float* x, int64_t x_stride, const float* weight, float eps, T* out, int64_t out_stride, int d) {    \
        norm<T, false>(x, x_stride, weight, nullptr, eps, out, out_stride, d);         \
    }                                                                                                             \
    extern "C" __global__ void __launch_bounds__(256, 1)                                                          \
        layer_norm_##suffix(const float* x, int64_t x_stride, const float* weight, const float* bias, float eps,  \
                            T* out, int64_t out_stride, int d) {                                                  \
        norm<T, true>(x, x_stride, weight, bias, eps, out, out_stride, d);             \
    }                                                                                                             \
    extern "C" __global__ void __launch_bounds__(256, 3) gated_head_norm_##suffix(                                \
        const T* o, int64_t o_stride, const T* gate, int64_t gate_stride, const float* weight, float eps, T* out, \
        int64_t out_stride, int rows, int heads, int values) {                                                    \
        gated_heads<T>(o, o_stride, gate, gate_stride, weight, eps, out, out_stride, rows, heads, values);        \
    }

INSTANCES(float, f32)
INSTANCES(bf16_t, bf16)
