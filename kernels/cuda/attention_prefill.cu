// Causal softmax attention of a chunk of queries over the ring of keys and values, bf16, in tiles (online softmax).
//
//   out(i, h) = sum over the keys j that i sees of softmax_j(q(i, h) . k(j, g) / sqrt(head_dim)) v(j, g),    g = h / (heads / groups)
//   Token i at position p sees the keys of positions max(0, p - window + 1) .. p.
//
// attention_prefill_bf16_d{32,64,96,128,192,256}: head_dim up to the number in the name; any chip.
// attention_prefill_bf16_d{64,128}_sm90a: the same function with Hopper's wgmma, in the sm_90a cubin alone; head_dim, strides and offsets
//   must be multiples of 8 elements. To be preferred there for head_dim <= 128.
//
//   out        (tokens, heads * head_dim), rows out_stride elements apart
//   q          (tokens, heads * head_dim), rows q_stride elements apart, already turned by RoPE
//   k_ring, v_ring  (capacity, groups * head_dim), contiguous; position p lies in slot p % capacity. The chunk's own keys and values
//              are already there. capacity is a multiple of 128 and at least window - 1 + tokens, or all positions without a window.
//   position   one int64 on the device: absolute position of the chunk's first token
//   window     keys a token sees, itself included; 0 for all before it
//   head_dim   even
// Launch: grid heads * ceil(tokens / BM), block and dynamic shared bytes:
//   kernel        d32    d64    d96    d128   d192   d256  | d64_sm90a  d128_sm90a
//   BM            128    128    128    128    64     64    | 192        128
//   block         128    128    128    128    128    128   | 512        384
//   shared bytes  20480  36864  53248  69632  51200  67584 | 91200      164928
//   = 2 (D + 8) (BM + 2 BN), BN 64 up to d128, then 32     | = 1088 + 2 D (BM + 512)
// Where head_dim, the strides and the offsets are multiples of 8 elements, 16 bytes are moved at a time, otherwise element by element.
#include "attention.cuh"

// The running maximum of a row is only raised when it is off by more than this (in powers of 2). Until then the weights may grow to 2^8,
// which neither float32 sums nor bf16's relative rounding mind, and the accumulators need no rescaling.
#define SLACK 8.0f

// ---- Any chip: mma.sync ----------------------------------------------------------------------------------------------------------
//
// 4 warps, each with M x 16 rows of queries, so that a fragment of keys or values read from shared memory serves M products. Queries
// stay in shared memory; keys and values have one buffer each: values arrive during q k^T, the next keys during softmax and p v.
// Rows are 16 bytes longer than D, which spreads the 8 rows of a matrix load over all banks.

// ROWS rows of D channels into a tile: of rows low .. high the first `columns` channels, elsewhere zeros.
template <int D, int ROWS> INLINE void load_rows(bf16_t* to, const bf16_t* from, int stride, int low, int high, int columns, bool wide) {
    constexpr int CHUNKS = D / 8;
    if (wide) {
        // As few values as possible live from copy to copy: registers are full of accumulators here.
#pragma unroll 1
        for (int i = threadIdx.x; i < ROWS * CHUNKS; i += 128) {
            int row = i / CHUNKS, c = i % CHUNKS * 8;
            bool valid = row >= low && row <= high && c < columns;
            copy_async16(to + row * (D + 8) + c, from + (valid ? row * stride + c : 0), valid);
        }
    } else {
        for (int i = threadIdx.x; i < ROWS * D; i += 128) {
            int row = i / D, c = i % D;
            to[row * (D + 8) + c] = row >= low && row <= high && c < columns ? from[row * stride + c] : (bf16_t)0;
        }
    }
}

template <int D, int M, int BN> INLINE void attend_mma(const Arguments<bf16_t>& a) {
    constexpr int BM = 64 * M, PITCH = D + 8;
    DYNAMIC_SHARED(shared);
    bf16_t* q_tile = (bf16_t*)shared;
    bf16_t* k_tile = q_tile + BM * PITCH;
    bf16_t* v_tile = k_tile + BN * PITCH;

    previous_kernel_wait();
    next_kernel_start();
    Span span = block_span<BM, BN>(a);
    const bf16_t* q = a.q + (int64_t)span.first * a.q_stride + span.head * a.head_dim;
    bf16_t* out = a.out + (int64_t)span.first * a.out_stride + span.head * a.head_dim;
    int kv_stride = a.groups * a.head_dim;
    const bf16_t *k = a.k_ring + span.group * a.head_dim, *v = a.v_ring + span.group * a.head_dim;
    bool wide = a.head_dim % 8 == 0 && is_aligned(a.q, a.q_stride, 16) && is_aligned(a.k_ring, kv_stride, 16) &&
                is_aligned(a.v_ring, kv_stride, 16) && is_aligned(a.out, a.out_stride, 16);

    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row0 = warp * 16 * M;
    // Addresses of this lane's rows for matrix loads. Queries: 16 rows x 16 channels; keys: 16 keys x 16 channels; values likewise.
    const bf16_t* q_row = q_tile + (row0 + lane % 16) * PITCH + lane / 16 * 8;
    const bf16_t* k_row = k_tile + (lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8;
    const bf16_t* v_row = v_tile + lane % 16 * PITCH + lane / 16 * 8;

    float o[M][D / 8][4] = {};
    float top[M][2], sum[M][2];
#pragma unroll
    for (int m = 0; m < M; ++m) top[m][0] = top[m][1] = NEVER, sum[m][0] = sum[m][1] = 0;
    // exp(x / sqrt(head_dim)) = 2^(c x)
    float c = 1.44269504f / sqrtf((float)a.head_dim);

    int begin = span.newest_tile, slot = span.slot;
    load_rows<D, BM>(q_tile, q, a.q_stride, 0, span.last - span.first, a.head_dim, wide);
    load_rows<D, BN>(k_tile, k + (int64_t)slot * kv_stride, kv_stride, span.oldest - begin, span.last - begin, a.head_dim, wide);
    copy_async_commit();
    for (int tile = 0; tile < span.tiles; ++tile) {
        copy_async_wait<0>();
        __syncthreads(); // keys are here, values of the tile before are done with
        load_rows<D, BN>(v_tile, v + (int64_t)slot * kv_stride, kv_stride, span.oldest - begin, span.last - begin, a.head_dim, wide);
        copy_async_commit();

        // This warp's queries see keys low .. high of the tile, the lower bound that of the first, the upper that of the last.
        int query = span.first + row0 - begin;
        bool some = query + 16 * M - 1 >= 0 && query - span.window < BN - 1;
        bool all = query >= BN - 1 && query + 16 * M - 1 - span.window < 0;
        float s[M][BN / 8][4];
        if (some) {
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int n = 0; n < BN / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i) s[m][n][i] = 0;
#pragma unroll
            for (int d = 0; d < D; d += 16) {
                uint32_t qf[M][4];
#pragma unroll
                for (int m = 0; m < M; ++m) load_matrix_x4(qf[m], q_row + m * 16 * PITCH + d);
#pragma unroll
                for (int n = 0; n < BN; n += 16) {
                    uint32_t kf[4];
                    load_matrix_x4(kf, k_row + n * PITCH + d);
#pragma unroll
                    for (int m = 0; m < M; ++m) {
                        mma_bf16(s[m][n / 8], qf[m], kf[0], kf[1]);
                        mma_bf16(s[m][n / 8 + 1], qf[m], kf[2], kf[3]);
                    }
                }
            }
        }
        copy_async_wait<0>();
        __syncthreads(); // values are here, keys are done with
        int now = begin;
        begin -= BN, slot -= BN;
        if (slot < 0) slot += a.capacity;
        if (tile + 1 < span.tiles) {
            load_rows<D, BN>(k_tile, k + (int64_t)slot * kv_stride, kv_stride, span.oldest - begin, span.last - begin, a.head_dim, wide);
            copy_async_commit();
        }
        if (!some) continue;

        if (!all) {
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int n = 0; n < BN / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        int behind = span.first + row0 + m * 16 + lane / 4 + i / 2 * 8 - (now + n * 8 + lane % 4 * 2 + i % 2);
                        if (behind < 0 || behind >= span.window) s[m][n][i] = MINUS_INFINITY;
                    }
        }
        float high[M][2];
        bool raise = false;
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                float x = fmaxf(s[m][0][2 * r], s[m][0][2 * r + 1]);
#pragma unroll
                for (int n = 1; n < BN / 8; ++n) x = fmaxf(x, fmaxf(s[m][n][2 * r], s[m][n][2 * r + 1]));
                x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 1));
                high[m][r] = x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 2));
                raise |= (x - top[m][r]) * c > SLACK;
            }
        if (__any_sync(FULL_WARP, raise)) {
#pragma unroll
            for (int m = 0; m < M; ++m)
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    float x = fmaxf(top[m][r], high[m][r]), shrink = ex2_approx((top[m][r] - x) * c);
                    top[m][r] = x, sum[m][r] *= shrink;
#pragma unroll
                    for (int n = 0; n < D / 8; ++n) o[m][n][2 * r] *= shrink, o[m][n][2 * r + 1] *= shrink;
                }
        }
        // Weights of 16 keys at a time: the accumulators of q k^T have just the layout of the left factor of p v.
#pragma unroll
        for (int n = 0; n < BN / 16; ++n) {
            uint32_t p[M][4];
#pragma unroll
            for (int m = 0; m < M; ++m) {
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    float& x = s[m][2 * n + i / 4][i % 4];
                    x = ex2_approx(x * c - top[m][i / 2 % 2] * c);
                    sum[m][i / 2 % 2] += x;
                }
#pragma unroll
                for (int i = 0; i < 4; ++i) p[m][i] = pack_bf16x2(s[m][2 * n + i / 2][i % 2 * 2], s[m][2 * n + i / 2][i % 2 * 2 + 1]);
            }
#pragma unroll
            for (int d = 0; d < D; d += 16) {
                uint32_t vf[4];
                load_matrix_x4_transposed(vf, v_row + n * 16 * PITCH + d);
#pragma unroll
                for (int m = 0; m < M; ++m) {
                    mma_bf16(o[m][d / 8], p[m], vf[0], vf[1]);
                    mma_bf16(o[m][d / 8 + 1], p[m], vf[2], vf[3]);
                }
            }
        }
    }

    // Through this warp's own rows of the query tile, for wide stores.
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float l = sum[m][r];
            l += __shfl_xor_sync(FULL_WARP, l, 1);
            l += __shfl_xor_sync(FULL_WARP, l, 2);
            float norm = 1.0f / l;
            bf16_t* row = q_tile + (row0 + m * 16 + lane / 4 + r * 8) * PITCH + lane % 4 * 2;
#pragma unroll
            for (int n = 0; n < D / 8; ++n) *(uint32_t*)(row + n * 8) = pack_bf16x2(o[m][n][2 * r] * norm, o[m][n][2 * r + 1] * norm);
        }
    __syncwarp();
    for (int i = lane; i < 16 * M * (D / 8); i += 32) {
        int row = row0 + i / (D / 8), ch = i % (D / 8) * 8;
        if (span.first + row > span.last || ch >= a.head_dim) continue;
        const bf16_t* from = q_tile + row * PITCH + ch;
        bf16_t* to = out + (int64_t)row * a.out_stride + ch;
        if (wide) {
            *(uint4*)to = *(const uint4*)from;
        } else {
            for (int e = 0; e < 8 && ch + e < a.head_dim; ++e) to[e] = from[e];
        }
    }
}

#define PREFILL(D, M, BN)                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128, 2) attention_prefill_bf16_d##D(ATTENTION_PARAMETERS(bf16_t)) {                       \
        attend_mma<D, M, BN>(ATTENTION_ARGUMENTS);                                                                                         \
    }
PREFILL(32, 2, 64)
PREFILL(64, 2, 64)
PREFILL(96, 2, 64)
PREFILL(128, 2, 64)
PREFILL(192, 1, 32)
PREFILL(256, 1, 32)

// ---- Hopper: wgmma ---------------------------------------------------------------------------------------------------------------
//
// Warpgroup 0 copies keys and values into a ring of STAGES tiles each; CONSUMERS warpgroups take 64 queries each. A consumer begins
// q k^T of the next tile before p v of this one and does the softmax of the next while p v is under way; consumers take turns in
// beginning products, so that one's softmax falls into the other's products.
//
//   shared, 1024-byte aligned: q [CONSUMERS][D/64 slabs][64 rows][64] | k [STAGES][D/64][BN][64] | v likewise | phases
//   16-byte chunk c of a slab's row r lies at c ^ (r % 8), as wgmma_matrix wants it
#ifdef HOPPER
#define STAGES 2

template <int D, int CONSUMERS> INLINE void attend_hopper(const Arguments<bf16_t>& a) {
    constexpr int BM = 64 * CONSUMERS, BN = 128, SLAB = BN * 128, TILE = BN * D * 2, Q_TILE = 64 * D * 2;
    constexpr int CHUNKS = D / 8; // of a row
    DYNAMIC_SHARED(raw);
    unsigned char* shared = raw + (1024 - (uint64_t)raw % 1024) % 1024;
    unsigned char* q_tiles = shared;
    unsigned char* k_tiles = q_tiles + CONSUMERS * Q_TILE;
    unsigned char* v_tiles = k_tiles + STAGES * TILE;
    Phase* k_full = (Phase*)(v_tiles + STAGES * TILE);
    Phase *k_empty = k_full + STAGES, *v_full = k_empty + STAGES, *v_empty = v_full + STAGES;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            phase_init(k_full + i, 128), phase_init(v_full + i, 128);
            phase_init(k_empty + i, 4 * CONSUMERS), phase_init(v_empty + i, 4 * CONSUMERS);
        }
    }
    __syncthreads();
    previous_kernel_wait();
    next_kernel_start();
    Span span = block_span<BM, BN>(a);
    int thread = threadIdx.x % 128;
    // This thread copies 16-byte chunk `chunk` of rows `row`, row + 128 / CHUNKS, ...: all with the same row % 8.
    int chunk = thread % CHUNKS, row = thread / CHUNKS, in_slab = row * 128 + (chunk % 8 ^ row % 8) * 16;
    constexpr int STEP = 128 / CHUNKS;
    bool has_channels = chunk * 8 < a.head_dim;

    if (threadIdx.x < 128) {
        registers_give_back<CONSUMERS == 3 ? 32 : 40>();
        int stride = a.groups * a.head_dim, begin = span.newest_tile, slot = span.slot;
        const bf16_t* k = a.k_ring + span.group * a.head_dim + chunk * 8;
        const bf16_t* v = a.v_ring + span.group * a.head_dim + chunk * 8;
        unsigned char *k_to = k_tiles + chunk / 8 * SLAB + in_slab, *v_to = v_tiles + chunk / 8 * SLAB + in_slab;
        auto copy = [&](unsigned char* to, const bf16_t* from, int begin, int slot) {
            const bf16_t* p = from + (int64_t)(slot + row) * stride;
#pragma unroll
            for (int i = 0; i < BN / STEP; ++i) {
                int key = begin + row + i * STEP;
                bool valid = has_channels && key >= span.oldest && key <= span.last;
                copy_async16(to + i * STEP * 128, valid ? p + (int64_t)i * STEP * stride : from, valid);
            }
        };
        // Keys run one tile ahead of values, as the consumers ask for them.
        int v_begin = 0, v_slot = 0;
        for (int tile = 0; tile <= span.tiles; ++tile) {
            if (tile < span.tiles) {
                int stage = tile % STAGES;
                phase_wait(k_empty + stage, (tile / STAGES & 1) ^ 1);
                copy(k_to + stage * TILE, k, begin, slot);
                phase_arrive_after_copies(k_full + stage);
            }
            if (tile > 0) {
                int stage = (tile - 1) % STAGES;
                phase_wait(v_empty + stage, ((tile - 1) / STAGES & 1) ^ 1);
                copy(v_to + stage * TILE, v, v_begin, v_slot);
                phase_arrive_after_copies(v_full + stage);
            }
            v_begin = begin, v_slot = slot;
            begin -= BN, slot -= BN;
            if (slot < 0) slot += a.capacity;
        }
        copy_async_wait<0>();
    } else {
        registers_take<CONSUMERS == 3 ? 160 : 232>();
        int group = threadIdx.x / 128 - 1, lane = thread % 32, warp = thread / 32;
        unsigned char* q_tile = q_tiles + group * Q_TILE;
        int first = span.first + group * 64;
#pragma unroll
        for (int i = 0; i < 64 / STEP; ++i) {
            int query = first + row + i * STEP;
            bool valid = has_channels && query <= span.last;
            const bf16_t* from = a.q + (valid ? (int64_t)query * a.q_stride + span.head * a.head_dim + chunk * 8 : 0);
            copy_async16(q_tile + chunk / 8 * 8192 + in_slab + i * STEP * 128, from, valid);
        }
        copy_async_commit();
        copy_async_wait<0>();
        fence_shared_for_wgmma();
        barrier_sync(1 + group, 128);

        // exp(x / sqrt(head_dim)) = 2^(c x)
        float c = 1.44269504f / sqrtf((float)a.head_dim);
        float o[D / 2], s[BN / 2], top[2] = {NEVER, NEVER}, sum[2] = {0, 0};
        uint32_t p[BN / 4];
#pragma unroll
        for (int i = 0; i < D / 2; ++i) o[i] = 0;
        WgmmaMatrix q_matrix = wgmma_matrix(q_tile, 8192);

        auto begin_scores = [&](int tile) {
            int stage = tile % STAGES;
            phase_wait(k_full + stage, tile / STAGES & 1);
            fence_shared_for_wgmma();
            WgmmaMatrix k_matrix = wgmma_matrix(k_tiles + stage * TILE, SLAB);
            wgmma_hold(s);
            wgmma_begin();
#pragma unroll
            for (int d = 0; d < D; d += 16)
                wgmma<BN>(s, wgmma_advance(q_matrix, d / 64 * 8192 + d % 64 * 2),
                          wgmma_advance(k_matrix, d / 64 * SLAB + d % 64 * 2), d > 0);
            wgmma_commit();
        };
        auto begin_values = [&](int tile) {
            int stage = tile % STAGES;
            phase_wait(v_full + stage, tile / STAGES & 1);
            fence_shared_for_wgmma();
            WgmmaMatrix v_matrix = wgmma_matrix(v_tiles + stage * TILE, SLAB);
            wgmma_hold(o);
            wgmma_hold(p);
            wgmma_begin();
#pragma unroll
            for (int n = 0; n < BN / 16; ++n) wgmma_rows<D>(o, p + n * 4, wgmma_advance(v_matrix, n * 2048));
            wgmma_commit();
        };
        auto release = [&](Phase* empty, int tile) {
            __syncwarp();
            if (lane == 0) phase_arrive(empty + tile % STAGES);
        };
        // s becomes the weights; returns whether the accumulators of before must be multiplied by `shrink`.
        auto softmax = [&](int tile, float (&shrink)[2]) {
            int query = first + warp * 16 + lane / 4 - (span.newest_tile - tile * BN);
            if (first < span.newest_tile - tile * BN + BN - 1 || first + 63 - span.window >= span.newest_tile - tile * BN) {
#pragma unroll
                for (int i = 0; i < BN / 2; ++i) {
                    int behind = query + i / 2 % 2 * 8 - (i / 4 * 8 + lane % 4 * 2 + i % 2);
                    if (behind < 0 || behind >= span.window) s[i] = MINUS_INFINITY;
                }
            }
            float high[2];
            bool raise = false;
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                float x = fmaxf(s[2 * r], s[2 * r + 1]);
#pragma unroll
                for (int n = 1; n < BN / 8; ++n) x = fmaxf(x, fmaxf(s[4 * n + 2 * r], s[4 * n + 2 * r + 1]));
                x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 1));
                high[r] = x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 2));
                raise |= (x - top[r]) * c > SLACK;
            }
            raise = __any_sync(FULL_WARP, raise);
            if (raise) {
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    float x = fmaxf(top[r], high[r]);
                    shrink[r] = ex2_approx((top[r] - x) * c);
                    top[r] = x, sum[r] *= shrink[r];
                }
            }
            float offset[2] = {top[0] * c, top[1] * c};
#pragma unroll
            for (int i = 0; i < BN / 2; ++i) {
                s[i] = ex2_approx(s[i] * c - offset[i / 2 % 2]);
                sum[i / 2 % 2] += s[i];
            }
            return raise;
        };
        auto pack = [&] {
#pragma unroll
            for (int i = 0; i < BN / 4; ++i) p[i] = pack_bf16x2(s[2 * i], s[2 * i + 1]);
        };

        float shrink[2];
        begin_scores(0);
        wgmma_wait<0>();
        wgmma_hold(s);
        release(k_empty, 0);
        softmax(0, shrink);
        pack();
        // The first consumer begins; each hands the turn on.
        constexpr int TURN = 1 + CONSUMERS;
        if (group == CONSUMERS - 1 && span.tiles > 1) barrier_arrive(TURN, 256);
        for (int tile = 1; tile < span.tiles; ++tile) {
            barrier_sync(TURN + group, 256);
            begin_scores(tile);
            begin_values(tile - 1);
            if (group < CONSUMERS - 1 || tile + 1 < span.tiles) barrier_arrive(TURN + (group + 1) % CONSUMERS, 256);
            wgmma_wait<1>();
            wgmma_hold(s);
            release(k_empty, tile);
            bool raise = softmax(tile, shrink);
            wgmma_wait<0>();
            wgmma_hold(o);
            release(v_empty, tile - 1);
            if (raise) {
#pragma unroll
                for (int i = 0; i < D / 2; ++i) o[i] *= shrink[i / 2 % 2];
            }
            pack();
        }
        begin_values(span.tiles - 1);
        wgmma_wait<0>();
        wgmma_hold(o);

        // Through the query tile, for wide stores.
        barrier_sync(1 + group, 128);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float l = sum[r];
            l += __shfl_xor_sync(FULL_WARP, l, 1);
            l += __shfl_xor_sync(FULL_WARP, l, 2);
            float norm = 1.0f / l;
            int row = warp * 16 + lane / 4 + r * 8;
#pragma unroll
            for (int n = 0; n < D / 8; ++n)
                *(uint32_t*)(q_tile + n / 8 * 8192 + row * 128 + (n % 8 ^ row % 8) * 16 + lane % 4 * 4) =
                    pack_bf16x2(o[4 * n + 2 * r] * norm, o[4 * n + 2 * r + 1] * norm);
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 16 * CHUNKS / 32; ++i) {
            int at = lane + i * 32, row = warp * 16 + at / CHUNKS, chunk = at % CHUNKS;
            if (first + row <= span.last && chunk * 8 < a.head_dim)
                *(uint4*)(a.out + (int64_t)(first + row) * a.out_stride + span.head * a.head_dim + chunk * 8) =
                    *(const uint4*)(q_tile + chunk / 8 * 8192 + row * 128 + (chunk % 8 ^ row % 8) * 16);
        }
    }
}

extern "C" __global__ void __launch_bounds__(512, 1) attention_prefill_bf16_d64_sm90a(ATTENTION_PARAMETERS(bf16_t)) {
    attend_hopper<64, 3>(ATTENTION_ARGUMENTS);
}
extern "C" __global__ void __launch_bounds__(384, 1) attention_prefill_bf16_d128_sm90a(ATTENTION_PARAMETERS(bf16_t)) {
    attend_hopper<128, 2>(ATTENTION_ARGUMENTS);
}
#endif // HOPPER
