// What differential attention has around softmax attention. Heads 2 j and 2 j + 1 are a pair.
//
//   spread_pairs:       out = [sqrt(2) x_0, 0], [0, sqrt(2) x_1], [sqrt(2) x_2, 0], ..., rest
//                       every head twice as wide, so that it meets its own key in a pair of keys that is one head to the
//                       attention; the root makes up for the wider head that scores are divided by the root of
//   differential_norm:  out[j] = e scale weight,   e = o[2 j] - lambda o[2 j + 1],   scale = 1 / sqrt(mean(e^2) + eps)
//
//   x       (L, heads * head_dim + rest) T           o       (L, pairs * 2 * width) T
//   out     (L, heads * 2 * head_dim + rest) T       out     (L, pairs * width) T
//                                                    weight  (width) float32, the same for all pairs
//   Rows are `*_stride` apart; out is neither x nor o.
//
// Instances *_f32 (T float32) and *_bf16 (T bf16). differential_norm of float32 sums in float64 and rounds where the CPU's
// twin rounds; of bf16 it computes in float32.
//
//   kernel                grid                       block
//   spread_pairs_T        (ceil(columns of out / 1024), L)   256
//   differential_norm_T   ceil(L * pairs / 8)        256
//
// No dynamic shared memory. Any sizes >= 1, rest >= 0; any alignment.
#include "common.cuh"

namespace {

template <typename T> struct Exact {
    typedef float Sum;
};
template <> struct Exact<float> {
    typedef double Sum;
};

template <typename T>
INLINE void spread_pairs(const T* x, int64_t x_stride, T* out, int64_t out_stride, int heads, int head_dim, int rest) {
    previous_kernel_wait();
    next_kernel_start();
    x += blockIdx.y * x_stride, out += blockIdx.y * out_stride;
    const int spread = heads * 2 * head_dim;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const int i = blockIdx.x * 1024 + k * 256 + threadIdx.x;
        if (i >= spread + rest) return;
        if (i >= spread) {
            out[i] = x[i - spread + heads * head_dim];
            continue;
        }
        // Halves of wide heads: 0 own, 1 empty, 2 empty, 3 own, and again.
        const int half = i / head_dim, head = half / 2;
        const bool own = half % 2 == head % 2;
        store(out + i, own ? load(x + head * head_dim + i % head_dim) * 1.41421356237f : 0.0f);
    }
}

// A warp per pair and token.
template <typename T>
INLINE void differential_norm(const T* o, int64_t o_stride, float lambda, const float* weight, float eps, T* out,
                              int64_t out_stride, int rows, int pairs, int width) {
    previous_kernel_wait();
    next_kernel_start();
    typedef typename Exact<T>::Sum Sum;
    const int lane = threadIdx.x % 32;
    const int64_t index = (int64_t)blockIdx.x * 8 + threadIdx.x / 32, row = index / pairs, pair = index % pairs;
    if (row >= rows) return;
    o += row * o_stride + pair * 2 * width, out += row * out_stride + pair * width;
    auto difference = [&](int i) { return __fsub_rn(load(o + i), __fmul_rn(lambda, load(o + width + i))); };
    Sum squares = 0;
    for (int i = lane; i < width; i += 32) squares += (Sum)difference(i) * (Sum)difference(i);
    const Sum mean = warp_sum(squares) / width + (Sum)eps;
    const float scale = (float)((Sum)1 / sqrt(mean));
    for (int i = lane; i < width; i += 32) store(out + i, __fmul_rn(__fmul_rn(difference(i), scale), weight[i]));
}

} // namespace

#define INSTANCES(T, suffix)                                                                                           \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        spread_pairs_##suffix(const T* x, int64_t x_stride, T* out, int64_t out_stride, int heads, int head_dim,       \
                              int rest) {                                                                              \
        spread_pairs<T>(x, x_stride, out, out_stride, heads, head_dim, rest);                                          \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                  \
        differential_norm_##suffix(const T* o, int64_t o_stride, float lambda, const float* weight, float eps, T* out, \
                                   int64_t out_stride, int rows, int pairs, int width) {                               \
        differential_norm<T>(o, o_stride, lambda, weight, eps, out, out_stride, rows, pairs, width);                   \
    }

INSTANCES(float, f32)
INSTANCES(bf16_t, bf16)
