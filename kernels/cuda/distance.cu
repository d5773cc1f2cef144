// How far the logits of two models are apart, a position at a time, and the choice of the likeliest token.
//
//   logit_distance   for rows a (reference) and b (candidate) of logits over the true vocabulary, p = softmax(a), q =
//                    softmax(b):
//
//     offset 0   float64  kld                     sum p (log p - log q), in nats, never below 0
//            8   float64  reference_nll           -log p[target]
//           16   float64  candidate_nll           -log q[target]
//           24   float64  mean_square_difference  mean((a - b)^2)
//           32   float32  max_difference          max |a - b|
//           36   int32    same_top1               1 where both rank the same token first, else 0
//           40   int32    top5_shared             how many of the reference's five likeliest are among the candidate's
//           44   int32    0
//
//     Of equal logits the first is the likelier. With fewer than five tokens, as many as there are. Sums in float64, in
//     an order that depends
//     on the number of tokens alone, so that a row against itself gives exactly 0.
//
//   next_token       the likeliest token by one row of logits, of equal ones the first, becomes the next to run:
//                    position += 1, token = it, taken[position % capacity] = it
//
//   reference  (L, vocab) float32, rows `reference_stride` apart (padding excluded)
//   candidate  (L, vocab) float32, rows `candidate_stride` apart
//   targets    (L) uint32, each below vocab
//   out        L records of 48 bytes as above
//   logits     (vocab) float32; position int64; token uint32; taken (capacity) uint32
//
//   kernel           grid   block   dynamic shared bytes
//   logit_distance   L      256     none
//   next_token       1      256 to 1024, a multiple of 32   none
//
// Any L, vocab >= 1 (below 2^31 - 4). Rows are read 4 numbers at a time where both start 16-byte aligned and have
// strides that are multiples of 4, else one at a time. logit_distance reads each row twice, the second time mostly from
// L2.
#include "common.cuh"

namespace {

constexpr int NONE = 0x7fffffff;
INLINE float least() { return __uint_as_float(0xff800000u); } // minus infinity

// Whether number v at place i ranks before w at j.
INLINE bool ranks_before(float v, int i, float w, int j) { return v > w || (v == w && i < j); }

// The five that rank first of some numbers, first first; NONE where there are fewer.
struct Top {
    float value[5];
    int index[5];

    INLINE void clear() {
#pragma unroll
        for (int r = 0; r < 5; ++r) value[r] = least(), index[r] = NONE;
    }
    INLINE void insert(float v, int i) {
        if (!ranks_before(v, i, value[4], index[4])) return;
        value[4] = v, index[4] = i;
#pragma unroll
        for (int r = 4; r > 0; --r) {
            if (!ranks_before(value[r], index[r], value[r - 1], index[r - 1])) break;
            float w = value[r];
            int j = index[r];
            value[r] = value[r - 1], index[r] = index[r - 1];
            value[r - 1] = w, index[r - 1] = j;
        }
    }
    INLINE void drop_first() {
#pragma unroll
        for (int r = 0; r < 4; ++r) value[r] = value[r + 1], index[r] = index[r + 1];
        value[4] = least(), index[4] = NONE;
    }
};

// The number of the warp that ranks first, in all lanes.
INLINE void warp_first(float& v, int& i) {
    for (int d = 16; d > 0; d >>= 1) {
        float w = __shfl_xor_sync(FULL_WARP, v, d);
        int j = __shfl_xor_sync(FULL_WARP, i, d);
        if (ranks_before(w, j, v, i)) v = w, i = j;
    }
}

// The five of a warp, in all lanes, of the five of each lane.
INLINE Top warp_top(Top mine) {
    Top top;
#pragma unroll
    for (int r = 0; r < 5; ++r) {
        top.value[r] = mine.value[0], top.index[r] = mine.index[0];
        warp_first(top.value[r], top.index[r]);
        if (mine.index[0] == top.index[r]) mine.drop_first();
    }
    return top;
}

// The fifth largest of the lanes' largest numbers: no number of the warp below it is among the row's five.
INLINE float warp_fifth(float most) {
    const int lane = threadIdx.x % 32;
    float fifth = least();
#pragma unroll
    for (int r = 0; r < 5; ++r) {
        fifth = warp_max(most);
        if (lane == __ffs(__ballot_sync(FULL_WARP, most == fifth)) - 1) most = least();
    }
    return fifth;
}

struct Distance {
    double kld, reference_nll, candidate_nll, mean_square_difference;
    float max_difference;
    int same_top1, top5_shared, zero;
};

constexpr int WARPS = 8;

// f(index, a, b) for this thread's share of two rows.
template <int V, typename F> INLINE void each(const float* a, const float* b, int n, F f) {
#pragma unroll 2
    for (int i = threadIdx.x * V; i < n; i += WARPS * 32 * V) {
        float x[V], y[V];
        if (i + V <= n) {
            load_vector(x, a + i);
            load_vector(y, b + i);
#pragma unroll
            for (int l = 0; l < V; ++l) f(i + l, x[l], y[l]);
        } else {
            for (int j = i; j < n; ++j) f(j, a[j], b[j]);
        }
    }
}

template <int V> INLINE void distance(const float* a, const float* b, int target, int n, Distance* out) {
    __shared__ float most[2][WARPS], largest[WARPS];
    __shared__ double sums[4][WARPS];
    __shared__ Top tops[2][WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    float max_a = least(), max_b = least();
    each<V>(a, b, n, [&](int, float x, float y) { max_a = fmaxf(max_a, x), max_b = fmaxf(max_b, y); });
    const float least_a = warp_fifth(max_a), least_b = warp_fifth(max_b);
    max_a = warp_max(max_a), max_b = warp_max(max_b);
    if (lane == 0) most[0][warp] = max_a, most[1][warp] = max_b;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < WARPS; ++i) max_a = fmaxf(max_a, most[0][i]), max_b = fmaxf(max_b, most[1][i]);

    // With A = log of the sum of e^a, and B of e^b: kld = sum e^(a - A) (a - b - (A - B)) = sum e^(a - A) (a - b) - (A
    // - B), so that a single pass gives all sums.
    double sum_a = 0, sum_b = 0, weighted = 0, squares = 0;
    float difference = 0;
    Top top_a, top_b;
    top_a.clear(), top_b.clear();
    each<V>(a, b, n, [&](int i, float x, float y) {
        double d = (double)x - (double)y, e = exp((double)x - (double)max_a);
        sum_a += e;
        sum_b += exp((double)y - (double)max_b);
        weighted += e * d;
        squares += d * d;
        difference = fmaxf(difference, fabsf(x - y));
        if (x >= least_a) top_a.insert(x, i);
        if (y >= least_b) top_b.insert(y, i);
    });
    sum_a = warp_sum(sum_a), sum_b = warp_sum(sum_b), weighted = warp_sum(weighted), squares = warp_sum(squares);
    difference = warp_max(difference);
    top_a = warp_top(top_a), top_b = warp_top(top_b);
    if (lane == 0) {
        sums[0][warp] = sum_a, sums[1][warp] = sum_b, sums[2][warp] = weighted, sums[3][warp] = squares;
        largest[warp] = difference;
        tops[0][warp] = top_a, tops[1][warp] = top_b;
    }
    __syncthreads();
    if (warp > 0) return;
    top_a.clear(), top_b.clear();
    if (lane < WARPS) top_a = tops[0][lane], top_b = tops[1][lane];
    top_a = warp_top(top_a), top_b = warp_top(top_b);
    if (lane > 0) return;

#pragma unroll
    for (int i = 1; i < WARPS; ++i) {
        sum_a += sums[0][i], sum_b += sums[1][i], weighted += sums[2][i], squares += sums[3][i];
        difference = fmaxf(difference, largest[i]);
    }
    int shared = 0;
#pragma unroll
    for (int r = 0; r < 5; ++r)
#pragma unroll
        for (int s = 0; s < 5; ++s) shared += top_a.index[r] != NONE && top_a.index[r] == top_b.index[s];
    const double log_a = (double)max_a + log(sum_a), log_b = (double)max_b + log(sum_b);
    const double kld = weighted / sum_a - (log_a - log_b);
    Distance d;
    d.kld = kld > 0 ? kld : 0;
    d.reference_nll = log_a - (double)a[target];
    d.candidate_nll = log_b - (double)b[target];
    d.mean_square_difference = squares / n;
    d.max_difference = difference;
    d.same_top1 = top_a.index[0] == top_b.index[0];
    d.top5_shared = shared;
    d.zero = 0;
    *out = d;
}

// Index of the largest of n numbers, of equal ones the first, in thread 0.
template <int V> INLINE int argmax(const float* x, int n) {
    __shared__ float values[32];
    __shared__ int indices[32];
    float most = least();
    int first = NONE;
#pragma unroll 4
    for (int i = threadIdx.x * V; i < n; i += blockDim.x * V) {
        float v[V];
        if (i + V <= n) {
            load_vector(v, x + i);
        } else {
#pragma unroll
            for (int l = 0; l < V; ++l) v[l] = i + l < n ? x[i + l] : least();
        }
#pragma unroll
        for (int l = 0; l < V; ++l)
            if (v[l] > most || first == NONE) most = v[l], first = i + l;
    }
    warp_first(most, first);
    if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = most, indices[threadIdx.x / 32] = first;
    __syncthreads();
    if (threadIdx.x >= 32) return NONE;
    const bool filled = threadIdx.x < blockDim.x / 32;
    most = filled ? values[threadIdx.x] : least(), first = filled ? indices[threadIdx.x] : NONE;
    warp_first(most, first);
    return first;
}

} // namespace

extern "C" __global__ void __launch_bounds__(256)
    logit_distance(const float* reference, int64_t reference_stride, const float* candidate, int64_t candidate_stride,
                   const uint32_t* targets, Distance* out, int vocab) {
    const float* a = reference + blockIdx.x * reference_stride;
    const float* b = candidate + blockIdx.x * candidate_stride;
    if (is_aligned(reference, reference_stride, 16) && is_aligned(candidate, candidate_stride, 16))
        distance<4>(a, b, targets[blockIdx.x], vocab, out + blockIdx.x);
    else
        distance<1>(a, b, targets[blockIdx.x], vocab, out + blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(1024)
    next_token(const float* logits, int vocab, int64_t* position, uint32_t* token, uint32_t* taken, int capacity) {
    previous_kernel_wait();
    next_kernel_start();
    const int likeliest = is_aligned(logits, 0, 16) ? argmax<4>(logits, vocab) : argmax<1>(logits, vocab);
    if (threadIdx.x) return;
    *token = likeliest;
    taken[++*position % capacity] = likeliest;
}
