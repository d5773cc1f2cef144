// Causal softmax attention of a chunk of queries over the ring of keys and values in IEEE float32 (online softmax with expf, every sum in
// a fixed order).
//
//   out(i, h) = sum over the keys j that i sees of softmax_j(q(i, h) . k(j, g) / sqrt(head_dim)) v(j, g),    g = h / (heads / groups)
//   Token i at position p sees the keys of positions max(0, p - window + 1) .. p.
//
// attention_exact_f32_d{32,64,128,256}: head_dim up to the number in the name.
//   Arguments and their meaning are those of attention_prefill.cu, in float32. One token alone is better served by attention_decode_f32.
// Launch: grid heads * ceil(tokens / BM), block and dynamic shared bytes:
//   kernel        d32    d64    d128   d256
//   BM, BN        64 64  64 64  64 32  32 16
//   block         256    256    256    128
//   shared bytes  45056  69632  76800  69120      = 4 ((D + 4) (BM + 2 BN) + BM (BN + 4))
// Where head_dim, the strides and the offsets are multiples of 4 elements, 16 bytes are moved at a time, otherwise element by element.
//
// Thread (y, x) of BM/4 x 16 owns rows 4 y .. 4 y + 3. Of q k^T it computes keys x, x + 16, ...; of p v channels W x .. W x + W - 1 and
// those 16 W, 32 W, ... further on. Weights go through shared memory, but only among the 16 threads of a y, which are of one warp. Keys of
// the next tile arrive during p v, values during q k^T. Rows are padded by 16 bytes, so that 8 rows at one channel lie in 8 bank groups.
#include "attention.cuh"

// ROWS rows of D channels into a tile: of rows low .. high the first `columns` channels, elsewhere zeros.
template <int D, int ROWS, int THREADS>
INLINE void load_rows(float* to, const float* from, int stride, int low, int high, int columns, bool wide) {
    int step = wide ? 4 : 1;
    for (int i = threadIdx.x * step; i < ROWS * D; i += THREADS * step) {
        int row = i / D, c = i % D;
        bool valid = row >= low && row <= high && c < columns;
        float* p = to + row * (D + 4) + c;
        if (wide)
            copy_async16(p, from + (valid ? row * stride + c : 0), valid);
        else
            *p = valid ? from[row * stride + c] : 0.0f;
    }
}

template <int D, int BM, int BN> INLINE void attend(const Arguments<float>& a) {
    constexpr int THREADS = BM * 4, PITCH = D + 4, P_PITCH = BN + 4, W = D >= 64 ? 4 : 2, KEYS = BN / 16, PIECES = D / 16 / W;
    DYNAMIC_SHARED(shared);
    float* q_tile = (float*)shared;
    float* k_tile = q_tile + BM * PITCH;
    float* v_tile = k_tile + BN * PITCH;
    float* p_tile = v_tile + BN * PITCH;

    previous_kernel_wait();
    next_kernel_start();
    Span span = block_span<BM, BN>(a);
    const float* q = a.q + (int64_t)span.first * a.q_stride + span.head * a.head_dim;
    const float *k = a.k_ring + span.group * a.head_dim, *v = a.v_ring + span.group * a.head_dim;
    int kv_stride = a.groups * a.head_dim;
    bool wide = a.head_dim % 4 == 0 && is_aligned(a.q, a.q_stride, 16) && is_aligned(a.k_ring, kv_stride, 16) &&
                is_aligned(a.v_ring, kv_stride, 16);
    float scale = 1.0f / sqrtf((float)a.head_dim);

    int x = threadIdx.x % 16, y = threadIdx.x / 16, row0 = y * 4;
    float o[4][PIECES][W] = {}, top[4], sum[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) top[r] = NEVER, sum[r] = 0;

    int begin = span.newest_tile, slot = span.slot;
    auto load_keys = [&](float* to, const float* ring) {
        const float* from = ring + (int64_t)slot * kv_stride;
        load_rows<D, BN, THREADS>(to, from, kv_stride, span.oldest - begin, span.last - begin, a.head_dim, wide);
    };
    load_rows<D, BM, THREADS>(q_tile, q, a.q_stride, 0, span.last - span.first, a.head_dim, wide);
    load_keys(k_tile, k);
    copy_async_commit();
    for (int tile = 0; tile < span.tiles; ++tile) {
        copy_async_wait<0>();
        __syncthreads(); // keys are here, values of the tile before are done with
        load_keys(v_tile, v);
        copy_async_commit();

        float s[4][KEYS] = {};
#pragma unroll 4
        for (int d = 0; d < D; d += 4) {
            float4 qv[4];
#pragma unroll
            for (int r = 0; r < 4; ++r) qv[r] = *(const float4*)(q_tile + (row0 + r) * PITCH + d);
#pragma unroll
            for (int j = 0; j < KEYS; ++j) {
                float4 kv = *(const float4*)(k_tile + (x + j * 16) * PITCH + d);
#pragma unroll
                for (int r = 0; r < 4; ++r) {
                    s[r][j] += qv[r].x * kv.x;
                    s[r][j] += qv[r].y * kv.y;
                    s[r][j] += qv[r].z * kv.z;
                    s[r][j] += qv[r].w * kv.w;
                }
            }
        }
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            int behind = span.first + row0 + r - begin - x; // of this query behind key x
            float high = top[r];
#pragma unroll
            for (int j = 0; j < KEYS; ++j) {
                if (behind - j * 16 < 0 || behind - j * 16 >= span.window) s[r][j] = MINUS_INFINITY;
                high = fmaxf(high, s[r][j]);
            }
#pragma unroll
            for (int d = 8; d > 0; d /= 2) high = fmaxf(high, __shfl_xor_sync(FULL_WARP, high, d));
            if (high > top[r]) {
                float shrink = expf((top[r] - high) * scale);
                top[r] = high, sum[r] *= shrink;
#pragma unroll
                for (int j = 0; j < PIECES; ++j)
#pragma unroll
                    for (int e = 0; e < W; ++e) o[r][j][e] *= shrink;
            }
#pragma unroll
            for (int j = 0; j < KEYS; ++j) {
                float p = expf((s[r][j] - top[r]) * scale);
                sum[r] += p;
                p_tile[(row0 + r) * P_PITCH + x + j * 16] = p;
            }
        }
        copy_async_wait<0>();
        __syncthreads(); // values are here, keys are done with
        begin -= BN, slot -= BN;
        if (slot < 0) slot += a.capacity;
        if (tile + 1 < span.tiles) {
                load_keys(k_tile, k);
            copy_async_commit();
        }
#pragma unroll 2
        for (int n = 0; n < BN; n += 4) {
            float p[4][4];
#pragma unroll
            for (int r = 0; r < 4; ++r) load_vector<4>(p[r], p_tile + (row0 + r) * P_PITCH + n);
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < PIECES; ++j) {
                    const float* from = v_tile + (n + i) * PITCH + x * W + j * 16 * W;
                    float vv[4];
                    if constexpr (W == 4) {
                        load_vector<4>(vv, from);
                    } else {
                        float2 two = *(const float2*)from;
                        vv[0] = two.x, vv[1] = two.y;
                    }
#pragma unroll
                    for (int r = 0; r < 4; ++r)
#pragma unroll
                        for (int e = 0; e < W; ++e) o[r][j][e] += p[r][i] * vv[e];
                }
        }
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
        float l = sum[r];
#pragma unroll
        for (int d = 8; d > 0; d /= 2) l += __shfl_xor_sync(FULL_WARP, l, d);
        int query = span.first + row0 + r;
        float* out = a.out + (int64_t)query * a.out_stride + span.head * a.head_dim;
#pragma unroll
        for (int j = 0; j < PIECES; ++j)
#pragma unroll
            for (int e = 0; e < W; ++e) {
                int ch = x * W + j * 16 * W + e;
                if (query <= span.last && ch < a.head_dim) out[ch] = o[r][j][e] / l;
            }
    }
}

#define EXACT(D, BM, BN)                                                                                                                   \
    extern "C" __global__ void __launch_bounds__(BM * 4, 2) attention_exact_f32_d##D(ATTENTION_PARAMETERS(float)) {                        \
        attend<D, BM, BN>(ATTENTION_ARGUMENTS);                                                                                            \
    }
EXACT(32, 64, 64)
EXACT(64, 64, 64)
EXACT(128, 64, 32)
EXACT(256, 32, 16)
