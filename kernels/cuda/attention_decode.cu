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
// Launch: grid (splits, groups * ceil(heads / groups / h)), block 128, no dynamic shared memory. Any splits >= 1 is right; good is
//   min(ceil(keys in sight at most / 128), 3 * multiprocessors / grid.y), at least 1. The keys in sight are shared out evenly in steps
//   of one round of a block; blocks left over end at once, so that one captured grid serves all positions.
// Order (programmatic dependent launch): q, k, v, cos and sin are read after previous_kernel_wait; position and the ring before it. Hence
//   the kernel right before in the stream must write neither, or this one must be launched without the overlap. Where k is null, the
//   kernels between this one and the one that wrote the ring may all have begun early: launch it without the overlap.
#include "attention.cuh"

#define WARPS 4

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

// Channel `ch` of one head after RoPE, rounded as the ring holds it.
template <typename T> INLINE T rotated(const T* head, int ch, const float* cos, const float* sin, int dims) {
    int half = dims / 2;
    if (ch >= dims) return head[ch];
    int i = ch < half ? ch : ch - half;
    float a = load(head + i), b = load(head + i + half), c = cos[i], s = sin[i];
    T y;
    store(&y, ch < half ? a * c - b * s : b * c + a * s);
    return y;
}

// 16 bytes as float32.
INLINE void unpack(float (&x)[4], uint4 v) {
    x[0] = __uint_as_float(v.x), x[1] = __uint_as_float(v.y), x[2] = __uint_as_float(v.z), x[3] = __uint_as_float(v.w);
}
INLINE void unpack(float (&x)[8], uint4 v) {
    uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) x[2 * i] = __uint_as_float(words[i] << 16), x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
}
// The same of numbers that need not be aligned, of which `count` exist.
template <typename T> INLINE uint4 gather(const T* p, int count) {
    union {
        uint4 words;
        T x[16 / sizeof(T)];
    } u;
#pragma unroll
    for (int i = 0; i < 16 / (int)sizeof(T); ++i) u.x[i] = i < count ? p[i] : (T)0;
    return u.words;
}

// Sums N numbers over LANES neighbouring lanes. At each step a lane keeps half of its numbers and gives the other half away, so that few
// are exchanged; number i ends up in the LANES / N lanes from i * LANES / N on. N <= LANES, powers of 2.
template <int LANES, int N> INLINE float sum_across(float (&x)[N], int lane) {
    int width = N;
#pragma unroll
    for (int mask = LANES / 2; mask > 0; mask /= 2) {
        if (width > 1) {
            width /= 2;
            bool upper = lane & mask;
#pragma unroll
            for (int i = 0; i < N / 2; ++i) {
                if (i >= width) break;
                float keep = upper ? x[i + width] : x[i], give = upper ? x[i] : x[i + width];
                x[i] = keep + __shfl_xor_sync(FULL_WARP, give, mask);
            }
        } else {
            x[0] += __shfl_xor_sync(FULL_WARP, x[0], mask);
        }
    }
    return x[0];
}

// Weight of a score under the maximum `top`: exact for float32; for bf16 scores are in powers of 2 already (see `unit`).
INLINE float weight(float score, float top, float scale, float) { return expf((score - top) * scale); }
INLINE float weight(float score, float top, float, bf16_t) { return ex2_approx(score - top); }

// A key is read by LANES lanes, CHUNKS times 16 bytes each; a load of a warp covers 32 / LANES keys, a round LOADS of these:
//
//     load i of a round, LANES 16:   lanes 0 .. 15: key 2 i | lanes 16 .. 31: key 2 i + 1
//     after sum_across, LOADS 16:    lane l: score of key 2 (l % 16) + l / 16
//
// All loads of a round are under way together, those of the next keys begin as soon as the registers of these are free.
template <typename T, int LANES, int CHUNKS, int LOADS, int HEADS, bool WIDE> INLINE void decode(const DecodeArguments<T>& a) {
    constexpr int VEC = 16 / sizeof(T), D = LANES * CHUNKS * VEC, PER_LOAD = 32 / LANES, KEYS = PER_LOAD * LOADS, SAME = LANES / LOADS;
    __shared__ __align__(16) float q_heads[HEADS][D];
    __shared__ __align__(16) T new_key[D], new_value[D];
    __shared__ float part_o[WARPS][HEADS][D], part_top[WARPS][HEADS], part_sum[WARPS][HEADS];
    __shared__ bool is_last;

    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, splits = gridDim.x, split = blockIdx.x;
    int ratio = a.heads / a.groups, blocks = (ratio + HEADS - 1) / HEADS, group = blockIdx.y / blocks;
    int head0 = blockIdx.y % blocks * HEADS, heads = min(HEADS, ratio - head0); // of the group
    int64_t p = *a.position, stride = (int64_t)a.groups * a.head_dim;
    // Keys in sight are numbered from the oldest, 0 .. count - 1; the last is the token's own.
    int count = (int)(a.window > 0 ? min(p + 1, (int64_t)a.window) : p + 1);
    int slot0 = ring_slot(p + 1 - count, a.capacity);
    int share = ((count + splits - 1) / splits + WARPS * KEYS - 1) / (WARPS * KEYS) * (WARPS * KEYS);
    int active = (count + share - 1) / share;
    if (split >= active) return;
    int end = min((split + 1) * share, count);
    int fresh = a.k ? 1 : 0; // keys that are not in the ring yet

    const T *k_ring = a.k_ring + group * a.head_dim, *v_ring = a.v_ring + group * a.head_dim;
    auto load_keys = [&](uint4 (&to)[LOADS][CHUNKS], const T* ring, int first) {
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            int n = first + i * PER_LOAD + lane / LANES, slot = slot0 + n;
            if (slot >= a.capacity) slot -= a.capacity;
#pragma unroll
            for (int j = 0; j < CHUNKS; ++j) {
                int ch = (j * LANES + lane % LANES) * VEC;
                // The newest is not there yet; zeros where there is nothing, since memory nobody wrote may hold NaN.
                to[i][j] = make_uint4(0, 0, 0, 0);
                if (n >= end || n >= count - fresh || ch >= a.head_dim) continue;
                if (WIDE) // in units of 16 bytes 32 bits are enough
                    to[i][j] = load_stream16((const uint4*)ring + ((uint32_t)slot * (uint32_t)(stride / VEC) + ch / VEC));
                else
                    to[i][j] = gather(ring + slot * stride + ch, a.head_dim - ch);
            }
        }
    };
    uint4 keys[LOADS][CHUNKS], values[LOADS][CHUNKS];
    int first = split * share + warp * KEYS;
    load_keys(keys, k_ring, first);
    load_keys(values, v_ring, first);

    previous_kernel_wait();
    next_kernel_start();
    float scale = 1.0f / sqrtf((float)a.head_dim);
    // exp(scale x) = 2^(unit x)
    float unit = sizeof(T) == 2 ? scale * 1.44269504f : 1.0f;
#pragma unroll 1
    for (int i = threadIdx.x; i < HEADS * D; i += 32 * WARPS) {
        int h = i / D, ch = i % D;
        float x = 0;
        if (h < heads && ch < a.head_dim) {
            T y = rotated(a.q + (group * ratio + head0 + h) * a.head_dim, ch, a.cos, a.sin, a.dims);
            x = load(&y) * unit;
        }
        q_heads[h][ch] = x;
    }
    if (end == count && fresh) {
        int64_t at = ring_slot(p, a.capacity) * stride + group * a.head_dim;
#pragma unroll 1
        for (int ch = threadIdx.x; ch < D; ch += 32 * WARPS) {
            bool exists = ch < a.head_dim;
            T k = exists ? rotated(a.k + group * a.head_dim, ch, a.cos, a.sin, a.dims) : (T)0;
            T v = exists ? a.v[group * a.head_dim + ch] : (T)0;
            new_key[ch] = k, new_value[ch] = v;
            if (exists && head0 == 0) a.k_ring[at + ch] = k, a.v_ring[at + ch] = v;
        }
    }
    __syncthreads();
    auto put_newest = [&](uint4 (&to)[LOADS][CHUNKS], const T* from, int first) {
        if (!fresh || first + KEYS < count) return;
#pragma unroll
        for (int i = 0; i < LOADS; ++i)
#pragma unroll
            for (int j = 0; j < CHUNKS; ++j)
                if (first + i * PER_LOAD + lane / LANES == count - 1) to[i][j] = *(const uint4*)(from + (j * LANES + lane % LANES) * VEC);
    };

    float o[HEADS][CHUNKS][VEC] = {}, top[HEADS], sum[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; ++h) top[h] = NEVER, sum[h] = 0;
    for (; first < end; first += WARPS * KEYS) {
        put_newest(keys, new_key, first);
        float scores[HEADS][LOADS];
#pragma unroll
        for (int j = 0; j < CHUNKS; ++j) {
            float q[HEADS][VEC];
#pragma unroll
            for (int h = 0; h < HEADS; ++h) load_vector<VEC>(q[h], &q_heads[h][(j * LANES + lane % LANES) * VEC]);
#pragma unroll
            for (int i = 0; i < LOADS; ++i) {
                float k[VEC];
                unpack(k, keys[i][j]);
#pragma unroll
                for (int h = 0; h < HEADS; ++h) {
                    float x = j == 0 ? 0 : scores[h][i];
#pragma unroll
                    for (int e = 0; e < VEC; ++e) x += q[h][e] * k[e];
                    scores[h][i] = x;
                }
            }
        }
        load_keys(keys, k_ring, first + WARPS * KEYS);

        float p[HEADS];
        bool exists = first + lane % LANES / SAME * PER_LOAD + lane / LANES < end;
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
            float score = sum_across<LANES>(scores[h], lane);
            if (!exists) score = MINUS_INFINITY;
            float high = warp_max(score);
            if (high > top[h]) {
                float shrink = weight(top[h], high, scale, (T)0);
                top[h] = high, sum[h] *= shrink;
#pragma unroll
                for (int j = 0; j < CHUNKS; ++j)
#pragma unroll
                    for (int e = 0; e < VEC; ++e) o[h][j][e] *= shrink;
            }
            p[h] = weight(score, top[h], scale, (T)0);
            sum[h] += p[h];
        }
        put_newest(values, new_value, first);
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            float w[HEADS];
#pragma unroll
            for (int h = 0; h < HEADS; ++h) w[h] = __shfl_sync(FULL_WARP, p[h], lane / LANES * LANES + i * SAME);
#pragma unroll
            for (int j = 0; j < CHUNKS; ++j) {
                float v[VEC];
                unpack(v, values[i][j]);
#pragma unroll
                for (int h = 0; h < HEADS; ++h)
#pragma unroll
                    for (int e = 0; e < VEC; ++e) o[h][j][e] += w[h] * v[e];
            }
        }
        load_keys(values, v_ring, first + WARPS * KEYS);
    }

    // Over the keys of a load, then over the warps.
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
        float l = warp_sum(lane % SAME == 0 ? sum[h] : 0.0f);
        if (lane == 0) part_top[warp][h] = top[h], part_sum[warp][h] = l;
#pragma unroll
        for (int j = 0; j < CHUNKS; ++j) {
#pragma unroll
            for (int e = 0; e < VEC; ++e)
#pragma unroll
                for (int mask = LANES; mask < 32; mask *= 2) o[h][j][e] += __shfl_xor_sync(FULL_WARP, o[h][j][e], mask);
            if (lane < LANES) store_vector<VEC>(&part_o[warp][h][(j * LANES + lane) * VEC], o[h][j]);
        }
    }
    __syncthreads();
    int part = a.head_dim + 2; // channels, maximum, sum
#pragma unroll 1
    for (int i = threadIdx.x; i < HEADS * D; i += 32 * WARPS) {
        int h = i / D, ch = i % D;
        if (h >= heads || ch >= a.head_dim) continue;
        float high = part_top[0][h], l = 0, x = 0;
#pragma unroll
        for (int w = 1; w < WARPS; ++w) high = fmaxf(high, part_top[w][h]);
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            float shrink = weight(part_top[w][h], high, scale, (T)0);
            l += shrink * part_sum[w][h], x += shrink * part_o[w][h][ch];
        }
        int head = group * ratio + head0 + h;
        if (active == 1) {
            store(a.out + head * a.head_dim + ch, x / l);
        } else {
            float* to = a.parts + ((int64_t)head * splits + split) * part;
            to[ch] = x;
            if (ch == 0) to[a.head_dim] = high, to[a.head_dim + 1] = l;
        }
    }
    if (active == 1) return;

    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicAdd(a.tickets + blockIdx.y, 1u) == (uint32_t)active - 1;
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    if (threadIdx.x == 0) a.tickets[blockIdx.y] = 0;
    // A warp combines 32 channels of a head; lane s looks at part s, s + 32, ...
    int slices = (a.head_dim + 31) / 32;
    for (int i = warp; i < heads * slices; i += WARPS) {
        int head = group * ratio + head0 + i / slices, ch = i % slices * 32 + lane;
        const float* from = a.parts + (int64_t)head * splits * part;
        float high = NEVER, l = 0, x = 0;
        for (int s = lane; s < active; s += 32) high = fmaxf(high, __ldcg(from + s * part + a.head_dim));
        high = warp_max(high);
        for (int s0 = 0; s0 < active; s0 += 32) {
            int s = s0 + lane;
            float shrink = s < active ? weight(__ldcg(from + s * part + a.head_dim), high, scale, (T)0) : 0.0f;
            l += warp_sum(s < active ? shrink * __ldcg(from + s * part + a.head_dim + 1) : 0.0f);
#pragma unroll 4
            for (int j = 0; j < min(32, active - s0); ++j) {
                float w = __shfl_sync(FULL_WARP, shrink, j);
                if (ch < a.head_dim) x += w * __ldcg(from + (s0 + j) * part + ch);
            }
        }
        if (ch < a.head_dim) store(a.out + head * a.head_dim + ch, x / l);
    }
}

#define DECODE(T, name, LANES, CHUNKS, LOADS, HEADS, WIDE)                                                                                 \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, (HEADS == 1 && LANES < 32 ? 16 : 12) / WARPS)                                 \
    attention_decode_##name(T* out, const T* q, const T* k, const T* v, const float* cos, const float* sin, T* k_ring, T* v_ring,          \
                            const int64_t* position, float* parts, uint32_t* tickets, int heads, int groups, int head_dim, int dims,       \
                            int window, int capacity) {                                                                                    \
        decode<T, LANES, CHUNKS, LOADS, HEADS, WIDE>({out, q, k, v, cos, sin, k_ring, v_ring, position, parts, tickets, heads, groups,     \
                                                      head_dim, dims, window, capacity});                                                  \
    }
DECODE(bf16_t, bf16_d32_h1, 4, 1, 4, 1, true)
DECODE(bf16_t, bf16_d64_h1, 8, 1, 8, 1, true)
DECODE(bf16_t, bf16_d128_h1, 16, 1, 8, 1, true)
DECODE(bf16_t, bf16_d256_h1, 32, 1, 8, 1, true)
DECODE(bf16_t, bf16_d32_h4, 4, 1, 4, 4, true)
DECODE(bf16_t, bf16_d64_h4, 8, 1, 4, 4, true)
DECODE(bf16_t, bf16_d128_h4, 16, 1, 4, 4, true)
DECODE(bf16_t, bf16_d256_h4, 32, 1, 4, 4, true)
DECODE(bf16_t, bf16_any, 32, 1, 4, 1, false)
DECODE(float, f32_d32_h1, 8, 1, 8, 1, true)
DECODE(float, f32_d64_h1, 16, 1, 8, 1, true)
DECODE(float, f32_d128_h1, 32, 1, 8, 1, true)
DECODE(float, f32_d256_h1, 32, 2, 4, 1, true)
DECODE(float, f32_d32_h4, 8, 1, 4, 4, true)
DECODE(float, f32_d64_h4, 16, 1, 4, 4, true)
DECODE(float, f32_d128_h4, 32, 1, 4, 4, true)
DECODE(float, f32_d256_h4, 32, 2, 2, 4, true)
DECODE(float, f32_any, 32, 2, 2, 1, false)
