// Softmax attention of one token in one launch: RoPE of its query and key, append of its key and value to the ring, attention over the
// keys it sees (itself included), split over blocks, and the combination of their parts by the block that ends last.
//
//   out(h) = sum over j in max(0, p - window + 1) .. p of softmax_j(q(h) . k(j, g) / sqrt(head_dim)) v(j, g),   g = h / (heads / groups)
//
// attention_decode_{f32,bf16}_d{32,64,128,256}_h{1,4}: head_dim up to the number after d and a multiple of 16 bytes. A block serves up to
//   h heads of a group with one reading of their keys: take h4 where heads / groups > 1.
// attention_decode_{f32,bf16}_any: any even head_dim up to 256, slowly; as h1.
//
//   out        (heads * head_dim)
//   q, k, v    (heads * head_dim), (groups * head_dim) twice: the token's projections, before RoPE, anywhere. k and v null: the token's key
//              and value are in the rings already, and nothing is written there
//   cos, sin   (dims / 2) float32, the token's row of rope_table; unused (may be null) where dims = 0
//   k_ring, v_ring  (capacity, groups * head_dim), 16-byte aligned; position p lies in slot p % capacity. capacity >= window, or without a
//              window > p. Slot p % capacity is written here, the other slots of keys in sight are read.
//   position   one int64 on the device: the token's position
//   parts      float32, heads * splits * (head_dim + 2): scratch, nothing carries over
//   tickets    uint32, groups * ceil(heads / groups / h): zeros before the first launch, zeros again after each
//   dims       rotated channels of a head: even, 0 <= dims <= head_dim
//   window     keys the token sees, itself included; 0 for all
// Launch: grid (splits, groups * ceil(heads / groups / h)), block 256, 101,376 bytes of dynamic shared memory. Any splits >= 1 is right;
//   good is min(ceil(keys in sight at most / 128), multiprocessors / grid.y), at least 1: a block for each multiprocessor, small enough to
//   come up beside one of the product before (gemv.cu). The keys in sight are shared out evenly over all warps, a round or more to each;
//   blocks left over have nothing to do, so that one captured grid serves all positions.
// Order (programmatic dependent launch): q, k, v, cos and sin are read after previous_kernel_wait; position and the ring before it. Hence
//   the kernel right before in the stream must write neither, or this one must be launched without the overlap. Where k is null, the
//   kernels between this one and the one that wrote the ring may all have begun early: launch it without the overlap.
#include "attention.cuh"

#define WARPS 8
#define THREADS (32 * WARPS)
// As much as a block may have on every chip from sm_80 on.
#define SHARED_BYTES (99 << 10)
// Parts whose numbers are under way together when they are combined.
#define BATCH 8

template <typename T> struct DecodeArguments {
    T* out;
    const T *q, *k, *v;
    const float *cos, *sin;
    T *k_ring, *v_ring;
    const int64_t* position;
    float* parts;
    uint32_t* tickets;
    int heads, groups, head_dim, dims, window, capacity;
};

// 16 bytes from global to shared memory, of which `count` numbers exist (less than 1: none); zeros after them. Where a head is no multiple
// of 16 bytes, it is one of 4.
template <bool WIDE, typename T> INLINE void copy_piece(T* to, const T* from, int count) {
    if constexpr (WIDE) {
        copy_async16(to, from, count > 0);
    } else {
        constexpr int WORD = 4 / sizeof(T);
#pragma unroll
        for (int i = 0; i < 4; ++i) copy_async4(to + i * WORD, from + i * WORD, i * WORD < count);
    }
}

// Sum over neighbouring lanes, the same bits in each.
template <int LANES> INLINE float sum_across(float x) {
#pragma unroll
    for (int mask = LANES / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(FULL_WARP, x, mask);
    return x;
}

// Weight of a score under the maximum `top`: exact for float32; for bf16 scores are in powers of 2 already (see `unit`).
INLINE float weight(float score, float top, float scale, float) { return expf((score - top) * scale); }
INLINE float weight(float score, float top, float, bf16_t) { return ex2_approx(score - top); }

// A key is read by LANES lanes, CHUNKS times 16 bytes each, and so is its value; a load of a warp covers 32 / LANES keys, a round LOADS of
// these. bf16_d128_h1:
//
//     load i of a round:   lanes 0 .. 7: key 4 i | lanes 8 .. 15: key 4 i + 1 | lanes 16 .. 23: key 4 i + 2 | lanes 24 .. 31: key 4 i + 3
//     chunk j:             channels 64 j + 8 (lane % 8) and the seven after it
//
// Lanes that read the same keys have a softmax of their own, until those of all lanes, warps and blocks are combined. A warp has a run of
// keys, which stream through a ring of stages in shared memory, a round in each: (keys and values, LOADS, CHUNKS, lanes) of 16 bytes. A
// lane reads what it has itself copied, so that no lane waits for another.
template <typename T, int D, int HEADS, bool WIDE> INLINE void decode(const DecodeArguments<T>& a) {
    constexpr int VEC = 16 / sizeof(T), CHUNKS = HEADS == 1 || D / VEC > 32 ? 2 : 1, LANES = D / VEC / CHUNKS;
    constexpr int LOADS = 4 / CHUNKS, PER_LOAD = 32 / LANES, KEYS = PER_LOAD * LOADS;
    constexpr int ROWS = HEADS + 2, STAGE = 2 * KEYS * D, STAGES = (SHARED_BYTES / (int)sizeof(T) - ROWS * D) / (WARPS * STAGE);
    DYNAMIC_SHARED(shared);
    T *rows = (T*)shared, *rings = rows + ROWS * D; // queries, new key, new value | stages of each warp

    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, splits = gridDim.x, split = blockIdx.x;
    int ratio = a.heads / a.groups, blocks = (ratio + HEADS - 1) / HEADS, group = blockIdx.y / blocks;
    int head0 = group * ratio + blockIdx.y % blocks * HEADS, heads = min(HEADS, (group + 1) * ratio - head0);
    int64_t p = *a.position;
    // Keys in sight are numbered from the oldest, 0 .. count - 1; the last is the token's own.
    int count = (int)(a.window > 0 ? min(p + 1, (int64_t)a.window) : p + 1);
    int slot0 = ring_slot(p + 1 - count, a.capacity);
    int run = max((count + splits * WARPS - 1) / (splits * WARPS), KEYS), active = (count + run * WARPS - 1) / (run * WARPS);
    if (split >= active) return previous_kernel_wait();
    int begin = min((split * WARPS + warp) * run, count), end = min(begin + run, count);
    bool fresh = a.k && split == active - 1; // the block has the token's own key, which is not in the ring yet
    int stored = fresh ? min(end, count - 1) : end;

    T *k_ring = a.k_ring + group * a.head_dim, *v_ring = a.v_ring + group * a.head_dim;
    auto place = [&](int n) {
        uint32_t slot = slot0 + n, capacity = a.capacity, row = a.groups * a.head_dim;
        return (uint64_t)(slot < capacity ? slot : slot - capacity) * row;
    };
    auto key = [&](int i) { return i * PER_LOAD + lane / LANES; };
    auto channel = [&](int j) { return (j * LANES + lane % LANES) * VEC; };
    T* ring = rings + warp * STAGES * STAGE + lane * VEC;
    auto request = [&](int first, T* stage) { // a round
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            if (first >= end) break;
            uint64_t from = place(first + key(i));
#pragma unroll
            for (int j = 0; j < CHUNKS; ++j) {
                // Zeros where there is nothing, since memory nobody wrote may hold NaN.
                int ch = channel(j), exist = first + key(i) < stored ? a.head_dim - ch : 0;
                copy_piece<WIDE>(stage + (i * CHUNKS + j) * 32 * VEC, k_ring + from + ch, exist);
                copy_piece<WIDE>(stage + ((LOADS + i) * CHUNKS + j) * 32 * VEC, v_ring + from + ch, exist);
            }
        }
        copy_async_commit();
    };
#pragma unroll
    for (int s = 0; s < STAGES; ++s) request(begin + s * KEYS, ring + s * STAGE);

    float scale = 1.0f / sqrtf((float)a.head_dim);
    // exp(scale x) = 2^(unit x)
    float unit = sizeof(T) == 2 ? scale * 1.44269504f : 1.0f;

    previous_kernel_wait();
    // Row HEADS is the new key, the one after it the new value.
    constexpr int ITEMS = (ROWS * D + THREADS - 1) / THREADS;
    int half = a.dims / 2;
    auto exists = [&](int row, int ch) { return ch < a.head_dim & row < (fresh ? ROWS : HEADS) & (row < heads | row >= HEADS); };
    float x[ITEMS], other[ITEMS], cosine[ITEMS], sine[ITEMS];
#pragma unroll
    for (int m = 0; m < ITEMS; ++m) {
        int row = (threadIdx.x + m * THREADS) / D, ch = (threadIdx.x + m * THREADS) % D, pair = ch < half ? ch + half : ch - half;
        const T* from = row < HEADS ? a.q + (head0 + row) * a.head_dim : (row == HEADS ? a.k : a.v) + group * a.head_dim;
        bool there = exists(row, ch), turns = there & row <= HEADS & ch < a.dims;
        x[m] = load_if(there, from + ch), other[m] = load_if(turns, from + pair);
        cosine[m] = load_if(turns, a.cos + min(ch, pair), 1.0f), sine[m] = load_if(turns, a.sin + min(ch, pair));
    }
    next_kernel_start(); // not before: what the next kernel asks for would delay these
#pragma unroll
    for (int m = 0; m < ITEMS; ++m) {
        int row = (threadIdx.x + m * THREADS) / D, ch = (threadIdx.x + m * THREADS) % D;
        T y; // rounded as the ring holds it
        store(&y, x[m] * cosine[m] + (ch < half ? -other[m] : other[m]) * sine[m]);
        if (row < ROWS) rows[row * D + ch] = y;
        if (row >= HEADS && exists(row, ch) && blockIdx.y % blocks == 0) (row == HEADS ? k_ring : v_ring)[place(count - 1) + ch] = y;
    }
    __syncthreads();

    float q[HEADS][CHUNKS][VEC], o[HEADS][CHUNKS][VEC] = {}, top[HEADS], sum[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
        top[h] = NEVER, sum[h] = 0;
#pragma unroll
        for (int j = 0; j < CHUNKS; ++j) {
            load_vector<VEC>(q[h][j], rows + h * D + channel(j));
#pragma unroll
            for (int e = 0; e < VEC; ++e) q[h][j][e] *= unit;
        }
    }
    T* stage = ring;
#pragma unroll 1
    for (int first = begin; first < end; first += KEYS) {
        copy_async_wait<STAGES - 1>();
        if (fresh && first + KEYS >= count) { // the token's own key and value take their places
#pragma unroll
            for (int i = 0; i < 2 * LOADS * CHUNKS; ++i) {
                const T* own = rows + (HEADS + i / (LOADS * CHUNKS)) * D + channel(i % CHUNKS);
                if (first + key(i / CHUNKS % LOADS) == count - 1) *(uint4*)(stage + i * 32 * VEC) = *(const uint4*)own;
            }
        }
        float scores[HEADS][LOADS] = {};
#pragma unroll
        for (int i = 0; i < LOADS; ++i)
#pragma unroll
            for (int j = 0; j < CHUNKS; ++j) {
                float k[VEC];
                load_vector<VEC>(k, stage + (i * CHUNKS + j) * 32 * VEC);
#pragma unroll
                for (int h = 0; h < HEADS; ++h)
#pragma unroll
                    for (int e = 0; e < VEC; ++e) scores[h][i] += q[h][j][e] * k[e];
            }
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            float high = top[h];
#pragma unroll
            for (int i = 0; i < LOADS; ++i) {
                float score = sum_across<LANES>(scores[h][i]);
                scores[h][i] = first + key(i) < end ? score : MINUS_INFINITY;
                high = fmaxf(high, scores[h][i]);
            }
            float shrink = weight(top[h], high, scale, (T)0);
            top[h] = high, sum[h] *= shrink;
#pragma unroll
            for (int j = 0; j < CHUNKS; ++j)
#pragma unroll
                for (int e = 0; e < VEC; ++e) o[h][j][e] *= shrink;
#pragma unroll
            for (int i = 0; i < LOADS; ++i) sum[h] += scores[h][i] = weight(scores[h][i], high, scale, (T)0);
        }
#pragma unroll
        for (int i = 0; i < LOADS; ++i)
#pragma unroll
            for (int j = 0; j < CHUNKS; ++j) {
                float v[VEC];
                load_vector<VEC>(v, stage + ((LOADS + i) * CHUNKS + j) * 32 * VEC);
#pragma unroll
                for (int h = 0; h < HEADS; ++h)
#pragma unroll
                    for (int e = 0; e < VEC; ++e) o[h][j][e] += scores[h][i] * v[e];
            }
        request(first + STAGES * KEYS, stage);
        stage = stage == ring + (STAGES - 1) * STAGE ? ring : stage + STAGE;
    }

    // Over the keys of a load, then over the warps, each of which leaves its part where its ring was: channels, maxima, sums.
    auto part_of = [&](int w) { return (float*)(rings + w * STAGES * STAGE); };
    static_assert(HEADS * (D + 2) * sizeof(float) <= STAGES * STAGE * sizeof(T), "a part fits");
    __syncwarp();
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
        float high = top[h];
#pragma unroll
        for (int mask = LANES; mask < 32; mask *= 2) high = fmaxf(high, __shfl_xor_sync(FULL_WARP, high, mask));
        float shrink = weight(top[h], high, scale, (T)0), l = sum[h] * shrink;
#pragma unroll
        for (int mask = LANES; mask < 32; mask *= 2) l += __shfl_xor_sync(FULL_WARP, l, mask);
        if (lane == 0) part_of(warp)[HEADS * D + h] = high, part_of(warp)[HEADS * (D + 1) + h] = l;
#pragma unroll
        for (int j = 0; j < CHUNKS; ++j) {
#pragma unroll
            for (int e = 0; e < VEC; ++e) {
                o[h][j][e] *= shrink;
#pragma unroll
                for (int mask = LANES; mask < 32; mask *= 2) o[h][j][e] += __shfl_xor_sync(FULL_WARP, o[h][j][e], mask);
            }
            if (lane < LANES) store_vector<VEC>(part_of(warp) + h * D + channel(j), o[h][j]);
        }
    }
    __syncthreads();
    int part = a.head_dim + 2; // channels, maximum, sum
#pragma unroll 1
    for (int i = threadIdx.x; i < HEADS * D; i += THREADS) {
        int h = i / D, ch = i % D, head = head0 + h;
        if (!exists(h, ch)) continue;
        float high = NEVER, l = 0, y = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) high = fmaxf(high, part_of(w)[HEADS * D + h]);
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            float shrink = weight(part_of(w)[HEADS * D + h], high, scale, (T)0);
            l += shrink * part_of(w)[HEADS * (D + 1) + h], y += shrink * part_of(w)[i];
        }
        if (active == 1) {
            store(a.out + head * a.head_dim + ch, y / l);
        } else {
            float* to = a.parts + ((int64_t)head * splits + split) * part;
            to[ch] = y;
            if (ch == 0) to[a.head_dim] = high, to[a.head_dim + 1] = l;
        }
    }
    if (active == 1) return;

    // The thread with the ticket speaks for the block: what was written before one barrier is seen after the other.
    __syncthreads();
    uint32_t last = active - 1;
    bool is_last = threadIdx.x == 0 && take_ticket(a.tickets + blockIdx.y, last) == last;
    if (!__syncthreads_or(is_last)) return;
#pragma unroll 1
    for (int i = threadIdx.x; i < HEADS * D; i += THREADS) {
        int h = i / D, ch = i % D, head = head0 + h;
        if (!exists(h, ch)) continue;
        float high = NEVER, l = 0, y = 0;
#pragma unroll 1
        for (int s = 0; s < active; s += BATCH) {
            const float* from = a.parts + ((int64_t)head * splits + s) * part;
            float tops[BATCH], sums[BATCH], channels[BATCH], higher = high;
#pragma unroll
            for (int j = 0; j < BATCH; ++j) {
                bool more = s + j < active;
                tops[j] = more ? __ldcg(from + j * part + a.head_dim) : NEVER;
                sums[j] = more ? __ldcg(from + j * part + a.head_dim + 1) : 0.0f;
                channels[j] = more ? __ldcg(from + j * part + ch) : 0.0f;
            }
#pragma unroll
            for (int j = 0; j < BATCH; ++j) higher = fmaxf(higher, tops[j]);
            float shrink = weight(high, higher, scale, (T)0);
            high = higher, l *= shrink, y *= shrink;
#pragma unroll
            for (int j = 0; j < BATCH; ++j) {
                shrink = weight(tops[j], high, scale, (T)0);
                l += shrink * sums[j], y += shrink * channels[j];
            }
        }
        store(a.out + head * a.head_dim + ch, y / l);
    }
}

#define DECODE(T, name, D, HEADS, WIDE)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                                               \
    attention_decode_##name(T* out, const T* q, const T* k, const T* v, const float* cos, const float* sin, T* k_ring, T* v_ring,          \
                            const int64_t* position, float* parts, uint32_t* tickets, int heads, int groups, int head_dim, int dims,       \
                            int window, int capacity) {                                                                                    \
        decode<T, D, HEADS, WIDE>({out, q, k, v, cos, sin, k_ring, v_ring, position, parts, tickets, heads, groups, head_dim, dims,        \
                                   window, capacity});                                                                                     \
    }
#define SIZES(T, name)                                                                                                                     \
    DECODE(T, name##_d32_h1, 32, 1, true)                                                                                                  \
    DECODE(T, name##_d64_h1, 64, 1, true)                                                                                                  \
    DECODE(T, name##_d128_h1, 128, 1, true)                                                                                                \
    DECODE(T, name##_d256_h1, 256, 1, true)                                                                                                \
    DECODE(T, name##_d32_h4, 32, 4, true)                                                                                                  \
    DECODE(T, name##_d64_h4, 64, 4, true)                                                                                                  \
    DECODE(T, name##_d128_h4, 128, 4, true)                                                                                                \
    DECODE(T, name##_d256_h4, 256, 4, true)                                                                                                \
    DECODE(T, name##_any, 256, 1, false)
SIZES(bf16_t, bf16)
SIZES(float, f32)
