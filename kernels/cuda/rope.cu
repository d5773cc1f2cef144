// Rotary position embedding (rotate-half) and the append of a chunk's keys and values to the ring of a layer.
//
//   angle(t, i) = f32(f32(position + t) / condense) * theta[i]           float32, theta rounded from float64 by the host
//   cos, sin    = those of the float32 angle in float64, rounded to float32, and to bf16 where the model was trained so
//   low'  = low * cos - high * sin      channel i        of each head, i < dims / 2
//   high' = high * cos + low * sin      channel i + dims / 2; channels from `dims` on stay as they are
//
// rope_table: cos and sin of a chunk, once for all layers.
//   cos, sin   (L, half) float32, half = dims / 2
//   theta      (half) float32
//   position   one int64 on the device: absolute position of the chunk's first token
//   round_bf16 1 where the table is bf16
//   Launch: grid ceil(L * half / 256), block 256, no shared memory. L * half < 2^31.
//
// rope_append_{f32,bf16}: turns q in place, and writes turned k and plain v to the ring.
//   q          (L, heads * head_dim), rows q_stride elements apart; changed in place
//   k, v       (L, groups * head_dim), rows k_stride and v_stride elements apart; only read
//   cos, sin   (L, half) float32; unused (may be null) where dims = 0, which makes this a plain append that leaves q alone
//   k_ring, v_ring  (capacity, groups * head_dim); position p lives in slot p % capacity, L <= capacity
//   dims       rotated channels of a head: even, 0 <= dims <= head_dim
//   Launch: grid L, block 256, no shared memory.
//   Where head_dim, dims / 2, the strides and the views' offsets are all multiples of 16 bytes, a thread moves 16 bytes at a time;
//   otherwise element by element.
#include "common.cuh"

// Sine and cosine of a float32 angle in float64, to about 1e-16. The library's would do as well, but its reduction of astronomic
// arguments costs a stack frame; |x| < 2^31 is plenty for positions.
INLINE void sin_cos(float x, double& s, double& c) {
    // x = n pi/2 + r with |r| <= pi/4; pi/2 in two parts, of which the first product is not rounded (fma).
    double n = rint(x * 0.63661977236758134308);
    double r = fma(-n, 1.57079632679489655800, (double)x);
    r = fma(-n, 6.12323399573676603587e-17, r);
    // Taylor series: the first terms left out are r^19/19! < 1e-19 and r^18/18! < 3e-18.
    double q = r * r, odd = 1.0 / 355687428096000.0, even = 1.0 / 20922789888000.0;
    odd = fma(-odd, q, 1.0 / 1307674368000.0), even = fma(-even, q, 1.0 / 87178291200.0);
    odd = fma(-odd, q, 1.0 / 6227020800.0), even = fma(-even, q, 1.0 / 479001600.0);
    odd = fma(-odd, q, 1.0 / 39916800.0), even = fma(-even, q, 1.0 / 3628800.0);
    odd = fma(-odd, q, 1.0 / 362880.0), even = fma(-even, q, 1.0 / 40320.0);
    odd = fma(-odd, q, 1.0 / 5040.0), even = fma(-even, q, 1.0 / 720.0);
    odd = fma(-odd, q, 1.0 / 120.0), even = fma(-even, q, 1.0 / 24.0);
    odd = fma(-odd, q, 1.0 / 6.0), even = fma(-even, q, 0.5);
    double sin_r = fma(-odd * q, r, r), cos_r = fma(-even, q, 1.0);
    int quarter = (int)(int64_t)n & 3;
    s = quarter & 1 ? cos_r : sin_r, c = quarter & 1 ? sin_r : cos_r;
    s = quarter & 2 ? -s : s, c = (quarter + 1) & 2 ? -c : c;
}

extern "C" __global__ void __launch_bounds__(256)
rope_table(float* cos_out, float* sin_out, const float* theta, const int64_t* position, int tokens, int half, float condense,
           int round_bf16) {
    previous_kernel_wait();
    next_kernel_start();
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= tokens * half) return;
    float p = (float)(uint64_t)(*position + at / half) / condense;
    double s, c;
    sin_cos(p * theta[at % half], s, c);
    float cf = (float)c, sf = (float)s;
    cos_out[at] = round_bf16 ? bf16_to_f32(f32_to_bf16(cf)) : cf;
    sin_out[at] = round_bf16 ? bf16_to_f32(f32_to_bf16(sf)) : sf;
}

// N neighbouring numbers: one 16-byte access, or one number.
template <typename T, int N> struct Pack {
    T x[N];
};
template <typename T, int N> INLINE Pack<T, N> load_pack(const T* p) {
    Pack<T, N> r;
    if constexpr (N == 1) {
        r.x[0] = *p;
    } else {
        union {
            uint4 words;
            T x[N];
        } u;
        u.words = *(const uint4*)p;
        for (int i = 0; i < N; ++i) r.x[i] = u.x[i];
    }
    return r;
}
template <typename T, int N> INLINE void store_pack(T* p, const Pack<T, N>& r) {
    if constexpr (N == 1) {
        *p = r.x[0];
    } else {
        union {
            uint4 words;
            T x[N];
        } u;
        for (int i = 0; i < N; ++i) u.x[i] = r.x[i];
        *(uint4*)p = u.words;
    }
}

template <typename T, int N>
INLINE void rotate_pack(T* low_out, T* high_out, const T* low_in, const T* high_in, const float* cos, const float* sin) {
    Pack<T, N> low = load_pack<T, N>(low_in), high = load_pack<T, N>(high_in);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        float a = load(&low.x[i]), b = load(&high.x[i]), c = cos[i], s = sin[i];
        store(&low.x[i], a * c - b * s);
        store(&high.x[i], b * c + a * s);
    }
    store_pack<T, N>(low_out, low);
    store_pack<T, N>(high_out, high);
}

// One token. The work of a row is a list of items of N channels, the threads of the block take turns:
//   q: heads x half/N pairs | k: groups x (half/N pairs, then (head_dim - dims)/N plain) | v: groups * head_dim / N plain
template <typename T, int N>
INLINE void append_row(T* q, const T* k, const T* v, const float* cos, const float* sin, T* k_ring, T* v_ring, int heads, int groups,
                       int head_dim, int dims) {
    int half = dims / 2, pairs = half / N, plain = (head_dim - dims) / N, per_key = pairs + plain;
    int q_items = heads * pairs, k_items = groups * per_key, v_items = groups * head_dim / N;
    for (int item = threadIdx.x; item < q_items + k_items + v_items; item += blockDim.x) {
        if (item < q_items) {
            int i = item % pairs * N;
            T* head = q + item / pairs * head_dim;
            rotate_pack<T, N>(head + i, head + i + half, head + i, head + i + half, cos + i, sin + i);
        } else if (item < q_items + k_items) {
            int at = item - q_items, j = at % per_key, head = at / per_key * head_dim;
            if (j < pairs) {
                int low = head + j * N, high = low + half;
                rotate_pack<T, N>(k_ring + low, k_ring + high, k + low, k + high, cos + j * N, sin + j * N);
            } else {
                int c = head + dims + (j - pairs) * N;
                store_pack<T, N>(k_ring + c, load_pack<T, N>(k + c));
            }
        } else {
            int c = (item - q_items - k_items) * N;
            store_pack<T, N>(v_ring + c, load_pack<T, N>(v + c));
        }
    }
}

template <typename T>
INLINE void append(T* q, const T* k, const T* v, const float* cos, const float* sin, T* k_ring, T* v_ring, const int64_t* position,
                   int heads, int groups, int head_dim, int dims, int q_stride, int k_stride, int v_stride, int capacity) {
    constexpr int N = 16 / sizeof(T);
    previous_kernel_wait();
    next_kernel_start();
    int64_t t = blockIdx.x, slot = (*position + t) % capacity * groups * head_dim;
    q += t * q_stride, k += t * k_stride, v += t * v_stride, k_ring += slot, v_ring += slot;
    cos += t * (dims / 2), sin += t * (dims / 2);
    uint64_t bytes = (uint64_t)q | (uint64_t)k | (uint64_t)v | (uint64_t)k_ring | (uint64_t)v_ring;
    // A row's head offsets are multiples of head_dim, its halves of dims / 2; only then do 16-byte accesses fit everywhere.
    bool wide = bytes % 16 == 0 && head_dim % N == 0 && dims / 2 % N == 0;
    if (wide)
        append_row<T, N>(q, k, v, cos, sin, k_ring, v_ring, heads, groups, head_dim, dims);
    else
        append_row<T, 1>(q, k, v, cos, sin, k_ring, v_ring, heads, groups, head_dim, dims);
}

extern "C" __global__ void __launch_bounds__(256)
rope_append_f32(float* q, const float* k, const float* v, const float* cos, const float* sin, float* k_ring, float* v_ring,
                const int64_t* position, int heads, int groups, int head_dim, int dims, int q_stride, int k_stride, int v_stride,
                int capacity) {
    append<float>(q, k, v, cos, sin, k_ring, v_ring, position, heads, groups, head_dim, dims, q_stride, k_stride, v_stride, capacity);
}
extern "C" __global__ void __launch_bounds__(256)
rope_append_bf16(bf16_t* q, const bf16_t* k, const bf16_t* v, const float* cos, const float* sin, bf16_t* k_ring, bf16_t* v_ring,
                 const int64_t* position, int heads, int groups, int head_dim, int dims, int q_stride, int k_stride, int v_stride,
                 int capacity) {
    append<bf16_t>(q, k, v, cos, sin, k_ring, v_ring, position, heads, groups, head_dim, dims, q_stride, k_stride, v_stride, capacity);
}
