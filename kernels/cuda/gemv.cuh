// y = W x for 1 ... M tokens: the body of all gemv kernels. gemv.cu has the arguments, the launch and the instances.
//
// What bounds it is reading W once from memory, so everything serves keeping enough bytes under way:
// - each warp streams its part of W through a ring of stages in shared memory (asynchronous copies: no registers hold what is under
//   way). The first stages are asked for before the kernel waits for its predecessor, since weights depend on nothing; but x queues
//   behind all that was asked for before it, so the others are asked for right after x, as is the start of the next kernel;
// - a block owns consecutive rows and its warps share the work evenly, cut anywhere along k: a warp may begin and end
//   inside a row. Pieces of a row meet in shared memory and are added in the order of the warps.
// A small matrix takes hardly longer than the chain of latencies from launch to store, so there is little before the
// first request, and little after the last product. Quantized weights are few bytes for many instructions: there a lane
// of Hopper asks for a stage of its warp at once, and tiles are worked on side by side. Of plain numbers two rows share what is read of x:
// shared memory gives two thirds of the bytes that it would give to each alone.
//
//   tile    what 32 lanes take at once: for quantized weights an octet of 4 rows (formats.cuh), 16 bytes of codes a lane, 8 lanes a row; of
//           plain numbers 512 bytes of 2 rows, 16 of each a lane
//   group   the rows of a tile, and the tiles along them, `tiles` in number
//   stage   W::TILES tiles, W::TOGETHER of which are worked on side by side; of W::STAGES in a ring, W::EARLY come before x
#pragma once
#include "formats.cuh"

// What x is, and what becomes of W x.
enum { X_F32 = 0, X_BF16 = 1, X_RMS_NORM = 2, X_LAYER_NORM = 3 };
enum { Y_F32 = 0, Y_BF16 = 1, Y_ADD_F32 = 2, Y_GLU_F32 = 3, Y_GLU_BF16 = 4 };

// The argument of every kernel; gemv.cu says what is what.
struct Gemv {
    const uint8_t* w;
    const void* x;
    const float *norm_weight, *norm_bias, *bias;
    void* y;
    const float *conv_taps, *conv_bias;
    float* conv_past;
    int n, k, stride, x_kind, x_stride, tokens, y_kind, y_stride, conv_channels, conv_width;
    float eps;
    int each, more;
    float inverse_tiles;
};

// ----------------------------------------------------------------------------------------------------------------------------- weights

// Of plain numbers a tile is 512 bytes of each of two rows, N numbers a lane, the last one of a row filled up with zeros: what is read of x
// serves both. They are the two rows of an output, half of W apart, or neighbours.
template <class T, int N> struct Floats {
    static constexpr int ROWS = 2, LANES = 16, ROW_BYTES = 512, BYTES = 2 * ROW_BYTES, TILES = 1, TOGETHER = 1, STAGES = 8, EARLY = 4;
    static constexpr bool CONTIGUOUS = false;
    int pieces, tiles, gap;
    INLINE Floats(const Gemv& g) {
        pieces = (g.k + N - 1) / N, tiles = (pieces + 31) / 32;
        gap = g.y_kind >= Y_GLU_F32 ? g.n / 2 : 0;
    }
    INLINE int row(int first, int local) const {
        const int i = first + local;
        return gap ? i / 2 + (i & 1) * gap : i;
    }

    // A warp's stream of tiles.
    struct Stream {
        const uint8_t* from;
        int64_t second;  // from the first row to the other, if there is one
        int first, local, tile, left;
        INLINE Stream(const Floats& w, const Gemv& g, int first, int local, int tile, int left)
            : first(first), local(local), tile(tile), left(left) {
            locate(w, g);
        }
        INLINE void locate(const Floats& w, const Gemv& g) {
            const int64_t row_bytes = (int64_t)g.stride * (int)sizeof(T);
            from = g.w + w.row(first, local) * row_bytes + tile * ROW_BYTES + threadIdx.x % 32 * 16;
            second = first + local + 1 < g.n ? (w.gap ? w.gap : 1) * row_bytes : 0;
        }
        // Asks for the next stage, or for what is left.
        INLINE void request(uint8_t* stage, const Floats& w, const Gemv& g) {
            const int lane = threadIdx.x % 32;
            static_assert(TILES == 1, "a stage is a tile");
            if (left-- <= 0) return;
            const bool valid = tile * 32 + lane < w.pieces;
            copy_async16(stage + lane * 16, from, valid);
            copy_async16(stage + ROW_BYTES + lane * 16, from + second, valid);
            from += ROW_BYTES;
            if (++tile == w.tiles) tile = 0, local += ROWS, locate(w, g);
        }
    };
};
struct F32 : Floats<float, 4> {
    static constexpr int PIECE = 4;
    using Floats::Floats;
    static INLINE void numbers(uint4 v, float (&w)[4]) {
        w[0] = __uint_as_float(v.x), w[1] = __uint_as_float(v.y), w[2] = __uint_as_float(v.z), w[3] = __uint_as_float(v.w);
    }
};
struct Bf16 : Floats<bf16_t, 8> {
    static constexpr int PIECE = 8;
    using Floats::Floats;
    static INLINE void numbers(uint4 v, float (&w)[8]) {
        const uint32_t pair[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[2 * i] = __uint_as_float(pair[i] << 16), w[2 * i + 1] = __uint_as_float(pair[i] & 0xffff0000u);
        }
    }
};
struct F16 : Floats<f16_t, 8> {
    static constexpr int PIECE = 8;
    using Floats::Floats;
    static INLINE void numbers(uint4 v, float (&w)[8]) {
        const uint32_t pair[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[2 * i] = f16_to_f32((f16_t)(pair[i] & 0xffff)), w[2 * i + 1] = f16_to_f32((f16_t)(pair[i] >> 16));
        }
    }
};

// Repacked matrices are one run of tiles. With a gate, the rows of an output are side by side.
template <class F> struct Units {
    static constexpr int ROWS = TILE_ROWS, LANES = OCTET, BYTES = Tile<F>::BYTES, TOGETHER = BYTES > 800 ? 1 : 2;
    static constexpr int TILES = 2 * TOGETHER, STAGES = 2, EARLY = 1;
    static constexpr bool CONTIGUOUS = true;
    int tiles;
    INLINE Units(const Gemv& g) { tiles = (g.k + 255) / 256; }
    INLINE int row(int first, int local) const { return first + local; }

    struct Stream {
        const uint8_t* from;
        int left;
        INLINE Stream(const Units& w, const Gemv& g, int first, int local, int tile, int left) : left(left) {
            from = g.w + ((int64_t)((first + local) / ROWS) * w.tiles + tile) * BYTES;
        }
        INLINE void request(uint8_t* stage, const Units&, const Gemv&) {
            const int lane = threadIdx.x % 32 * 16, bytes = min(left, TILES) * BYTES - lane;
#pragma unroll
            for (int i = 0; i < TILES * BYTES; i += 512) {
                if (i < bytes) copy_async16(stage + i + lane, from + i + lane);
            }
            from += TILES * BYTES, left -= TILES;
        }
    };
};

// A warp's stages: one is worked on while the others are under way. Hopper copies runs of bytes by one lane.
template <class W> struct Ring {
    static constexpr int STAGES = W::STAGES, STAGE = W::TILES * W::BYTES, BYTES = STAGES * (STAGE + 16);
    typename W::Stream stream;
    uint8_t* stages;
    int out = 0, parity = 0;

    INLINE Ring(const typename W::Stream& stream, uint8_t* shared) : stream(stream), stages(shared) {}
#ifdef HOPPER
    INLINE Phase* landed(int slot) const { return (Phase*)(stages + STAGES * STAGE) + slot; }
#endif
    INLINE void request(int slot, const W& w, const Gemv& g) {
#ifdef HOPPER
        if constexpr (W::CONTIGUOUS) {
            if (threadIdx.x % 32 == 0 && stream.left > 0)
                copy_bulk(stages + slot * STAGE, stream.from, min(stream.left, W::TILES) * W::BYTES, landed(slot));
            stream.from += STAGE, stream.left -= W::TILES;
            return;
        }
#endif
        stream.request(stages + slot * STAGE, w, g);
        copy_async_commit();
    }
    // Before anything else.
    INLINE void begin() {
#ifdef HOPPER
        if constexpr (W::CONTIGUOUS) {
            if (threadIdx.x % 32 == 0) {
                for (int slot = 0; slot < STAGES; slot++) phase_init(landed(slot), 1);
                fence_phase_init();
            }
            __syncwarp();
        }
#endif
    }
    // Asks for stages `from` ... `to` - 1, at most for all but one.
    INLINE void fill(int from, int to, const W& w, const Gemv& g) {
#pragma unroll 1
        for (int slot = from; slot < to; slot++) request(slot, w, g);
    }
    // The oldest stage, once it is there; the one worked on before is asked for anew.
    INLINE const uint8_t* next(const W& w, const Gemv& g) {
#ifdef HOPPER
        if constexpr (W::CONTIGUOUS) phase_wait(landed(out), parity);
        else
#endif
            copy_async_wait<STAGES - 2>();
        // All lanes' copies of this stage have landed, and all have read the stage before.
        __syncwarp();
        request(out == 0 ? STAGES - 1 : out - 1, w, g);
        const uint8_t* stage = stages + out * STAGE;
        if (++out == STAGES) out = 0, parity ^= 1;
        return stage;
    }
};

// A lane's unit in a tile.
template <class F> struct TileUnit {
    uint32_t code[4], second[4];
    uint2 high;
    UnitScale scale;
    INLINE TileUnit(const uint8_t* tile, int lane) {
        const uint8_t *side = tile + Tile<F>::SIDE + lane / OCTET * F::SIDE, *tail = tile + Tile<F>::TAIL + lane / OCTET * F::TAIL;
        uint4 v = *(const uint4*)(tile + lane * 16);
        code[0] = v.x, code[1] = v.y, code[2] = v.z, code[3] = v.w;
        if (F::CODES == 32) v = *(const uint4*)(tile + 512 + lane * 16);
        second[0] = v.x, second[1] = v.y, second[2] = v.z, second[3] = v.w;
        high = high_bits<F>(side, lane % OCTET);
        scale = F::scale(side, tail, lane % OCTET);
    }
    // Levels of elements 4 w ... and 4 w + 16 ... .
    INLINE uint2 levels(int w) const { return F::levels(code[w], second[w], high, w); }
};

// ------------------------------------------------------------------------------------------------- activations in shared memory

// As float32. The lanes of a tile hold pieces side by side along k: of each token and tile, the first four elements of all pieces are
// together, then the second four, and so on, so that lanes read consecutive 16 bytes.
template <int PIECE, int LANES> struct FloatX {
    static constexpr int GROUPS = PIECE / 4, ELEMENTS = PIECE * LANES, BYTES = 4 * ELEMENTS;  // of a tile
    uint8_t* x;
    int tiles;
    INLINE float4* slot(int t, unsigned piece, unsigned p) const {
        return (float4*)(x + (t * tiles + piece / LANES) * BYTES) + p * LANES + piece % LANES;
    }
    // Elements 8 i ... 8 i + 7; all lanes of a warp call it, those with something to put say so.
    INLINE void put(int t, unsigned i, const float (&v)[8], bool valid) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const unsigned q = 2 * i + h;
            if (valid) *slot(t, q / GROUPS, q % GROUPS) = make_float4(v[4 * h], v[4 * h + 1], v[4 * h + 2], v[4 * h + 3]);
        }
    }
};

// As 8-bit integers under a scale for each 32. Of each token and unit, 48 bytes, which lanes side by side read without
// conflicts: 32 integers, their scale, the sum of what they stand for.
struct IntX {
    static constexpr int ELEMENTS = 256, UNIT_BYTES = 48, BYTES = OCTET * UNIT_BYTES;
    uint8_t* x;
    int tiles;
    INLINE void put(int t, unsigned i, const float (&v)[8], bool valid) {
        // Four lanes side by side have a unit. Bits of magnitudes order as the magnitudes do, and NaN last.
        uint32_t top = 0;
#pragma unroll
        for (int e = 0; e < 8; e++) top = max(top, __float_as_uint(v[e]) & 0x7fffffffu);
        top = max(top, __shfl_xor_sync(FULL_WARP, top, 1));
        top = max(top, __shfl_xor_sync(FULL_WARP, top, 2));
        const float amax = __uint_as_float(top), inverse = amax > 1e-30f ? 127.0f * rcp_approx(amax) : 0.0f;
        const float scale = amax * (1.0f / 127.0f);
        // Added to 1.5 2^23, what is rounded to an integer is in the low bits.
        uint32_t q[8];
#pragma unroll
        for (int e = 0; e < 8; e++) q[e] = __float_as_uint(fmaf(v[e], inverse, 12582912.0f));
        const uint2 bytes = make_uint2(__byte_perm(__byte_perm(q[0], q[1], 0x0040), __byte_perm(q[2], q[3], 0x0040), 0x5410),
                                       __byte_perm(__byte_perm(q[4], q[5], 0x0040), __byte_perm(q[6], q[7], 0x0040), 0x5410));
        int sum = __dp4a((int)bytes.x, 0x01010101, __dp4a((int)bytes.y, 0x01010101, 0));
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        sum += __shfl_xor_sync(FULL_WARP, sum, 2);
        if (!valid) return;
        uint8_t* unit = x + t * tiles * BYTES + i / 4 * UNIT_BYTES;
        *(uint2*)(unit + i % 4 * 8) = bytes;
        if (i % 4 == 0) *(float2*)(unit + 32) = make_float2(scale, scale * (float)sum);
    }
};

// ------------------------------------------------------------------------------------------------------------------ products of a tile

// sum[r][t] = w_r . x_t for what a lane has of a tile, of one row or, where LANE_ROWS is 2, of both; `x` is the tile's part of the first
// token's x, `apart` what lies between tokens.
template <class W> struct FloatProduct {
    using Weights = W;
    using X = FloatX<W::PIECE, 32>;
    static constexpr int LANE_ROWS = 2;
    template <int M> static INLINE void of(const uint8_t* tile, int lane, const uint8_t* x, int apart, float (&sum)[2][M]) {
        float w[2][W::PIECE];
        W::numbers(*(const uint4*)(tile + lane * 16), w[0]);
        W::numbers(*(const uint4*)(tile + W::ROW_BYTES + lane * 16), w[1]);
#pragma unroll
        for (int t = 0; t < M; t++) {
            sum[0][t] = sum[1][t] = 0.0f;
#pragma unroll
            for (int p = 0; p < W::PIECE / 4; p++) {
                const float4 v = *(const float4*)(x + t * apart + (p * 32 + lane) * 16);
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    sum[r][t] += w[r][4 * p] * v.x;
                    sum[r][t] += w[r][4 * p + 1] * v.y;
                    sum[r][t] += w[r][4 * p + 2] * v.z;
                    sum[r][t] += w[r][4 * p + 3] * v.w;
                }
            }
        }
    }
};

// Levels by 8-bit integers of x, exact in 32 bits; scales in float32.
template <class F> struct IntProduct {
    using Weights = Units<F>;
    using X = IntX;
    static constexpr int LANE_ROWS = 1;
    template <int M> static INLINE void of(const uint8_t* tile, int lane, const uint8_t* x, int apart, float (&sum)[1][M]) {
        const TileUnit<F> unit(tile, lane);
        uint32_t low[4], high[4];
#pragma unroll
        for (int w = 0; w < 4; w++) {
            uint2 q = unit.levels(w);
            low[w] = q.x, high[w] = q.y;
        }
        x += lane % OCTET * X::UNIT_BYTES;
#pragma unroll
        for (int t = 0; t < M; t++) {
            const uint8_t* at = x + t * apart;
            const int first = dot(low, *(const uint4*)at), second = dot(high, *(const uint4*)(at + 16));
            const float2 scale = *(const float2*)(at + 32);
            const float product = F::HALVES ? unit.scale.first * (float)first + unit.scale.second * (float)second
                                            : unit.scale.first * (float)(first + second);
            sum[0][t] = product * scale.x;
            if (F::MINIMUM) sum[0][t] -= unit.scale.minimum * scale.y;
        }
    }
    static INLINE int dot(const uint32_t (&q)[4], uint4 v) {
        int sum = __dp4a((int)q[0], (int)v.x, 0);
        sum = __dp4a((int)q[1], (int)v.y, sum);
        sum = __dp4a((int)q[2], (int)v.z, sum);
        return __dp4a((int)q[3], (int)v.w, sum);
    }
};

// Weights decoded exactly, float32 products.
template <class F> struct ExactProduct {
    using Weights = Units<F>;
    using X = FloatX<UNIT, OCTET>;
    static constexpr int LANE_ROWS = 1;
    template <int M> static INLINE void of(const uint8_t* tile, int lane, const uint8_t* x, int apart, float (&sum)[1][M]) {
        const TileUnit<F> unit(tile, lane);
        const float scale = unit.scale.first, minimum = unit.scale.minimum;
        x += lane % OCTET * 16;
        float half[2][M] = {};
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const uint2 levels = unit.levels(w);
            add_four(scale, minimum, levels.x, x + w * OCTET * 16, apart, half[0]);
            add_four(scale, minimum, levels.y, x + (w + 4) * OCTET * 16, apart, half[1]);
        }
#pragma unroll
        for (int t = 0; t < M; t++) {
            if (F::MINIMUM) sum[0][t] = half[0][t] + half[1][t];
            else if (F::HALVES) sum[0][t] = scale * half[0][t] + unit.scale.second * half[1][t];
            else sum[0][t] = scale * (half[0][t] + half[1][t]);
        }
    }
    template <int M>
    static INLINE void add_four(float scale, float minimum, uint32_t levels, const uint8_t* x, int apart,
                                float (&sum)[M]) {
        float w[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            w[i] = level_to_f32(levels ^ 0x80808080u, i);
            // Without a minimum the scale, common to 16 or 32 products that are exact up to it, waits for their sum.
            if (F::MINIMUM) w[i] = scale * w[i] - minimum;
        }
#pragma unroll
        for (int t = 0; t < M; t++) {
            const float4 v = *(const float4*)(x + t * apart);
            sum[t] += w[0] * v.x;
            sum[t] += w[1] * v.y;
            sum[t] += w[2] * v.z;
            sum[t] += w[3] * v.w;
        }
    }
};

// ------------------------------------------------------------------------------------------------------------------------ x into shared

// Elements 8 i ... 8 i + 7 of a row of k as they lie in memory, zeros beyond; in wide accesses where `wide` says that all rows are aligned.
template <class T> struct Eight {
    static constexpr int N = 16 / sizeof(T);
    Packed<T, N> part[8 / N];
    INLINE void load(const T* row, int i, int k, bool wide) {
        if (wide && 8 * i + 8 <= k) {
#pragma unroll
            for (int p = 0; p < 8 / N; p++) part[p].load_whole(row + 8 * i + N * p);
            return;
        }
        // Rare, so it is short instead of fast: each element moves the others down.
#pragma unroll 1
        for (int e = 8 * i; e < 8 * i + 8; e++) {
            const T next = e < k ? row[e] : (T)0;
#pragma unroll
            for (int w = 0; w < 2 * (int)sizeof(T); w++) {
                const bool last = w + 1 == 2 * (int)sizeof(T);
                const uint32_t above = last ? bits(next) : word(w + 1 - last);
                word(w) = sizeof(T) == 4 ? above : word(w) >> 16 | above << 16;
            }
        }
    }
    INLINE float operator[](int e) const { return part[e / N][e % N]; }

private:
    INLINE uint32_t& word(int w) { return part[w / 4].word[w % 4]; }
    static INLINE uint32_t bits(float x) { return __float_as_uint(x); }
    static INLINE uint32_t bits(bf16_t x) { return x; }
};

// Sum over the block, the same bits in every thread: lanes by a butterfly, then the warps in order. `scratch` holds a float for each warp.
INLINE float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll 1
    for (int w = 0; w < (int)blockDim.x / 32; w++) sum += scratch[w];
    return sum;
}

// Puts a token's x into shared memory. An RMS norm's factor 1 / sqrt(mean + eps) is common to all of x, so it waits for the end: here each
// warp leaves its part of the sum of squares in `squares`, and one pass is enough. Calls `asked` when the first reads are under way.
template <int KIND, class T, class X, class Asked>
INLINE void put_token(X& x, const Gemv& g, int t, const Eight<float>& ahead, float* squares, Asked asked) {
    // Whole tiles, with zeros beyond k.
    const int lane = threadIdx.x % 32, k = g.k, eighths = x.tiles * (X::ELEMENTS / 8);
    constexpr int SIZE = sizeof(T);
    const bool wide = (((uint64_t)g.x | (uint64_t)g.x_stride * SIZE) & 15) == 0;
    const uint8_t* row = (const uint8_t*)g.x + (int64_t)t * g.x_stride * SIZE;
    float mean = 0.0f, factor = 1.0f, sum = 0.0f;
    if (KIND == X_LAYER_NORM) {
        const float* r = (const float*)row;
#pragma unroll 1
        for (int i = threadIdx.x; i < k; i += blockDim.x) sum += r[i];
        mean = block_sum(sum, squares) / (float)k;
        sum = 0.0f;
#pragma unroll 1
        for (int i = threadIdx.x; i < k; i += blockDim.x) sum += (r[i] - mean) * (r[i] - mean);
        factor = 1.0f / sqrtf(block_sum(sum, squares) / (float)k + g.eps);
        sum = 0.0f;
    }
    // Reads of two rounds are under way together.
    constexpr int BATCH = KIND == X_BF16 || KIND == X_F32 ? 2 : 1;
    Eight<T> arrived[BATCH];
    auto read = [&](int first) {
#pragma unroll
        for (int b = 0; b < BATCH; b++) arrived[b].load((const T*)row, first + b * blockDim.x + lane, k, wide);
    };
    read(threadIdx.x - lane);
    asked();
#pragma unroll 1
    for (int first = threadIdx.x - lane; first < eighths; first += BATCH * blockDim.x) {
        if (first >= (int)blockDim.x) read(first);
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const int start = first + b * blockDim.x, i = start + lane;
            if (start >= eighths) break;
            float v[8];
            Eight<float> weight;
#pragma unroll
            for (int e = 0; e < 8; e++) v[e] = arrived[b][e];
            if (KIND >= X_RMS_NORM) {
                if (i < (int)blockDim.x) weight = ahead;
                else weight.load(g.norm_weight, i, k, true);
            }
            if (KIND == X_RMS_NORM) {
#pragma unroll
                for (int e = 0; e < 8; e++) sum += v[e] * v[e], v[e] *= weight[e];
            }
            if (KIND == X_LAYER_NORM) {
#pragma unroll
                for (int e = 0; e < 8; e++) v[e] = 8 * i + e < k ? (v[e] - mean) * factor * weight[e] : 0.0f;
                if (g.norm_bias) {
                    weight.load(g.norm_bias, i, k, true);
#pragma unroll
                    for (int e = 0; e < 8; e++) v[e] += weight[e];
                }
            }
            x.put(t, i, v, i < eighths);
        }
    }
    if (KIND == X_RMS_NORM) {
        sum = warp_sum(sum);
        if (lane == 0) squares[threadIdx.x / 32] = sum;
    }
}

// ------------------------------------------------------------------------------------------------------------------------------ kernel

// x / y for 0 <= x < 2^20, given 1 / y within 1 ulp.
INLINE int quotient(int x, float inverse) { return (int)(((float)x + 0.5f) * inverse); }

// Shared memory of a block, behind the rings and x. The sum of a row is in `parts`, as far as the owner of its group has it, the warp with
// the group's first tile; what the warps after that one add is in `tails`.
struct Sums {
    float* squares;  // [M][warps]
    float* tails;    // [warps][M][ROWS]
    float* parts;    // [M][capacity]
    float* biases;   // [capacity]: of the block's rows
    float* before;   // [M][capacity]: what is added to
    float* conv;     // [2 width][capacity]: taps, past inputs, biases of the block's channels
    int capacity;    // rows of a block at most
    INLINE Sums(uint8_t* shared, int warps, int m, int rows, int capacity) : capacity(capacity) {
        squares = (float*)shared, tails = squares + m * warps, parts = tails + warps * m * rows;
        biases = parts + m * capacity, before = biases + capacity, conv = before + m * capacity;
    }
    // The sum of a row of groups of `tiles` tiles, of which each warp had as many as `inverse_most` is the inverse of.
    template <int M, int ROWS> INLINE float total(int t, int local, int tiles, float inverse_most) const {
        const int begin = local / ROWS * tiles, last = quotient(begin + tiles - 1, inverse_most);
        float sum = parts[t * capacity + local];
#pragma unroll 1
        for (int j = quotient(begin, inverse_most) + 1; j <= last; j++) sum += tails[(j * M + t) * ROWS + local % ROWS];
        return sum;
    }
};

// Output `channel`, number `i` of the block's, through the causal convolution of which it is the newest input.
INLINE float convolved(const Gemv& g, const Sums& sums, int channel, int i, float x) {
    const float *taps = sums.conv + i, *past = taps + g.conv_width * sums.capacity;
    float y = g.conv_bias ? past[(g.conv_width - 1) * sums.capacity] : 0.0f;
#pragma unroll 1
    for (int j = 0; j < g.conv_width - 1; j++) {
        y += taps[j * sums.capacity] * past[j * sums.capacity];
        g.conv_past[j * g.conv_channels + channel] = j + 1 < g.conv_width - 1 ? past[(j + 1) * sums.capacity] : x;
    }
    return silu(y + taps[(g.conv_width - 1) * sums.capacity] * x);
}

template <class Product, int M> INLINE void gemv(const Gemv& g) {
    using W = typename Product::Weights;
    using X = typename Product::X;
    DYNAMIC_SHARED(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int tokens = M == 1 ? 1 : g.tokens;

    // The block's rows, and the warp's share of their tiles.
    const W w(g);
    const int gated = g.y_kind >= Y_GLU_F32, groups = g.each + ((int)blockIdx.x < g.more);
    const int first = (blockIdx.x * g.each + min((int)blockIdx.x, g.more)) * W::ROWS, rows = min(W::ROWS * groups, g.n - first);
    const int items = (rows + W::ROWS - 1) / W::ROWS * w.tiles, most = (items + warps - 1) >> (26 - __clz(blockDim.x));
    const int begin = min(warp * most, items);
    int left = min(most, items - begin), group = quotient(begin, g.inverse_tiles), tile = begin - group * w.tiles;
    keep(left), keep(group), keep(tile);

    Ring<W> ring(typename W::Stream(w, g, first, group * W::ROWS, tile, left), shared + warp * Ring<W>::BYTES);
    ring.begin();
    ring.fill(0, W::EARLY, w, g);

    // ---- x, while the first weights are under way
    X x{shared + warps * Ring<W>::BYTES, w.tiles};
    const Sums sums(x.x + M * w.tiles * X::BYTES, warps, M, W::ROWS, (g.each + 1) * W::ROWS);
    const int tail = tile > 0 ? group : -1;
    if (g.bias) {
#pragma unroll 1
        for (int i = threadIdx.x; i < rows; i += blockDim.x) copy_async4(sums.biases + i, g.bias + w.row(first, i));
    }
    Eight<float> norm_weights;
    if (g.x_kind >= X_RMS_NORM) norm_weights.load(g.norm_weight, threadIdx.x, g.k, true);
    previous_kernel_wait();
    const int count = rows >> gated, output = first >> gated;
#pragma unroll 1
    for (int i = threadIdx.x; i < min(count, g.conv_channels - output); i += blockDim.x) {
#pragma unroll 1
        for (int j = 0; j < 2 * g.conv_width - 1; j++) {
            const float* row = j < g.conv_width ? g.conv_taps + j * g.conv_channels
                                                : g.conv_past + (j - g.conv_width) * g.conv_channels;
            copy_async4(sums.conv + j * sums.capacity + i, row + output + i);
        }
        if (g.conv_bias) copy_async4(sums.conv + (2 * g.conv_width - 1) * sums.capacity + i, g.conv_bias + output + i);
    }
#pragma unroll 1
    for (int t = 0; t < tokens; t++) {
        if (g.y_kind == Y_ADD_F32) {
#pragma unroll 1
            for (int i = threadIdx.x; i < count; i += blockDim.x)
                copy_async4(sums.before + t * sums.capacity + i, (const float*)g.y + (int64_t)t * g.y_stride + output + i);
        }
        auto asked = [&] {
            if (t > 0) return;
            ring.fill(W::EARLY, W::STAGES - 1, w, g);
            next_kernel_start();
        };
        float* squares = sums.squares + t * warps;
        if (g.x_kind == X_BF16) put_token<X_BF16, bf16_t>(x, g, t, norm_weights, squares, asked);
        else if (g.x_kind == X_F32) put_token<X_F32, float>(x, g, t, norm_weights, squares, asked);
        else if (g.x_kind == X_RMS_NORM) put_token<X_RMS_NORM, float>(x, g, t, norm_weights, squares, asked);
        else put_token<X_LAYER_NORM, float>(x, g, t, norm_weights, squares, asked);
    }
    __syncthreads();

    // ---- products
    constexpr int LANE_ROWS = Product::LANE_ROWS;
    float acc[LANE_ROWS][M] = {};
#pragma unroll 1
    for (int i = 0; i < left; i += W::TILES) {
        const uint8_t* stage = ring.next(w, g);
#pragma unroll
        for (int s = 0; s < W::TILES; s += W::TOGETHER) {
            if (s > 0 && i + s >= left) break;
            float part[W::TOGETHER][LANE_ROWS][M];
#pragma unroll
            for (int p = 0; p < W::TOGETHER; p++) {
                const int at = tile + p < w.tiles ? tile + p : tile + p - w.tiles;
                Product::of(stage + (s + p) * W::BYTES, lane, x.x + at * X::BYTES, w.tiles * X::BYTES, part[p]);
            }
#pragma unroll
            for (int p = 0; p < W::TOGETHER; p++) {
                if (p > 0 && i + s + p >= left) break;
#pragma unroll
                for (int r = 0; r < LANE_ROWS; r++) {
#pragma unroll
                    for (int t = 0; t < M; t++) acc[r][t] += part[p][r][t];
                }
                if (++tile < w.tiles && i + s + p < left - 1) continue;
                const bool owner = group != tail;
#pragma unroll
                for (int t = 0; t < M; t++) {
                    float sum = acc[0][t];
                    if (LANE_ROWS == 2) {
                        // The lower lanes go on with the first row, the upper ones with the second.
                        const float other = acc[LANE_ROWS - 1][t];
                        const bool upper = lane >= W::LANES;
                        sum = (upper ? other : sum) + __shfl_xor_sync(FULL_WARP, upper ? sum : other, W::LANES);
                    }
#pragma unroll
                    for (int d = W::LANES / 2; d > 0; d >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, d);
                    float* to = owner ? sums.parts + t * sums.capacity + group * W::ROWS : sums.tails + (warp * M + t) * W::ROWS;
                    if (lane % W::LANES == 0) to[lane / W::LANES] = sum;
#pragma unroll
                    for (int r = 0; r < LANE_ROWS; r++) acc[r][t] = 0.0f;
                }
                tile = 0, group++;
            }
        }
    }
    // A warp without work has not yet handed in its part of `biases` and `before`.
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();

    // ---- outputs: a thread has a row; with a gate, its neighbour has what the row gates
    const float inverse_most = rcp_approx((float)most);
#pragma unroll 1
    for (int t = 0; t < tokens; t++) {
        float factor = 1.0f;
        if (g.x_kind == X_RMS_NORM) {
            factor = inverse_sqrt(warp_sum(lane < warps ? sums.squares[t * warps + lane] : 0.0f) * rcp_approx((float)g.k) + g.eps);
        }
#pragma unroll 1
        for (int local = threadIdx.x; local - lane < rows; local += blockDim.x) {
            float sum = 0.0f;
            if (local < rows) {
                sum = sums.total<M, W::ROWS>(t, local, w.tiles, inverse_most) * factor;
                if (g.bias) sum += sums.biases[local];
            }
            if (gated) sum = silu(sum) * __shfl_xor_sync(FULL_WARP, sum, 1);
            if (local >= rows || (local & gated)) continue;
            const int i = local >> gated;
            if (g.y_kind == Y_ADD_F32) sum += sums.before[t * sums.capacity + i];
            if (output + i < g.conv_channels) sum = convolved(g, sums, output + i, i, sum);
            const int64_t to = (int64_t)t * g.y_stride + output + i;
            if (g.y_kind == Y_BF16 || g.y_kind == Y_GLU_BF16) ((bf16_t*)g.y)[to] = f32_to_bf16(sum);
            else ((float*)g.y)[to] = sum;
        }
    }
}
