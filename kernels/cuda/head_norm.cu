// RMSNorm where weights or places are those of PLaMo-2: every head with weights of its own, and what a mixer or MLP adds to
// the residual stream.
//
//   head_norm:  out[h] = x[h] scale weight[h],   scale = 1 / sqrt(mean(x[h]^2) + eps) over the channels of head h
//   norm_add:   r += y scale weight,             scale over the whole row
//
//   x, out  (L, cols) T, rows `*_stride` apart; out may be x
//   y       (L, d) T, rows `y_stride` apart        r  (L, d) float32, rows `r_stride` apart
//   weight  head_norm: (normed) float32, one for each of the first `normed` columns, whole heads; columns beyond are copied
//           norm_add: (d) float32
//
// Instances *_f32 (T float32) and *_bf16 (T bf16). Those of float32 sum in float64 and round where the CPU's twin rounds: the
// scale, then each product. Those of bf16 compute in float32.
//
//   kernel        grid                                block
//   head_norm_T   ceil(L * ceil(cols / head_dim) / 8) 256
//   norm_add_T    L                                   256
//
// No dynamic shared memory. Any L, cols, head_dim, d >= 1; any alignment.
#include "common.cuh"

namespace {

template <typename T> struct Exact {
    typedef float Sum;
};
template <> struct Exact<float> {
    typedef double Sum;
};

INLINE float scale_of(double squares, int n, float eps) { return (float)(1.0 / sqrt(squares / n + (double)eps)); }
INLINE float scale_of(float squares, int n, float eps) { return rsqrtf(squares / (float)n + eps); }

// x scale weight, rounded twice.
INLINE float scaled(float x, float scale, float weight) { return __fmul_rn(__fmul_rn(x, scale), weight); }

// A warp per head and token.
template <typename T>
INLINE void head_norm(const T* x, int64_t x_stride, const float* weight, float eps, T* out, int64_t out_stride, int rows,
                      int cols, int normed, int head_dim) {
    previous_kernel_wait();
    next_kernel_start();
    typedef typename Exact<T>::Sum Sum;
    const int heads = (cols + head_dim - 1) / head_dim, lane = threadIdx.x % 32;
    const int64_t index = (int64_t)blockIdx.x * 8 + threadIdx.x / 32, row = index / heads;
    const int first = (int)(index % heads) * head_dim, channels = min(head_dim, cols - first);
    if (row >= rows) return;
    x += row * x_stride + first, out += row * out_stride + first, weight += first;
    if (first >= normed) {
        for (int i = lane; i < channels; i += 32) out[i] = x[i];
        return;
    }
    Sum squares = 0;
    for (int i = lane; i < channels; i += 32) squares += (Sum)load(x + i) * (Sum)load(x + i);
    const float scale = scale_of(warp_sum(squares), channels, eps);
    for (int i = lane; i < channels; i += 32) store(out + i, scaled(load(x + i), scale, weight[i]));
}

template <typename T>
INLINE void norm_add(const T* y, int64_t y_stride, const float* weight, float eps, float* r, int64_t r_stride, int d) {
    previous_kernel_wait();
    next_kernel_start();
    typedef typename Exact<T>::Sum Sum;
    __shared__ Sum partial[8];
    y += blockIdx.x * y_stride, r += blockIdx.x * r_stride;
    Sum squares = 0;
    for (int i = threadIdx.x; i < d; i += 256) squares += (Sum)load(y + i) * (Sum)load(y + i);
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = squares;
    __syncthreads();
    Sum sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += partial[i];
    const float scale = scale_of(sum, d, eps);
    for (int i = threadIdx.x; i < d; i += 256) r[i] = __fadd_rn(r[i], scaled(load(y + i), scale, weight[i]));
}

} // namespace

#define INSTANCES(T, suffix)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                                                 \
        head_norm_##suffix(const T* x, int64_t x_stride, const float* weight, float eps, T* out, int64_t out_stride,  \
                           int rows, int cols, int normed, int head_dim) {                                            \
        head_norm<T>(x, x_stride, weight, eps, out, out_stride, rows, cols, normed, head_dim);                        \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) norm_add_##suffix(const T* y, int64_t y_stride,                 \
                                                                        const float* weight, float eps, float* r,     \
                                                                        int64_t r_stride, int d) {                    \
        norm_add<T>(y, y_stride, weight, eps, r, r_stride, d);                                                        \
    }

INSTANCES(float, f32)
INSTANCES(bf16_t, bf16)
