// Weights from the bytes of a GGUF file to the form that dequantize, embed and gemv read: the same bits, moved without loss.
//
//   repack_FORMAT(blocks, k, count, first, step, out)      for each quantized format
//
//   blocks   `count` rows of k weights as they are in the file, at an even address
//   out      the whole repacked matrix, 16-byte aligned: tiles, as formats.cuh draws them, ceil(n / 4) ceil(k / 256) of
//            TILE bytes for n rows; what the last tiles hold beyond row n does not matter
//   first, step   source row i becomes row first + i step
//
// So a matrix can be repacked by parts through a small buffer, matrices with the same k stacked into one, and the rows of
// a gate and of what it gates interleaved (step 2).
//
// Launch: 256 threads; ceil(count ceil(k / 256) 8 / 256) blocks.
#include "formats.cuh"

// A thread packs one unit, or zeros where a row's last octet lacks it.
template <class F> INLINE void repack(const uint8_t* blocks, int k, int count, int first, int step, uint8_t* out) {
    const int units = k / UNIT, octets = (units + OCTET - 1) / OCTET;
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, source = i / (octets * OCTET);
    if (source >= count) return;
    const int u = (int)(i - source * (octets * OCTET)), j = u % OCTET;
    const uint8_t* block = u < units ? blocks + (source * (units / F::UNITS) + u / F::UNITS) * F::BLOCK : nullptr;
    const int64_t row = first + source * step;
    const int inside = (int)(row % TILE_ROWS);
    uint8_t* tile = (uint8_t*)Tile<F>::of(out, row, octets, u / OCTET);
    uint8_t* side = tile + Tile<F>::SIDE + inside * F::SIDE;
    F::pack_side(block, j, side, tile + Tile<F>::TAIL + inside * F::TAIL);

    uint32_t words[8] = {}, high[2] = {};
    if (block) {
#pragma unroll
        for (int e = 0; e < UNIT; e++) {
            const uint32_t code = F::code(block, j % F::UNITS, e);
            const int half = e / 16, w = e % 16 / 4, b = e % 4;
            if (F::CODES == 32) words[4 * half + w] |= code << (8 * b);
            else if (F::TABLE) words[w] |= (code & 15) << (16 * half + 4 * b);
            else words[w] |= (code & 15) << (8 * b + 4 * half);
            if (F::HIGH == 1) high[0] |= (code >> 4) << (8 * b + w + 4 * half);
            if (F::HIGH == 2) high[half] |= (code >> 4) << (8 * b + 2 * w);
        }
    }
    uint8_t* codes = tile + 16 * (inside * OCTET + j);
    *(uint4*)codes = make_uint4(words[0], words[1], words[2], words[3]);
    if (F::CODES == 32) *(uint4*)(codes + 512) = make_uint4(words[4], words[5], words[6], words[7]);
    if (F::HIGH == 1) *(uint32_t*)(side + 16 + 4 * j) = high[0];
    if (F::HIGH == 2) *(uint2*)(side + 16 + 8 * j) = make_uint2(high[0], high[1]);
}

#define REPACK(name, F) \
    extern "C" __global__ void __launch_bounds__(256) repack_##name( \
        const uint8_t* blocks, int k, int count, int first, int step, uint8_t* out) { \
        repack<F>(blocks, k, count, first, step, out); \
    }
FOR_QUANTIZED(REPACK)
