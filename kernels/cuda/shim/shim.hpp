// CUDA C++ for g++: what a kernel file may use beyond C++, and a plain twin of each primitive of common.cuh.
//
// Warp operations meet as on a GPU: all lanes of the mask that have not returned, wherever in the code they are.
// Functions that approximate on a GPU (ex2_approx, __expf, rsqrtf) are exact to rounding here. A `__shared__` array is
// thread-local, since a CTA runs on one OS thread.
#pragma once

// common.cuh defines the sized integers as NVRTC does; the system's names for two of them mean other types.
#define int64_t system_int64_t
#define uint64_t system_uint64_t
#include "engine.hpp"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#undef int64_t
#undef uint64_t

#define __CUDA_ARCH__ 800
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static thread_local
#ifndef SHIM_LIST_KERNELS
#define __global__
#define __launch_bounds__(...)
#endif
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __builtin_assume(x) ((void)0)
#define __builtin_align__(n) __align__(n)
#define __trap() ::shim::fail("__trap")
#define INLINE inline __attribute__((always_inline))
#define NOT_INLINE static __attribute__((noinline))
#define DYNAMIC_SHARED(name) unsigned char* const name = ::shim::cta().dynamic_shared

typedef shim::Index uint3;
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
#define threadIdx (::shim::self().thread)
#define blockIdx (::shim::cta().block)
#define blockDim (::shim::cta().block_dim)
#define gridDim (::shim::cta().grid_dim)
constexpr int warpSize = 32;

// Vector types with the alignment a GPU's wide loads ask for.
#define SHIM_VECTORS(T, name, a2, a4)                                                                                  \
    struct name##1 { T x; };                                                                                           \
    struct __attribute__((aligned(a2))) name##2 { T x, y; };                                                           \
    struct name##3 { T x, y, z; };                                                                                     \
    struct __attribute__((aligned(a4))) name##4 { T x, y, z, w; };                                                     \
    INLINE name##2 make_##name##2(T x, T y) { return {x, y}; }                                                         \
    INLINE name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                                                 \
    INLINE name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
SHIM_VECTORS(signed char, char, 2, 4)
SHIM_VECTORS(unsigned char, uchar, 2, 4)
SHIM_VECTORS(short, short, 4, 8)
SHIM_VECTORS(unsigned short, ushort, 4, 8)
SHIM_VECTORS(int, int, 8, 16)
#define uint3 shim_uint3
SHIM_VECTORS(unsigned, uint, 8, 16)
#undef uint3
SHIM_VECTORS(float, float, 8, 16)
SHIM_VECTORS(long long, longlong, 16, 16)
SHIM_VECTORS(unsigned long long, ulonglong, 16, 16)
SHIM_VECTORS(double, double, 16, 16)

// ---- Bits -----------------------------------------------------------------------------------------------------------

template <typename To, typename From> INLINE To shim_bits(From x) {
    static_assert(sizeof(To) == sizeof(From), "");
    To y;
    __builtin_memcpy(&y, &x, sizeof y);
    return y;
}
INLINE unsigned __float_as_uint(float x) { return shim_bits<unsigned>(x); }
INLINE int __float_as_int(float x) { return shim_bits<int>(x); }
INLINE float __uint_as_float(unsigned x) { return shim_bits<float>(x); }
INLINE float __int_as_float(int x) { return shim_bits<float>(x); }
INLINE long long __double_as_longlong(double x) { return shim_bits<long long>(x); }
INLINE double __longlong_as_double(long long x) { return shim_bits<double>(x); }
INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
INLINE int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
INLINE int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
INLINE int __ffs(int x) { return __builtin_ffs(x); }
INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }
INLINE unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int i = 0; i < 32; i++) y |= (x >> i & 1) << (31 - i);
    return y;
}
INLINE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned n) {
    return (unsigned)((((unsigned long long)high << 32 | low) << (n & 31)) >> 32);
}
INLINE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (n & 31));
}
INLINE unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    unsigned long long bytes = (unsigned long long)y << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = selector >> 4 * i, b = (unsigned)(bytes >> 8 * (s & 7)) & 255;
        if (s & 8) b = b & 128 ? 255 : 0; // the sign of the byte
        result |= b << 8 * i;
    }
    return result;
}
INLINE int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (signed char)(a >> 8 * i) * (signed char)(b >> 8 * i);
    return c;
}
INLINE unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
    for (int i = 0; i < 4; i++) c += (a >> 8 * i & 255) * (b >> 8 * i & 255);
    return c;
}
INLINE unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
INLINE int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
INLINE int __mul24(int a, int b) { return ((a << 8) >> 8) * ((b << 8) >> 8); }
#define SHIM_BYTES(name, T, expression)                                                                                \
    INLINE unsigned name(unsigned a, unsigned b) {                                                                     \
        unsigned r = 0;                                                                                                \
        for (int i = 0; i < 32; i += 8) {                                                                              \
            T x = (T)(a >> i), y = (T)(b >> i);                                                                        \
            r |= (unsigned)(unsigned char)(expression) << i;                                                           \
        }                                                                                                              \
        return r;                                                                                                      \
    }
SHIM_BYTES(__vadd4, unsigned char, x + y)
SHIM_BYTES(__vsub4, unsigned char, x - y)
SHIM_BYTES(__vsubss4, signed char, x - y < -128 ? -128 : x - y > 127 ? 127 : x - y)
SHIM_BYTES(__vcmpeq4, unsigned char, x == y ? 255 : 0)
SHIM_BYTES(__vcmpne4, unsigned char, x != y ? 255 : 0)

// ---- Memory ---------------------------------------------------------------------------------------------------------

template <typename T> INLINE T __ldg(const T* p) { return *p; }
template <typename T> INLINE T __ldcs(const T* p) { return *p; }
template <typename T> INLINE T __ldca(const T* p) { return *p; }
template <typename T> INLINE T __ldlu(const T* p) { return *p; }
template <typename T> INLINE void __stcs(T* p, T x) { *p = x; }
template <typename T> INLINE void __stwt(T* p, T x) { *p = x; }
template <typename T> INLINE void __stwb(T* p, T x) { *p = x; }
template <typename T> INLINE void __stcg(T* p, T x) { *p = x; }
// Past L1: what one spins on.
template <typename T> INLINE T __ldcg(const T* p) {
    asm volatile("" ::: "memory");
    shim::poll();
    return *p;
}
template <typename T> INLINE T __ldcv(const T* p) { return __ldcg(p); }
INLINE void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
INLINE void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
INLINE void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
INLINE void __nanosleep(unsigned) { shim::yield(); }
INLINE long long clock64() { return 0; }
INLINE long long clock() { return 0; }

// Others may run before an atomic operation, so that one may spin on it.
#define SHIM_ATOMIC(name, expression)                                                                                  \
    template <typename T, typename U> INLINE T name(T* p, U operand) {                                                 \
        static_assert(!(T)0.5, "no atomics on numbers: their order would change the sum");                             \
        shim::yield();                                                                                                 \
        T x = (T)operand, old = __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                  \
        while (!__atomic_compare_exchange_n(p, &old, (T)(expression), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}   \
        return old;                                                                                                    \
    }
SHIM_ATOMIC(atomicAdd, old + x)
SHIM_ATOMIC(atomicSub, old - x)
SHIM_ATOMIC(atomicExch, x)
SHIM_ATOMIC(atomicMin, old < x ? old : x)
SHIM_ATOMIC(atomicMax, old > x ? old : x)
SHIM_ATOMIC(atomicAnd, old & x)
SHIM_ATOMIC(atomicOr, old | x)
SHIM_ATOMIC(atomicXor, old ^ x)
SHIM_ATOMIC(atomicInc, old >= x ? 0 : old + 1)
SHIM_ATOMIC(atomicDec, old == 0 || old > x ? x : old - 1)
template <typename T> INLINE T atomicCAS(T* p, T expected, T x) {
    shim::yield();
    __atomic_compare_exchange_n(p, &expected, x, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}

// ---- Numbers --------------------------------------------------------------------------------------------------------

#define SHIM_MIN_MAX(A, B, R)                                                                                          \
    INLINE constexpr R min(A a, B b) { return (R)a < (R)b ? (R)a : (R)b; }                                             \
    INLINE constexpr R max(A a, B b) { return (R)a > (R)b ? (R)a : (R)b; }
SHIM_MIN_MAX(int, int, int)
SHIM_MIN_MAX(unsigned, unsigned, unsigned)
SHIM_MIN_MAX(int, unsigned, unsigned)
SHIM_MIN_MAX(unsigned, int, unsigned)
SHIM_MIN_MAX(long long, long long, long long)
SHIM_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
SHIM_MIN_MAX(long, long, long)
SHIM_MIN_MAX(unsigned long, unsigned long, unsigned long)
INLINE float min(float a, float b) { return fminf(a, b); }
INLINE float max(float a, float b) { return fmaxf(a, b); }
INLINE double min(double a, double b) { return fmin(a, b); }
INLINE double max(double a, double b) { return fmax(a, b); }
INLINE long long llmin(long long a, long long b) { return min(a, b); }
INLINE long long llmax(long long a, long long b) { return max(a, b); }

INLINE float rsqrtf(float x) { return (float)(1.0 / sqrt((double)x)); }
INLINE double rsqrt(double x) { return 1.0 / sqrt(x); }
INLINE float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
INLINE float fdividef(float a, float b) { return a / b; }
INLINE float __fdividef(float a, float b) { return a / b; }
INLINE float __fdiv_rn(float a, float b) { return a / b; }
INLINE float __frcp_rn(float x) { return 1.0f / x; }
INLINE float __fsqrt_rn(float x) { return sqrtf(x); }
INLINE float __frsqrt_rn(float x) { return rsqrtf(x); }
INLINE float __fadd_rn(float a, float b) { return a + b; }
INLINE float __fsub_rn(float a, float b) { return a - b; }
INLINE float __fmul_rn(float a, float b) { return a * b; }
INLINE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
INLINE double __dadd_rn(double a, double b) { return a + b; }
INLINE double __dmul_rn(double a, double b) { return a * b; }
INLINE double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
INLINE float __expf(float x) { return expf(x); }
INLINE float __exp10f(float x) { return exp10f(x); }
INLINE float __logf(float x) { return logf(x); }
INLINE float __log2f(float x) { return log2f(x); }
INLINE float __sinf(float x) { return sinf(x); }
INLINE float __cosf(float x) { return cosf(x); }
INLINE float __powf(float x, float y) { return powf(x, y); }
INLINE float __tanhf(float x) { return tanhf(x); }
INLINE void __sincosf(float x, float* s, float* c) { *s = sinf(x), *c = cosf(x); }
INLINE int __float2int_rn(float x) { return (int)rintf(x); }
INLINE int __float2int_rz(float x) { return (int)x; }
INLINE int __float2int_rd(float x) { return (int)floorf(x); }
INLINE int __float2int_ru(float x) { return (int)ceilf(x); }
INLINE unsigned __float2uint_rn(float x) { return (unsigned)rintf(x); }
INLINE unsigned __float2uint_rz(float x) { return (unsigned)x; }
INLINE float __int2float_rn(int x) { return (float)x; }
INLINE float __uint2float_rn(unsigned x) { return (float)x; }
INLINE float __double2float_rn(double x) { return (float)x; }
INLINE int __double2int_rn(double x) { return (int)rint(x); }
#define CUDART_INF_F INFINITY

// ---- Threads of a CTA and of a warp ---------------------------------------------------------------------------------

INLINE void __syncthreads() { shim::barrier(0, 0, true, 0); }
INLINE int __syncthreads_count(int predicate) { shim::barrier(0, 0, true, predicate != 0); return (int)shim::cta().reduced[0]; }
INLINE int __syncthreads_or(int predicate) { shim::barrier(0, 0, true, predicate != 0); return (int)shim::cta().reduced[1]; }
INLINE int __syncthreads_and(int predicate) { shim::barrier(0, 0, true, predicate != 0); return (int)shim::cta().reduced[2]; }

namespace shim {
static inline void nothing(Warp&, u32) {}
// Each lane takes the value of another; of one that does not take part, poison.
static inline void exchange(Warp& w, u32 present) {
    for (u32 i = 0; i < 32; i++)
        if (present >> i & 1) w.result[i] = present >> w.source[i] & 1 ? w.value[w.source[i]] : ~0ull;
}
static inline void vote(Warp& w, u32 present) {
    u32 ballot = 0;
    for (u32 i = 0; i < 32; i++) ballot |= (u32)(present >> i & 1 && w.value[i]) << i;
    for (u32 i = 0; i < 32; i++) w.result[i] = (u64)present << 32 | ballot;
}
static inline void match(Warp& w, u32 present) {
    for (u32 i = 0; i < 32; i++) {
        w.result[i] = 0;
        for (u32 j = 0; j < 32; j++) w.result[i] |= (u64)(present >> j & 1 && w.value[i] == w.value[j]) << j;
    }
}
template <typename T> T shuffle(u32 mask, T x, u32 source) {
    static_assert(sizeof(T) <= 8, "");
    Lane& me = self();
    Warp& w = *me.warp;
    u64 bits = 0;
    __builtin_memcpy(&bits, &x, sizeof x);
    w.value[me.number] = bits;
    w.source[me.number] = source;
    meet(mask, exchange);
    __builtin_memcpy(&x, &w.result[me.number], sizeof x);
    return x;
}
static inline u64 vote_of(u32 mask, u64 value, Together work) {
    Lane& me = self();
    me.warp->value[me.number] = value;
    meet(mask, work);
    return me.warp->result[me.number];
}
template <typename T, typename F> T reduce(u32 mask, T x) {
    return (T)vote_of(mask, (u64)x, [](Warp& w, u32 present) {
        T sum = (T)w.value[__builtin_ctz(present)];
        for (u32 i = __builtin_ctz(present) + 1; i < 32; i++)
            if (present >> i & 1) sum = F()(sum, (T)w.value[i]);
        for (u32 i = 0; i < 32; i++) w.result[i] = (u64)sum;
    });
}
} // namespace shim

INLINE void __syncwarp(unsigned mask = 0xffffffffu) { shim::meet(mask, shim::nothing); }
INLINE unsigned __activemask() { return ~shim::self().warp->gone; }
template <typename T> INLINE T __shfl_sync(unsigned mask, T x, int source, int width = 32) {
    unsigned lane = shim::self().number;
    return shim::shuffle(mask, x, (lane & ~(width - 1u)) | ((unsigned)source & (width - 1u)));
}
template <typename T> INLINE T __shfl_xor_sync(unsigned mask, T x, int d, int width = 32) {
    unsigned lane = shim::self().number, to = lane ^ (unsigned)d;
    return shim::shuffle(mask, x, to >= ((lane & ~(width - 1u)) + width) ? lane : to);
}
template <typename T> INLINE T __shfl_up_sync(unsigned mask, T x, unsigned d, int width = 32) {
    unsigned lane = shim::self().number;
    return shim::shuffle(mask, x, (lane & (width - 1u)) < d ? lane : lane - d);
}
template <typename T> INLINE T __shfl_down_sync(unsigned mask, T x, unsigned d, int width = 32) {
    unsigned lane = shim::self().number;
    return shim::shuffle(mask, x, (lane & (width - 1u)) + d >= (unsigned)width ? lane : lane + d);
}
INLINE unsigned __ballot_sync(unsigned mask, int predicate) { return (unsigned)shim::vote_of(mask, predicate != 0, shim::vote); }
INLINE int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
INLINE int __all_sync(unsigned mask, int predicate) {
    unsigned long long both = shim::vote_of(mask, predicate != 0, shim::vote);
    return (unsigned)both == (unsigned)(both >> 32);
}
template <typename T> INLINE unsigned __match_any_sync(unsigned mask, T x) {
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, &x, sizeof x);
    return (unsigned)shim::vote_of(mask, bits, shim::match);
}
#define SHIM_REDUCE(name, expression)                                                                                  \
    struct shim_##name { template <typename T> T operator()(T a, T b) { return expression; } };                        \
    INLINE int __reduce_##name##_sync(unsigned mask, int x) { return shim::reduce<int, shim_##name>(mask, x); }        \
    INLINE unsigned __reduce_##name##_sync(unsigned mask, unsigned x) { return shim::reduce<unsigned, shim_##name>(mask, x); }
SHIM_REDUCE(add, a + b)
SHIM_REDUCE(min, a < b ? a : b)
SHIM_REDUCE(max, a > b ? a : b)
SHIM_REDUCE(and, a & b)
SHIM_REDUCE(or, a | b)

// ---- Twins of common.cuh --------------------------------------------------------------------------------------------

INLINE float bf16_to_f32(bf16_t x) { return __uint_as_float((uint32_t)x << 16); }
INLINE bf16_t f32_to_bf16(float x) {
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff; // NaN
    return (bf16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
INLINE float f16_to_f32(f16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, magnitude = x & 0x7fff;
    if (magnitude >= 0x7c00) return __uint_as_float(sign | magnitude << 13 | 0x7f800000);
    float y = __uint_as_float(magnitude << 13) * 0x1p112f; // exact, for subnormal numbers too
    return __uint_as_float(sign | __float_as_uint(y));
}
INLINE f16_t f32_to_f16(float x) {
    uint32_t u = __float_as_uint(x), sign = u >> 16 & 0x8000;
    float y = fabsf(x);
    if (y != y) return 0x7fff;
    if (y >= 65520.0f) return (f16_t)(sign | 0x7c00);
    if (y < 0x1p-14f) return (f16_t)(sign | (uint32_t)rintf(y * 0x1p24f)); // subnormal: a multiple of 2^-24
    u = __float_as_uint(y) - (112u << 23);
    return (f16_t)(sign | (u + 0xfff + (u >> 13 & 1)) >> 13);
}
INLINE uint32_t pack_bf16x2(float low, float high) { return (uint32_t)f32_to_bf16(high) << 16 | f32_to_bf16(low); }
INLINE float ex2_approx(float x) {
    float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}
INLINE float lg2_approx(float x) { return log2f(x); }
INLINE float rcp_approx(float x) { return 1.0f / x; }
INLINE void nap(int) {}
INLINE float inverse_sqrt(float x) { return 1.0f / sqrtf(x); }
INLINE float load_if(bool valid, const float* p, float otherwise = 0.0f) { return valid ? *p : otherwise; }
INLINE float load_if(bool valid, const bf16_t* p) { return valid ? bf16_to_f32(*p) : 0.0f; }
INLINE void copy_async16(void* shared, const void* global, bool valid = true) { shim::copy_async(shared, global, 16, valid ? 16 : 0); }
INLINE void keep(int&) {}
template <typename T> INLINE T& kept_shared(T& x) { return x; }
INLINE void copy_async16_once(void* shared, const void* global) { copy_async16(shared, global); }
INLINE void copy_async16_first(void* shared, const void* global, int bytes) { shim::copy_async(shared, global, 16, (unsigned)bytes); }
INLINE void copy_async4(void* shared, const void* global, bool valid = true) { shim::copy_async(shared, global, 4, valid ? 4 : 0); }
INLINE void copy_async_commit() { shim::copy_async_commit(); }
template <int N> INLINE void copy_async_wait() { shim::copy_async_wait(N); }

namespace shim {
template <bool TRANSPOSED> void load_matrices(Warp& w, u32 present) {
    if (present != ~0u) fail("a matrix operation without all lanes of the warp: %08x", present);
    unsigned short rows[32][8];
    for (u32 i = 0; i < 32; i++) {
        if (w.value[i] % 16) fail("load_matrix: row %u of matrix %u is not 16-byte aligned", i % 8, i / 8);
        __builtin_memcpy(rows[i], (const void*)w.value[i], 16);
    }
    for (u32 i = 0; i < 32; i++)
        for (u32 m = 0; m < 4; m++) {
            u32 row = i / 4, column = i % 4 * 2;
            ((u32*)w.pointer[i])[m] = TRANSPOSED ? rows[m * 8 + column][row] | (u32)rows[m * 8 + column + 1][row] << 16
                                                 : rows[m * 8 + row][column] | (u32)rows[m * 8 + row][column + 1] << 16;
        }
}
struct MmaLane {
    float* d;
    const u32* a;
    u32 b[2];
};
// Fragments: lane 4 * r + c holds a[0] = A[r][2c, 2c+1], a[1] = A[r+8][..], a[2] = A[r][2c+8, ..], a[3] = A[r+8][2c+8,
// ..]; b[0] = B[2c, 2c+1][r], b[1] = B[2c+8, ..][r]; d[0, 1] = D[r][2c, 2c+1], d[2, 3] = D[r+8][2c, 2c+1].
static inline void mma_m16n8k16(Warp& w, u32 present) {
    if (present != ~0u) fail("a matrix operation without all lanes of the warp: %08x", present);
    float a[16][16], d[16][8];
    alignas(32) float b[16][8];
    auto low = [](u32 x) { return __uint_as_float(x << 16); };
    auto high = [](u32 x) { return __uint_as_float(x & 0xffff0000u); };
    for (u32 i = 0; i < 32; i++) {
        const MmaLane& lane = *(const MmaLane*)w.pointer[i];
        u32 r = i / 4, c = i % 4 * 2;
        for (u32 j = 0; j < 4; j++) {
            float* to = &a[r + j % 2 * 8][c + j / 2 * 8];
            to[0] = low(lane.a[j]), to[1] = high(lane.a[j]);
        }
        for (u32 j = 0; j < 2; j++) b[c + j * 8][r] = low(lane.b[j]), b[c + j * 8 + 1][r] = high(lane.b[j]);
        d[r][c] = lane.d[0], d[r][c + 1] = lane.d[1], d[r + 8][c] = lane.d[2], d[r + 8][c + 1] = lane.d[3];
    }
    typedef float Row __attribute__((vector_size(32)));
    for (u32 i = 0; i < 16; i++) {
        Row sum;
        __builtin_memcpy(&sum, d[i], 32);
        for (u32 k = 0; k < 16; k++) {
            Row row;
            __builtin_memcpy(&row, b[k], 32);
            sum += a[i][k] * row;
        }
        __builtin_memcpy(d[i], &sum, 32);
    }
    for (u32 i = 0; i < 32; i++) {
        float* to = ((const MmaLane*)w.pointer[i])->d;
        u32 r = i / 4, c = i % 4 * 2;
        to[0] = d[r][c], to[1] = d[r][c + 1], to[2] = d[r + 8][c], to[3] = d[r + 8][c + 1];
    }
}
template <bool TRANSPOSED> void load_matrix(u32* r, const void* row) {
    Lane& me = self();
    me.warp->value[me.number] = (u64)row;
    me.warp->pointer[me.number] = r;
    meet(~0u, load_matrices<TRANSPOSED>);
    asm volatile("" ::: "memory");
}
} // namespace shim
INLINE void load_matrix_x4(uint32_t (&r)[4], const void* row) { shim::load_matrix<false>(r, row); }
INLINE void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) { shim::load_matrix<true>(r, row); }
INLINE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    shim::MmaLane lane = {d, a, {b0, b1}};
    shim::Lane& me = shim::self();
    me.warp->pointer[me.number] = &lane;
    shim::meet(~0u, shim::mma_m16n8k16);
}

namespace shim {
struct Tf32Lane {
    float* d;
    const float* a;
    float b[2];
};
// Fragments: lane 4 * r + c holds a[0] = A[r][c], a[1] = A[r+8][c], a[2] = A[r][c+4], a[3] = A[r+8][c+4]; b[0] = B[c][r],
// b[1] = B[c+4][r]; d as for m16n8k16.
static inline void mma_m16n8k8(Warp& w, u32 present) {
    if (present != ~0u) fail("a matrix operation without all lanes of the warp: %08x", present);
    float a[16][8], b[8][8];
    auto cut = [](float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); };
    for (u32 i = 0; i < 32; i++) {
        const Tf32Lane& lane = *(const Tf32Lane*)w.pointer[i];
        for (u32 j = 0; j < 4; j++) a[i / 4 + j % 2 * 8][i % 4 + j / 2 * 4] = cut(lane.a[j]);
        for (u32 j = 0; j < 2; j++) b[i % 4 + j * 4][i / 4] = cut(lane.b[j]);
    }
    for (u32 i = 0; i < 32; i++)
        for (u32 j = 0; j < 4; j++) {
            float& d = ((const Tf32Lane*)w.pointer[i])->d[j];
            for (u32 k = 0; k < 8; k++) d += a[i / 4 + j / 2 * 8][k] * b[k][i % 4 * 2 + j % 2];
        }
}
} // namespace shim
INLINE void mma_tf32(float (&d)[4], const float (&a)[4], float b0, float b1) {
    shim::Tf32Lane lane = {d, a, {b0, b1}};
    shim::Lane& me = shim::self();
    me.warp->pointer[me.number] = &lane;
    shim::meet(~0u, shim::mma_m16n8k8);
}

INLINE uint32_t take_ticket(uint32_t* p, uint32_t last) { return atomicInc(p, last); }

INLINE void previous_kernel_wait() {
    shim::previous_kernel_wait();
    asm volatile("" ::: "memory");
}
INLINE void next_kernel_start() {}

INLINE void barrier_sync(int id, int threads) { shim::barrier((unsigned)id, (unsigned)threads, true, 0); }
INLINE void barrier_arrive(int id, int threads) { shim::barrier((unsigned)id, (unsigned)threads, false, 0); }

// Hopper's primitives. A phase is kept as count | missing << 16 | number << 32.
#define HOPPER
typedef uint64_t Phase;
INLINE void phase_init(Phase* p, int count) { *p = (uint64_t)count | (uint64_t)count << 16; }
INLINE void phase_arrive(Phase* p) {
    shim::yield();
    shim::phase_arrive(p);
}
INLINE void phase_arrive_after_copies(Phase* p) { shim::phase_arrive_after_copies(p); }
INLINE void fence_phase_init() {}
INLINE void copy_bulk(void* shared, const void* global, int bytes, Phase* landed) {
    for (int i = 0; i < bytes; i += 16) shim::copy_async((char*)shared + i, (const char*)global + i, 16, 16);
    shim::phase_arrive_after_copies(landed);
}
INLINE void phase_wait(Phase* p, int parity) { shim::phase_wait(p, (unsigned)parity); }
INLINE void fence_shared_for_wgmma() {}
template <int N> INLINE void registers_give_back() {}
template <int N> INLINE void registers_take() {}
struct WgmmaMatrix {
    const unsigned char* start;
    long slab;
    // Element `column` of row `row`.
    float at(long row, long column) const {
        size_t p = (size_t)(start + column / 64 * slab + row * 128 + column % 64 * 2);
        p ^= (p >> 7 & 7) << 4;
        return __uint_as_float((unsigned)*(const unsigned short*)p << 16);
    }
};
INLINE WgmmaMatrix wgmma_matrix(const void* shared, int slab) {
    if ((size_t)shared % 1024) shim::fail("wgmma: a slab that is not 1024-byte aligned");
    return {(const unsigned char*)shared, slab};
}
INLINE WgmmaMatrix wgmma_advance(WgmmaMatrix m, int bytes) { return {m.start + bytes, m.slab}; }
template <typename T> INLINE void wgmma_hold(T&) {}
INLINE void wgmma_begin() {}
INLINE void wgmma_commit() { shim::product_commit(); }
template <int N> INLINE void wgmma_wait() {
    shim::product_wait(N);
    asm volatile("" ::: "memory");
}
namespace shim {
// One warp's 16 of the 64 rows. b is (n, 16) where a is shared and (16, n) where a is in registers.
template <int N> void wgmma_warp(Warp& w, u32 present) {
    if (present != ~0u) fail("a matrix operation without all lanes of the warp: %08x", present);
    const Product& first = *(const Product*)w.pointer[0];
    WgmmaMatrix a_shared = {first.a_start, first.a_slab}, b_shared = {first.b_start, first.b_slab};
    u32 warp = (u32)(&w - cta().warp_list) % 4;
    float a[16][16], b[16][N];
    for (u32 i = 0; i < 32; i++) {
        const Product& lane = *(const Product*)w.pointer[i];
        if (lane.b_start != first.b_start || lane.a_start != first.a_start) fail("wgmma: matrices differ between lanes");
        if (lane.a == nullptr) continue;
        u32 r = i / 4, c = i % 4 * 2;
        for (u32 j = 0; j < 4; j++) {
            float* to = &a[r + j % 2 * 8][c + j / 2 * 8];
            to[0] = __uint_as_float(lane.a[j] << 16), to[1] = __uint_as_float(lane.a[j] & 0xffff0000u);
        }
    }
    for (u32 k = 0; k < 16; k++) {
        if (first.a == nullptr)
            for (u32 i = 0; i < 16; i++) a[i][k] = a_shared.at(warp * 16 + i, k);
        for (u32 n = 0; n < N; n++) b[k][n] = first.a == nullptr ? b_shared.at(n, k) : b_shared.at(k, n);
    }
    for (u32 i = 0; i < 16; i++) {
        float d[N] = {};
        auto sum = [&](u32 n) -> float& { return ((Product*)w.pointer[i % 8 * 4 + n % 8 / 2])->sum[n / 8 * 4 + i / 8 * 2 + n % 2]; };
        if (first.add)
            for (u32 n = 0; n < N; n++) d[n] = sum(n);
        for (u32 k = 0; k < 16; k++)
            for (u32 n = 0; n < N; n++) d[n] += a[i][k] * b[k][n];
        for (u32 n = 0; n < N; n++) sum(n) = d[n];
    }
}
} // namespace shim
template <int N> INLINE void wgmma(float (&d)[N / 2], WgmmaMatrix a, WgmmaMatrix b, bool add) {
    shim::product_begin({shim::wgmma_warp<N>, nullptr, a.start, b.start, a.slab, b.slab, nullptr, 0, add}, d, N / 2);
}
template <int N> INLINE void wgmma_rows(float (&d)[N / 2], const uint32_t* a, WgmmaMatrix b) {
    shim::product_begin({shim::wgmma_warp<N>, a, nullptr, b.start, 0, b.slab, nullptr, 0, true}, d, N / 2);
}
