// Rows of a weight matrix as dense numbers: for products of many tokens, and for embeddings.
//
//   dequantize_FORMAT_{f32,bf16}(w, k, stride, first, step, count, out)     rows first, first + step, ...: `count` of them
//   embed_FORMAT_f32(w, n, k, stride, tokens, count, out)                   rows tokens[0] ... tokens[count - 1]
//
//   w       the repacked matrix (repack.cu) of rows of k weights; of plain numbers (f32, f16, bf16) rows are `stride` apart, a multiple of
//           16 bytes; `stride` is ignored otherwise
//   tokens  int32 in device memory; the row of a token that is none of 0 ... n - 1 becomes NaN
//   out     (count, k), 16-byte aligned
//
// float32 numbers are what the CPU decodes, bit for bit (NaN aside, whose payload may differ); bf16 ones those rounded to nearest even.
//
// Launch: 256 threads; grid (ceil(count / 8), ceil(k / 1024)). A warp decodes 1024 weights of a row, a lane 8 at a time: one word of a
// unit's codes, so that what lanes side by side load, and store, is whole sectors.
#include "formats.cuh"

// The warp's row among `count`, or -1.
INLINE int64_t output_row(int count) {
    const int64_t i = (int64_t)blockIdx.x * 8 + threadIdx.x / 32;
    return i < count ? i : -1;
}

template <class T> INLINE void store_nan(T* out, int k) {
    const int first = blockIdx.y * 1024;
    for (int i = first + threadIdx.x % 32; i < min(k, first + 1024); i += 32) store(out + i, __uint_as_float(0x7fffffffu));
}

template <class F, class T> INLINE void decode(const uint8_t* w, int k, int64_t row, T* out) {
    const int octets = (k + 255) / 256, lane = threadIdx.x % 32, j = lane / 4, word = lane % 4, inside = (int)(row % TILE_ROWS);
    constexpr int ROUNDS = 4;
    uint32_t first[ROUNDS], second[ROUNDS];
    uint2 high[ROUNDS];
    UnitScale scale[ROUNDS];
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const int octet = blockIdx.y * ROUNDS + i;
        if (octet >= octets) break;
        const uint8_t* tile = Tile<F>::of(w, row, octets, octet);
        const uint8_t *code = tile + 16 * (inside * OCTET + j) + 4 * word, *side = tile + Tile<F>::SIDE + inside * F::SIDE;
        first[i] = *(const uint32_t*)code;
        second[i] = F::CODES == 32 ? *(const uint32_t*)(code + 512) : 0;
        high[i] = high_bits<F>(side, j);
        scale[i] = F::scale(side, tile + Tile<F>::TAIL + inside * F::TAIL, j);
    }
#pragma unroll
    for (int i = 0; i < ROUNDS; i++) {
        const int at = (blockIdx.y * ROUNDS + i) * 256 + j * UNIT + 4 * word;
        if (at >= k) break;
        const uint2 levels = F::levels(first[i], second[i], high[i], word);
        float low[4], up[4];
#pragma unroll
        for (int b = 0; b < 4; b++) {
            low[b] = scale[i].first * level_to_f32(levels.x ^ 0x80808080u, b);
            up[b] = scale[i].second * level_to_f32(levels.y ^ 0x80808080u, b);
            if (F::MINIMUM) low[b] -= scale[i].minimum, up[b] -= scale[i].minimum;
        }
        store_vector(out + at, low);
        store_vector(out + at + 16, up);
    }
}

template <class W, class T> INLINE void widen(const W* w, int k, T* out) {
    constexpr int V = 16 / sizeof(W);
    // Rows of the output begin anywhere if k is odd.
    const bool wide = k % 8 == 0;
#pragma unroll
    for (int i = 0; i < 32 / V; i++) {
        const int first = blockIdx.y * 1024 + (i * 32 + threadIdx.x % 32) * V;
        if (first >= k) continue;
        float x[V];
        if constexpr (sizeof(W) == 2) {
            uint4 v = *(const uint4*)(w + first);
            const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int e = 0; e < 8; e++) x[e] = W::widen((uint16_t)(words[e / 2] >> (16 * (e % 2))));
        } else {
            load_vector(x, (const float*)(w + first));
        }
        if (wide) store_vector(out + first, x);
        else {
#pragma unroll
            for (int e = 0; e < V; e++) {
                if (first + e < k) store(out + first + e, x[e]);
            }
        }
    }
}
struct F16 {
    f16_t bits;
    static INLINE float widen(uint16_t x) { return f16_to_f32(x); }
};
struct Bf16 {
    bf16_t bits;
    static INLINE float widen(uint16_t x) { return bf16_to_f32(x); }
};

#define ROWS(T, body) \
    { \
        const int64_t i = output_row(count); \
        if (i < 0) return; \
        T* to = out + i * k; \
        body; \
    }
#define TOKENS(body) { next_kernel_start(); ROWS(float, const int64_t row = tokens[i]; if (row < 0 || row >= n) store_nan(to, k); else body) }

#define QUANTIZED(name, F) \
    extern "C" __global__ void __launch_bounds__(256) dequantize_##name##_f32( \
        const uint8_t* w, int k, int stride, int first, int step, int count, float* out) \
        ROWS(float, (decode<F>(w, k, first + i * step, to))) \
    extern "C" __global__ void __launch_bounds__(256) dequantize_##name##_bf16( \
        const uint8_t* w, int k, int stride, int first, int step, int count, bf16_t* out) \
        ROWS(bf16_t, (decode<F>(w, k, first + i * step, to))) \
    extern "C" __global__ void __launch_bounds__(256) embed_##name##_f32(const uint8_t* w, int n, int k, int stride, const int* tokens, \
                                                                         int count, float* out) \
        TOKENS((decode<F>(w, k, row, to)))
FOR_QUANTIZED(QUANTIZED)

#define PLAIN(name, W) \
    extern "C" __global__ void __launch_bounds__(256) dequantize_##name##_f32(const W* w, int k, int stride, int first, int step, int count, \
                                                                              float* out) \
        ROWS(float, (widen(w + (first + i * step) * stride, k, to))) \
    extern "C" __global__ void __launch_bounds__(256) dequantize_##name##_bf16(const W* w, int k, int stride, int first, int step, int count, \
                                                                               bf16_t* out) \
        ROWS(bf16_t, (widen(w + (first + i * step) * stride, k, to))) \
    extern "C" __global__ void __launch_bounds__(256) embed_##name##_f32(const W* w, int n, int k, int stride, const int* tokens, \
                                                                         int count, float* out) \
        TOKENS((widen(w + row * stride, k, to)))
PLAIN(f32, float)
PLAIN(f16, F16)
PLAIN(bf16, Bf16)
