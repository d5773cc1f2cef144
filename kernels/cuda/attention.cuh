// What the attention kernels for chunks share: their arguments, and the keys a block of queries looks at.
#pragma once
#include "common.cuh"

// Below any score, yet finite: no difference of two of these is NaN.
#define NEVER -1e30f
#define MINUS_INFINITY __uint_as_float(0xff800000u)

// Slot of an absolute position; a 64-bit remainder takes long, and positions hardly ever need it.
INLINE int ring_slot(int64_t position, int capacity) {
    return position >> 31 == 0 ? (int)((uint32_t)position % (uint32_t)capacity) : (int)(position % capacity);
}

template <typename T> struct Arguments {
    T* out;
    const T *q, *k_ring, *v_ring;
    const int64_t* position;
    int tokens, heads, groups, head_dim, window, q_stride, out_stride, capacity;
};
#define ATTENTION_PARAMETERS(T)                                                                                                            \
    T *out, const T *q, const T *k_ring, const T *v_ring, const int64_t *position, int tokens, int heads, int groups, int head_dim,        \
        int window, int q_stride, int out_stride, int capacity
#define ATTENTION_ARGUMENTS                                                                                                                \
    { out, q, k_ring, v_ring, position, tokens, heads, groups, head_dim, window, q_stride, out_stride, capacity }

// Keys and queries are numbered from the chunk's first token, so that older keys are negative. Tiles of keys begin at multiples of BN in
// absolute positions, a divisor of the capacity, and so never wrap around the ring's end.
struct Span {
    int head, group;
    int first, last; // queries of the block
    int oldest; // key that any of them sees
    int tiles; // of keys
    int newest_tile; // its first key
    int slot; // of that key
    int window;
};
template <int BM, int BN, typename T> INLINE Span block_span(const Arguments<T>& a) {
    Span s;
    int64_t p0 = *a.position;
    // Late tiles see the most keys: they come first, so that the short ones fill the gaps at the end. The heads of a group and of
    // neighbouring tiles run together and share keys in L2.
    int tile = (int)(gridDim.x / a.heads) - 1 - (int)blockIdx.x / a.heads;
    s.head = (int)blockIdx.x % a.heads, s.group = s.head / (a.heads / a.groups);
    s.first = tile * BM, s.last = min(s.first + BM, a.tokens) - 1;
    s.window = a.window > 0 && a.window < 1 << 30 ? a.window : 1 << 30;
    int before = (int)min(p0, (int64_t)(1 << 30));
    s.oldest = max(s.first - s.window + 1, -before);
    int64_t newest = (p0 + s.last) / BN;
    s.tiles = (int)(newest - (p0 + s.oldest) / BN) + 1;
    s.newest_tile = (int)(newest * BN - p0);
    s.slot = ring_slot(newest * BN, a.capacity);
    return s;
}
