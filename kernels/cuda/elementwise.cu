// Operations on single numbers: out[t][i] = f(x[t][i], ...) for L rows of n numbers, each matrix a view with rows
// `*_stride` apart.
//
//   kernel            out, x, ...                      f
//   add_T             x float32, y T                   x += y, in place
//   silu_T            out T, x T                       silu(x)
//   silu_times_T      out T, gate T, up T              silu(gate) up
//   decay_gate_T      out float32, x T                 sigmoid(x)^(1/16), the decay of gated linear attention
//   mega_gate_T       out T, u T, h T, x T, r float32  sigmoid(u) (silu(h + x) - r)
//   copy_T            out T, x T                       x
//   subtract_f32      out, a, b float32                a - b
//   f32_to_bf16       out bf16, x float32              x
//   bf16_to_f32       out float32, x bf16              x
//
// T is float32 (*_f32) or bf16 (*_bf16; computed in float32). out may be one of the inputs.
//
// Launch: block 256; any grid, each thread takes several pieces if it has to. One piece a thread is grid = ceil(L n /
// 1024) for f32 and ceil(L n / 2048) for bf16. No dynamic shared memory.
//
// Any L, n >= 1 (L n < 2^53). 16-byte accesses where n and all strides are multiples of 8 (f32: 4) and all starts
// 16-byte aligned, else one number at a time. Matrices without gaps between rows are best given as a single row.
#include "common.cuh"

namespace {

template <typename T> struct View {
    T* start;
    int64_t stride;
};

template <int V> struct Piece {
    float x[V];
};

template <int V, typename T> INLINE Piece<V> piece(View<T> view, int64_t row, int i) {
    Piece<V> p;
    load_vector(p.x, view.start + row * view.stride + i);
    return p;
}

template <int V, typename F, typename... P> INLINE Piece<V> combine(F f, const P&... p) {
    Piece<V> y;
#pragma unroll
    for (int l = 0; l < V; ++l) y.x[l] = f(p.x[l]...);
    return y;
}

template <int V, typename F, typename Out, typename... In>
INLINE void map_pieces(F f, int rows, int n, View<Out> out, View<In>... in) {
    const unsigned per_row = (unsigned)n / V;
    const uint64_t total = (uint64_t)rows * per_row, threads = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t p = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; p < total; p += threads) {
        // A 32-bit division where that does: the other takes some hundred instructions.
        uint64_t row = total >> 32 ? p / per_row : (unsigned)p / per_row;
        int i = (int)(p - row * per_row) * V;
        Piece<V> y = combine<V>(f, piece<V>(in, row, i)...);
        store_vector(out.start + row * out.stride + i, y.x);
    }
}

// f of the inputs at each place. V numbers at a time where all matrices allow it.
template <int V, typename F, typename Out, typename... In>
INLINE void map(F f, int rows, int n, View<Out> out, View<In>... in) {
    previous_kernel_wait();
    next_kernel_start();
    if (n % V == 0 && is_aligned(out.start, out.stride, 16) && (is_aligned(in.start, in.stride, 16) && ... && true))
        map_pieces<V>(f, rows, n, out, in...);
    else
        map_pieces<1>(f, rows, n, out, in...);
}

// The functions of fast mode for bf16, of exact mode for float32.
template <typename T> INLINE float silu_in(float x) { return silu(x); }
template <> INLINE float silu_in<bf16_t>(float x) { return __fdividef(x, 1.0f + __expf(-x)); }
template <typename T> INLINE float sigmoid_in(float x) { return sigmoid(x); }
template <> INLINE float sigmoid_in<bf16_t>(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

template <typename T> constexpr int WIDTH = 16 / sizeof(T);

} // namespace

#define KERNEL extern "C" __global__ void __launch_bounds__(256)

#define INSTANCES(T, suffix)                                                                                         \
    KERNEL add_##suffix(float* x, int64_t x_stride, const T* y, int64_t y_stride, int rows, int n) {                 \
        map<WIDTH<T>>([](float x, float y) { return x + y; }, rows, n, View<float>{x, x_stride},                     \
                      View<const float>{x, x_stride}, View<const T>{y, y_stride});                                   \
    }                                                                                                                \
    KERNEL silu_##suffix(const T* x, int64_t x_stride, T* out, int64_t out_stride, int rows, int n) {                \
        map<WIDTH<T>>([](float x) { return silu_in<T>(x); }, rows, n, View<T>{out, out_stride},                      \
                      View<const T>{x, x_stride});                                                                   \
    }                                                                                                                \
    KERNEL silu_times_##suffix(const T* gate, int64_t gate_stride, const T* up, int64_t up_stride, T* out,           \
                               int64_t out_stride, int rows, int n) {                                                \
        map<WIDTH<T>>([](float gate, float up) { return silu_in<T>(gate) * up; }, rows, n, View<T>{out, out_stride}, \
                      View<const T>{gate, gate_stride}, View<const T>{up, up_stride});                               \
    }                                                                                                                \
    KERNEL decay_gate_##suffix(const T* x, int64_t x_stride, float* out, int64_t out_stride, int rows, int n) {      \
        /* log sigmoid(x) = min(x, 0) - log(1 + e^-|x|), exact at both ends */                                       \
        map<WIDTH<T>>([](float x) { return expf((fminf(x, 0.0f) - log1pf(expf(-fabsf(x)))) / 16.0f); }, rows, n,     \
                      View<float>{out, out_stride}, View<const T>{x, x_stride});                                     \
    }                                                                                                                \
    KERNEL mega_gate_##suffix(const T* u, int64_t u_stride, const T* h, int64_t h_stride, const T* x,                \
                              int64_t x_stride, const float* r, int64_t r_stride, T* out, int64_t out_stride,        \
                              int rows, int n) {                                                                     \
        map<WIDTH<T>>([](float u, float h, float x, float r) { return sigmoid_in<T>(u) * (silu_in<T>(h + x) - r); }, \
                      rows, n, View<T>{out, out_stride}, View<const T>{u, u_stride}, View<const T>{h, h_stride},     \
                      View<const T>{x, x_stride}, View<const float>{r, r_stride});                                   \
    }                                                                                                                \
    KERNEL copy_##suffix(const T* x, int64_t x_stride, T* out, int64_t out_stride, int rows, int n) {                \
        map<WIDTH<T>>([](float x) { return x; }, rows, n, View<T>{out, out_stride}, View<const T>{x, x_stride});     \
    }

INSTANCES(float, f32)
INSTANCES(bf16_t, bf16)

KERNEL subtract_f32(const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* out, int64_t out_stride,
                    int rows, int n) {
    map<4>([](float a, float b) { return a - b; }, rows, n, View<float>{out, out_stride}, View<const float>{a, a_stride},
           View<const float>{b, b_stride});
}
KERNEL f32_to_bf16(const float* x, int64_t x_stride, bf16_t* out, int64_t out_stride, int rows, int n) {
    map<8>([](float x) { return x; }, rows, n, View<bf16_t>{out, out_stride}, View<const float>{x, x_stride});
}
KERNEL bf16_to_f32(const bf16_t* x, int64_t x_stride, float* out, int64_t out_stride, int rows, int n) {
    map<8>([](float x) { return x; }, rows, n, View<float>{out, out_stride}, View<const bf16_t>{x, x_stride});
}
