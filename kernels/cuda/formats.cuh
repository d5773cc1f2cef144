// Weight formats: how blocks lie in a GGUF file, how the same bits lie on the GPU, and how they become numbers. The one place for
// these facts; repack, dequantize and gemv are written over the structs below. The layouts in files are drawn, with their sources, in
// quant/src/formats/*.rs.
//
// Blocks in a file are 18 ... 210 bytes at even addresses, too unaligned for wide loads. `repack` moves the same bits, without loss:
//
//   unit    32 consecutive weights of a row
//   octet   8 units, 256 weights of a row; O = ceil(k / 256) in a row, the last one filled up with zeros
//   tile    the same octet of 4 rows, what 32 lanes take at once: TILE bytes. Tile (rows 4 t ... 4 t + 3, octet o) is the one numbered
//           t O + o, so that 4 rows, and any number of fours, are one run of bytes. Rows are filled up to a multiple of 4 with anything.
//
//   byte of a tile            what
//   16 (8 r + j)              16 bytes of codes of row r, unit j
//   512 + 16 (8 r + j)        q8_0: 16 bytes more
//   32 CODES + r SIDE         scales of row r's units, for 5 and 6 bits their high bits
//   32 CODES + 4 SIDE + r TAIL      what remains of the scales; then up to a multiple of 16 bytes
//
//           q8_0  q4_0  iq4_nl  q4_1  q5_0  q4_k  q5_k  q6_k  iq4_xs
//   CODES     32    16      16    16    16    16    16    16      16
//   SIDE      16    16      16    32    48    16    48    80       0
//   TAIL       0     0       0     0     0     0     0     2       8
//   TILE    1088   576     576   640   704   576   704   848     544      as in the file, but that q6_k has 848 bytes for 840
//
// The 16 bytes of codes of a unit, for all formats but q8_0 and iq4: byte b of 32-bit word w holds
//   bits 0-3  low bits of element 4 w + b        bits 4-7  low bits of element 4 w + b + 16
// so that two masks give four elements each, in the order of the bytes. iq4 indexes a table by permutations of bytes, which take four
// consecutive nibbles: nibble b of word w is the index of element 4 w + b, nibble b + 4 that of element 4 w + b + 16.
// High bits, h, one word (fifth bits) or two (fifth and sixth) for each unit:
//   q5_0, q5_k   bit 8 b + w       element 4 w + b           bit 8 b + w + 4   element 4 w + b + 16
//   q6_k, h[0]   bits 8 b + 2 w, + 1   element 4 w + b       h[1] the same     element 4 w + b + 16
// Codes of the formats that count from the middle (q4_0, q5_0, q6_k) are stored with their top bit flipped, as two's complement.
//
// A decoded unit is eight words of four signed bytes, the levels, and
//   weight = scale * level [- minimum]
// where the products of scale and level are exact in float32, so that one rounding remains at most: bit for bit what the CPU decodes.
// Levels of n-bit two's complement stay in the top bits of their byte: they are 2^(8 - n) times the code, and the scale as much smaller.
#pragma once
#include "common.cuh"

constexpr int UNIT = 32, OCTET = 8;

INLINE uint32_t load_u16(const uint8_t* p) { return *(const uint16_t*)p; }

// Scales of the first and the second 16 elements of a unit (which differ in q6_k alone), and what is subtracted.
struct UnitScale {
    float first, second, minimum;
};

// Formats without sub-blocks: one block of the file is one unit.
struct OneScale {
    static constexpr int UNITS = 1, CODES = 16, SIDE = 16, TAIL = 0, HIGH = 0;
    static constexpr bool MINIMUM = false, HALVES = false, TABLE = false;
};

struct Q8_0 : OneScale {
    static constexpr int BLOCK = 34, CODES = 32;
    static INLINE uint32_t code(const uint8_t* block, int, int i) { return block[2 + i]; }
    static INLINE void pack_side(const uint8_t* block, int j, uint8_t* side, uint8_t*) {
        *(uint16_t*)(side + 2 * j) = block ? load_u16(block) : 0;
    }
    static INLINE uint2 levels(uint32_t code, uint32_t second, uint2, int) { return make_uint2(code, second); }
    static INLINE UnitScale scale(const uint8_t* side, const uint8_t*, int j) {
        float d = f16_to_f32((f16_t)load_u16(side + 2 * j));
        return {d, d, 0.0f};
    }
};

struct Q4_0 : OneScale {
    static constexpr int BLOCK = 18;
    static INLINE uint32_t code(const uint8_t* block, int, int i) { return ((block[2 + i % 16] >> (i / 16 * 4)) & 15) ^ 8; }
    static INLINE void pack_side(const uint8_t* block, int j, uint8_t* side, uint8_t* tail) { Q8_0::pack_side(block, j, side, tail); }
    static INLINE uint2 levels(uint32_t code, uint32_t, uint2, int) {
        return make_uint2((code << 4) & 0xf0f0f0f0u, code & 0xf0f0f0f0u);
    }
    static INLINE UnitScale scale(const uint8_t* side, const uint8_t*, int j) {
        float d = f16_to_f32((f16_t)load_u16(side + 2 * j)) * (1.0f / 16);
        return {d, d, 0.0f};
    }
};

// side: f16 d[8], f16 m[8].
struct Q4_1 : OneScale {
    static constexpr int BLOCK = 20, SIDE = 32;
    static constexpr bool MINIMUM = true;
    static INLINE uint32_t code(const uint8_t* block, int, int i) { return (block[4 + i % 16] >> (i / 16 * 4)) & 15; }
    static INLINE void pack_side(const uint8_t* block, int j, uint8_t* side, uint8_t*) {
        *(uint16_t*)(side + 2 * j) = block ? load_u16(block) : 0;
        *(uint16_t*)(side + 16 + 2 * j) = block ? load_u16(block + 2) : 0;
    }
    static INLINE uint2 levels(uint32_t code, uint32_t, uint2, int) {
        return make_uint2(code & 0x0f0f0f0fu, (code >> 4) & 0x0f0f0f0fu);
    }
    static INLINE UnitScale scale(const uint8_t* side, const uint8_t*, int j) {
        float d = f16_to_f32((f16_t)load_u16(side + 2 * j));
        return {d, d, -f16_to_f32(load_u16(side + 16 + 2 * j))};
    }
};

// side: f16 d[8], u32 h[8].
struct Q5_0 : OneScale {
    static constexpr int BLOCK = 22, SIDE = 48, HIGH = 1;
    static INLINE uint32_t code(const uint8_t* block, int, int i) {
        uint32_t fifth = load_u16(block + 2 + i / 16 * 2) >> (i % 16) & 1;
        return (((block[6 + i % 16] >> (i / 16 * 4)) & 15) | fifth << 4) ^ 16;
    }
    static INLINE void pack_side(const uint8_t* block, int j, uint8_t* side, uint8_t* tail) { Q8_0::pack_side(block, j, side, tail); }
    static INLINE uint2 levels(uint32_t code, uint32_t, uint2 h, int w) {
        return make_uint2(((code << 3) & 0x78787878u) | ((h.x << (7 - w)) & 0x80808080u),
                          ((code >> 1) & 0x78787878u) | ((h.x << (3 - w)) & 0x80808080u));
    }
    static INLINE UnitScale scale(const uint8_t* side, const uint8_t*, int j) {
        float d = f16_to_f32((f16_t)load_u16(side + 2 * j)) * (1.0f / 8);
        return {d, d, 0.0f};
    }
};

// What iq4_nl and iq4_xs have in common: the table of sixteen levels.
struct Iq4 {
    // (table[n0], table[n1], table[n2], table[n3]) of the four low nibbles of `index`; `choose` has, for each, its byte's number plus 4
    // where the nibble is 8 or more.
    static INLINE uint32_t look_up(uint32_t index, uint32_t choose) {
        // -127 -104 -83 -65   -49 -35 -22 -10   1 13 25 38   53 69 89 113
        uint32_t low = __byte_perm(0xbfad9881u, 0xf6eaddcfu, index), high = __byte_perm(0x26190d01u, 0x71594535u, index);
        return __byte_perm(low, high, choose);
    }
    static INLINE uint2 levels(uint32_t code, uint32_t, uint2, int) {
        // A set top bit of a selector would ask for the sign instead of the byte.
        uint32_t index = code & 0x77777777u, choose = ((code >> 1) & 0x44444444u) | 0x32103210u;
        return make_uint2(look_up(index, choose), look_up(index >> 16, choose >> 16));
    }
};

struct Iq4Nl : OneScale {
    static constexpr int BLOCK = 18;
    static constexpr bool TABLE = true;
    static INLINE uint32_t code(const uint8_t* block, int, int i) { return (block[2 + i % 16] >> (i / 16 * 4)) & 15; }
    static INLINE void pack_side(const uint8_t* block, int j, uint8_t* side, uint8_t* tail) { Q8_0::pack_side(block, j, side, tail); }
    static INLINE uint2 levels(uint32_t code, uint32_t second, uint2 h, int w) { return Iq4::levels(code, second, h, w); }
    static INLINE UnitScale scale(const uint8_t* side, const uint8_t* tail, int j) { return Q8_0::scale(side, tail, j); }
};

// Formats of super-blocks: one block of the file is one octet.
struct SuperBlock {
    static constexpr int UNITS = 8, CODES = 16, TAIL = 0, HIGH = 0;
    static constexpr bool MINIMUM = false, HALVES = false, TABLE = false;
};

// side: the first 16 bytes of the block as they are: f16 d, f16 dmin, u8 scales[12], where, for j < 4,
//   scales[j]      bits 0-5: s[j]                 bits 6-7: bits 4-5 of s[j + 4]
//   scales[j + 4]  bits 0-5: m[j]                 bits 6-7: bits 4-5 of m[j + 4]
//   scales[j + 8]  bits 0-3: bits 0-3 of s[j + 4] bits 4-7: bits 0-3 of m[j + 4]
struct Q4_K : SuperBlock {
    static constexpr int BLOCK = 144, SIDE = 16;
    static constexpr bool MINIMUM = true;
    static INLINE uint32_t code(const uint8_t* block, int j, int i) { return (block[16 + j / 2 * 32 + i] >> (j % 2 * 4)) & 15; }
    static INLINE void pack_side(const uint8_t* block, int j, uint8_t* side, uint8_t*) {
        *(uint16_t*)(side + 2 * j) = block ? load_u16(block + 2 * j) : 0;
    }
    static INLINE uint2 levels(uint32_t code, uint32_t second, uint2 h, int w) { return Q4_1::levels(code, second, h, w); }
    static INLINE UnitScale scale(const uint8_t* side, const uint8_t*, int j) {
        uint4 header = *(const uint4*)side;
        const int byte = 8 * (j & 3), shift = j < 4 ? byte : byte + 2;
        const uint32_t upper = j < 4 ? 63 : 48, lower = j < 4 ? 0 : 15;
        const uint32_t scale = ((header.y >> shift) & upper) | ((header.w >> byte) & lower);
        const uint32_t minimum = ((header.z >> shift) & upper) | ((header.w >> (byte + 4)) & lower);
        float d = f16_to_f32((f16_t)(header.x & 0xffff)) * (float)(int)scale;
        return {d, d, f16_to_f32((f16_t)(header.x >> 16)) * (float)(int)minimum};
    }
};

// side: as q4_k, then u32 h[8].
struct Q5_K : SuperBlock {
    static constexpr int BLOCK = 176, SIDE = 48, HIGH = 1;
    static constexpr bool MINIMUM = true;
    static INLINE uint32_t code(const uint8_t* block, int j, int i) {
        return ((block[48 + j / 2 * 32 + i] >> (j % 2 * 4)) & 15) | ((block[16 + i] >> j) & 1) << 4;
    }
    static INLINE void pack_side(const uint8_t* block, int j, uint8_t* side, uint8_t* tail) { Q4_K::pack_side(block, j, side, tail); }
    static INLINE uint2 levels(uint32_t code, uint32_t, uint2 h, int w) {
        return make_uint2((code & 0x0f0f0f0fu) | ((h.x << (4 - w)) & 0x10101010u),
                          ((code >> 4) & 0x0f0f0f0fu) | ((h.x >> w) & 0x10101010u));
    }
    static INLINE UnitScale scale(const uint8_t* side, const uint8_t* tail, int j) { return Q4_K::scale(side, tail, j); }
};

// side: i8 scales[16], u32 h[8][2]; tail: f16 d.
struct Q6_K : SuperBlock {
    static constexpr int BLOCK = 210, SIDE = 80, TAIL = 2, HIGH = 2;
    static constexpr bool HALVES = true;
    static INLINE uint32_t code(const uint8_t* block, int j, int i) {
        // Unit j is part j % 4 of half j / 4.
        int half = j / 4, part = j % 4;
        uint32_t low = (block[64 * half + part % 2 * 32 + i] >> (part / 2 * 4)) & 15;
        return (low | ((block[128 + 32 * half + i] >> (2 * part)) & 3) << 4) ^ 32;
    }
    static INLINE void pack_side(const uint8_t* block, int j, uint8_t* side, uint8_t* tail) {
        *(uint16_t*)(side + 2 * j) = block ? load_u16(block + 192 + 2 * j) : 0;
        if (j == 0) *(uint16_t*)tail = block ? load_u16(block + 208) : 0;
    }
    static INLINE uint2 levels(uint32_t code, uint32_t, uint2 h, int w) {
        return make_uint2(((code << 2) & 0x3c3c3c3cu) | ((h.x << (6 - 2 * w)) & 0xc0c0c0c0u),
                          ((code >> 2) & 0x3c3c3c3cu) | ((h.y << (6 - 2 * w)) & 0xc0c0c0c0u));
    }
    static INLINE UnitScale scale(const uint8_t* side, const uint8_t* tail, int j) {
        uint32_t s = load_u16(side + 2 * j);
        float d = f16_to_f32((f16_t)load_u16(tail)) * (1.0f / 4);
        return {d * (float)(int8_t)(s & 0xff), d * (float)(int8_t)(s >> 8), 0.0f};
    }
};

// tail: the first 8 bytes of the block as they are: f16 d, u16 scales_h, u8 scales_l[4].
struct Iq4Xs : SuperBlock {
    static constexpr int BLOCK = 136, SIDE = 0, TAIL = 8;
    static constexpr bool TABLE = true;
    static INLINE uint32_t code(const uint8_t* block, int j, int i) { return (block[8 + 16 * j + i % 16] >> (i / 16 * 4)) & 15; }
    static INLINE void pack_side(const uint8_t* block, int j, uint8_t*, uint8_t* tail) {
        if (j < 4) *(uint16_t*)(tail + 2 * j) = block ? load_u16(block + 2 * j) : 0;
    }
    static INLINE uint2 levels(uint32_t code, uint32_t second, uint2 h, int w) { return Iq4::levels(code, second, h, w); }
    static INLINE UnitScale scale(const uint8_t*, const uint8_t* tail, int j) {
        uint2 header = *(const uint2*)tail;
        int s = (int)(((header.y >> (4 * j)) & 15) | ((header.x >> (16 + 2 * j)) & 3) << 4) - 32;
        float d = f16_to_f32((f16_t)(header.x & 0xffff)) * (float)s;
        return {d, d, 0.0f};
    }
};

constexpr int TILE_ROWS = 4;
template <class F> struct Tile {
    static constexpr int SIDE = 32 * F::CODES, TAIL = SIDE + TILE_ROWS * F::SIDE, BYTES = (TAIL + TILE_ROWS * F::TAIL + 15) / 16 * 16;
    static INLINE const uint8_t* of(const uint8_t* w, int64_t row, int octets, int octet) {
        return w + (row / TILE_ROWS * octets + octet) * BYTES;
    }
};

// High bits of unit j of an octet: they follow the 16 bytes of scales.
template <class F> INLINE uint2 high_bits(const uint8_t* side, int j) {
    if (F::HIGH == 2) return *(const uint2*)(side + 16 + 8 * j);
    return make_uint2(F::HIGH == 1 ? *(const uint32_t*)(side + 16 + 4 * j) : 0u, 0u);
}

// Byte i of four signed ones as a float, exact: 2^23 + (byte + 128), less the constant. `word` has each byte's top bit flipped.
INLINE float level_to_f32(uint32_t flipped, int i) {
    return __uint_as_float(__byte_perm(flipped, 0x4b000000u, 0x7650u | i)) - 8388736.0f;
}

// What every kernel that works on all quantized formats is instantiated with.
#define FOR_QUANTIZED(DO) \
    DO(q8_0, Q8_0) DO(q4_0, Q4_0) DO(q4_1, Q4_1) DO(q5_0, Q5_0) DO(iq4_nl, Iq4Nl) DO(q4_k, Q4_K) DO(q5_k, Q5_K) DO(q6_k, Q6_K) \
    DO(iq4_xs, Iq4Xs)
