// What every kernel file is built on: number formats, asynchronous copies, matrix instructions, warp reductions.
//
// The only file with inline assembly. Kernels include nothing else and no CUDA header, so that NVRTC alone compiles them; the CPU shim
// (shim/shim.hpp) gives each primitive below a plain C++ twin, so that g++ compiles the same sources.
#pragma once

typedef unsigned short bf16_t;
typedef unsigned short f16_t;
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;

#ifdef TAMBORIM_SHIM
#include "shim/shim.hpp"
#else

#define INLINE __device__ __forceinline__
// A function of its own.
#define NOT_INLINE static __device__ __noinline__
// Dynamic shared memory of the launch, 128-byte aligned.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

INLINE float bf16_to_f32(bf16_t x) { return __uint_as_float((uint32_t)x << 16); }
INLINE bf16_t f32_to_bf16(float x) {
    bf16_t y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
INLINE float f16_to_f32(f16_t x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
INLINE f16_t f32_to_f16(float x) {
    f16_t y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
// Two bf16 in a register, `low` in the low half.
INLINE uint32_t pack_bf16x2(float low, float high) {
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
// 2^x by the special function unit: 2 ulp, denormal results are 0. Not for exact mode.
INLINE float ex2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// log2(x) by the special function unit: 2^-22 absolute between 1/2 and 2, a denormal x counts as 0. Not for exact mode.
INLINE float lg2_approx(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 1 / x by the special function unit: 1 ulp, denormal results are 0. Not for exact mode.
INLINE float rcp_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / sqrt(x) for x > 0 within 2 ulp: the special function unit and a step of Newton's.
INLINE float inverse_sqrt(float x) {
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y * fmaf(-0.5f * x * y, y, 1.5f);
}

// *p, or what is said where `valid` is false, without a branch: all such loads of a thread are under way together.
INLINE float load_if(bool valid, const float* p, float otherwise = 0.0f) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p ld.global.f32 %0, [%1];}"
                 : "+f"(otherwise) : "l"(p), "r"((int)valid) : "memory");
    return otherwise;
}
INLINE float load_if(bool valid, const bf16_t* p) {
    bf16_t x = 0;
    asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p ld.global.b16 %0, [%1];}" : "+h"(x) : "l"(p), "r"((int)valid) : "memory");
    return bf16_to_f32(x);
}

// Lets the thread rest for about that long.
INLINE void nap(int nanoseconds) { asm volatile("nanosleep.u32 %0;" ::"r"(nanoseconds) : "memory"); }

// Makes the compiler keep `x` where it would rather compute it again later.
INLINE void keep(int& x) { asm volatile("" : "+r"(x)); }

INLINE uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
// What lies in shared memory, as `keep` has it: the compiler keeps its address.
template <typename T> INLINE T& kept_shared(T& x) {
    uint32_t address = shared_address(&x);
    asm volatile("" : "+r"(address));
    return *(T*)__cvta_shared_to_generic(address);
}
// 16 bytes from global to shared memory, both 16-byte aligned; where `valid` is false, zeros.
INLINE void copy_async16(void* shared, const void* global, bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0) : "memory");
}
// The same of what is not read again, the first to leave L2.
INLINE void copy_async16_once(void* shared, const void* global) {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "l"(policy) : "memory");
}
// The same of the first `bytes` (0 to 16) alone: zeros after them.
INLINE void copy_async16_first(void* shared, const void* global, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}
// 4 bytes, both 4-byte aligned; where `valid` is false, zeros.
INLINE void copy_async4(void* shared, const void* global, bool valid = true) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid ? 4 : 0) : "memory");
}
INLINE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N groups of this thread are under way.
template <int N> INLINE void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Four 8x8 matrices of 16-bit numbers; lane i gives the address of row i % 8 of matrix i / 8.
INLINE void load_matrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
INLINE void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
// d (16x8 float32) += a (16x16 bf16, row major) b (16x8 bf16, column major).
INLINE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d (16x8 float32) += a (16x8, row major) b (8x8, column major), float32 of which the upper 19 bits count.
INLINE void mma_tf32(float (&d)[4], const float (&a)[4], float b0, float b1) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
                   "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

// atomicInc: the number there goes up by one, from `last` to 0; returns what it was. What this thread knows to be written is seen by those
// that take later tickets.
INLINE uint32_t take_ticket(uint32_t* p, uint32_t last) {
    uint32_t ticket;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(ticket) : "l"(p), "r"(last) : "memory");
    return ticket;
}

// Programmatic dependent launch: what comes before `previous_kernel_wait` may overlap the kernel before; `next_kernel_start` lets the
// next one's prologue begin. Always in this order: then all kernels but the one right before have ended when a kernel begins, and what
// they wrote may be read at once. Nothing on chips before sm_90, or where the launch does not ask for it.
INLINE void previous_kernel_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
INLINE void next_kernel_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Barrier number `id` (1 to 15; 0 is __syncthreads) for `threads` threads, whole warps: wait, or only count as having come.
INLINE void barrier_sync(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
INLINE void barrier_arrive(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// ---- Hopper alone (sm_90a): phases in shared memory, matrix products of a warpgroup -----------------------------------------------

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER

// A phase ends when `count` threads have arrived; the next begins at once. `phase_wait(p, parity)` returns when the latest phase of that
// parity (0 for the first, 1 for the second, 0 ...) has ended; before the first, that of parity 1 counts as ended.
typedef uint64_t Phase;
INLINE void phase_init(Phase* p, int count) { asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(p)), "r"(count) : "memory"); }
INLINE void phase_arrive(Phase* p) { asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(p)) : "memory"); }
// Arrives once all asynchronous copies that this thread has begun have landed; does not wait.
INLINE void phase_arrive_after_copies(Phase* p) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(p)) : "memory");
}
// Runs of bytes, a multiple of 16 at 16-byte aligned addresses, copied by one thread, which arrives once they have landed.
INLINE void copy_bulk(void* shared, const void* global, int bytes, Phase* landed) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(landed)), "r"(bytes) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(shared_address(shared)), "l"(global), "r"(bytes), "r"(shared_address(landed)) : "memory");
}
// Between phase_init and the first copy_bulk of the same thread.
INLINE void fence_phase_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
INLINE void phase_wait(Phase* p, int parity) {
    uint32_t done;
    do {
        asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                     : "=r"(done) : "r"(shared_address(p)), "r"(parity) : "memory");
    } while (!done);
}
// Shared memory written by plain stores or copy_async16 before is seen by matrix products after.
INLINE void fence_shared_for_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Registers of each thread of this warpgroup, a multiple of 8; all 128 threads call it.
template <int N> INLINE void registers_give_back() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> INLINE void registers_take() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }

// A matrix in shared memory as slabs of 64 bf16 (128 bytes) a row, 1024-byte aligned, the 16-byte chunks of row r permuted: chunk c lies
// at c ^ (r % 8). `slab` is the distance between slabs in bytes.
typedef uint64_t WgmmaMatrix;
INLINE WgmmaMatrix wgmma_matrix(const void* shared, int slab) {
    // start | leading distance | distance between groups of 8 rows | 128-byte permutation; the first three in units of 16 bytes
    return (uint64_t)(shared_address(shared) >> 4 & 0x3fff) | (uint64_t)(slab >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 | 1ull << 62;
}
INLINE WgmmaMatrix wgmma_advance(WgmmaMatrix m, int bytes) { return m + (bytes >> 4); }

// d is tied down here: neither read earlier nor written later.
template <int N> INLINE void wgmma_hold(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int N> INLINE void wgmma_hold(uint32_t (&a)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+r"(a[i])::"memory");
}
// Before the first product after registers that products use were touched.
INLINE void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
INLINE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most N committed groups are under way.
template <int N> INLINE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }

#define WGMMA_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_D16(i) WGMMA_D4(i), WGMMA_D4(i + 4), WGMMA_D4(i + 8), WGMMA_D4(i + 12)
#define WGMMA_R32 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define WGMMA_R64                                                                                                                          \
    WGMMA_R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
// d (64 x N) = or += a (64 x 16) b (16 x N), begun but not waited for. The fragments of warp w, rows 16 w to 16 w + 15, are those of N / 8
// mma_bf16 side by side. Both matrices lie in shared memory with the 16 along their rows (of 64 for a, of N for b); the next 16 are 32
// bytes on, those after 64 a slab on.
template <int N> INLINE void wgmma(float (&d)[N / 2], WgmmaMatrix a, WgmmaMatrix b, bool add) {
    static_assert(N == 64 || N == 128, "");
    if constexpr (N == 64)
        asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_R32
                     "}, %32, %33, p, 1, 1, 0, 0;}" : WGMMA_D16(0), WGMMA_D16(16) : "l"(a), "l"(b), "r"((int)add));
    else
        asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_R64
                     "}, %64, %65, p, 1, 1, 0, 0;}"
                     : WGMMA_D16(0), WGMMA_D16(16), WGMMA_D16(32), WGMMA_D16(48) : "l"(a), "l"(b), "r"((int)add));
}
// d (64 x N) += a (64 x 16, in registers) b (16 x N), b stored as 16 rows of N: the next 16 rows are 2048 bytes on.
template <int N> INLINE void wgmma_rows(float (&d)[N / 2], const uint32_t* a, WgmmaMatrix b) {
    static_assert(N == 64 || N == 128, "");
    if constexpr (N == 64)
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WGMMA_R32 "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
                     : WGMMA_D16(0), WGMMA_D16(16) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    else
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WGMMA_R64 "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 1;"
                     : WGMMA_D16(0), WGMMA_D16(16), WGMMA_D16(32), WGMMA_D16(48)
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#endif // sm_90a

#endif // TAMBORIM_SHIM

// An activation is float32 in exact mode and bf16 in fast mode; kernels are templates over it.
INLINE float load(const float* p) { return *p; }
INLINE float load(const bf16_t* p) { return bf16_to_f32(*p); }
INLINE void store(float* p, float x) { *p = x; }
INLINE void store(bf16_t* p, float x) { *p = f32_to_bf16(x); }

// V adjacent numbers as float32, in 16-byte (4 bf16: 8-byte) accesses where V > 1; `p` is aligned to that.
template <int V> INLINE void load_vector(float (&x)[V], const float* p) {
    static_assert(V == 1 || V % 4 == 0, "whole accesses");
    if constexpr (V == 1) {
        x[0] = *p;
    } else {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            float4 v = *(const float4*)(p + i);
            x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
        }
    }
}
template <int V> INLINE void load_vector(float (&x)[V], const bf16_t* p) {
    static_assert(V == 1 || V == 4 || V % 8 == 0, "whole accesses");
    if constexpr (V == 1) {
        x[0] = bf16_to_f32(*p);
    } else {
        uint32_t words[V / 2];
        if constexpr (V == 4) {
            uint2 v = *(const uint2*)p;
            words[0] = v.x, words[1] = v.y;
        } else {
#pragma unroll
            for (int i = 0; i < V; i += 8) {
                uint4 v = *(const uint4*)(p + i);
                words[i / 2] = v.x, words[i / 2 + 1] = v.y, words[i / 2 + 2] = v.z, words[i / 2 + 3] = v.w;
            }
        }
#pragma unroll
        for (int i = 0; i < V / 2; ++i) {
            x[2 * i] = __uint_as_float(words[i] << 16);
            x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        }
    }
}
template <int V> INLINE void store_vector(float* p, const float (&x)[V]) {
    static_assert(V == 1 || V % 4 == 0, "whole accesses");
    if constexpr (V == 1) {
        *p = x[0];
    } else {
#pragma unroll
        for (int i = 0; i < V; i += 4) *(float4*)(p + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
    }
}
template <int V> INLINE void store_vector(bf16_t* p, const float (&x)[V]) {
    static_assert(V == 1 || V == 4 || V % 8 == 0, "whole accesses");
    if constexpr (V == 1) {
        *p = f32_to_bf16(x[0]);
    } else if constexpr (V == 4) {
        *(uint2*)p = make_uint2(pack_bf16x2(x[0], x[1]), pack_bf16x2(x[2], x[3]));
    } else {
#pragma unroll
        for (int i = 0; i < V; i += 8)
            *(uint4*)(p + i) = make_uint4(pack_bf16x2(x[i], x[i + 1]), pack_bf16x2(x[i + 2], x[i + 3]),
                                          pack_bf16x2(x[i + 4], x[i + 5]), pack_bf16x2(x[i + 6], x[i + 7]));
    }
}
// V adjacent numbers as they lie in memory (4 to 16 bytes), for loads ahead of their use.
template <typename T, int V> struct Packed {
    uint32_t word[V * sizeof(T) / 4];

    // From an address aligned to the whole.
    INLINE void load_whole(const T* p) {
        if constexpr (sizeof word == 4) {
            word[0] = *(const uint32_t*)p;
        } else if constexpr (sizeof word == 8) {
            uint2 v = *(const uint2*)p;
            word[0] = v.x, word[1] = v.y;
        } else {
            static_assert(sizeof word == 16, "one access");
            uint4 v = *(const uint4*)p;
            word[0] = v.x, word[1] = v.y, word[2] = v.z, word[3] = v.w;
        }
    }
    // The first `valid` (less than 1: none, more than V: all) from any address; zeros after them.
    INLINE void load_some(const T* p, int valid) {
#pragma unroll
        for (int i = 0; i < V; ++i) {
            if constexpr (sizeof(T) == 4) {
                word[i] = i < valid ? __float_as_uint(p[i]) : 0;
            } else {
                uint32_t bits = i < valid ? (uint32_t)p[i] : 0;
                word[i / 2] = i % 2 ? word[i / 2] | bits << 16 : bits;
            }
        }
    }
    INLINE float operator[](int i) const {
        if constexpr (sizeof(T) == 4) return __uint_as_float(word[i]);
        return __uint_as_float(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
    }
};
// Whether a matrix view can be read in accesses of `bytes`: its start, and the distance between its rows.
template <typename T> INLINE bool is_aligned(const T* p, int64_t stride, int bytes) {
    return ((uint64_t)p | (uint64_t)(stride * (int64_t)sizeof(T))) % bytes == 0;
}

#define FULL_WARP 0xffffffffu
// Sum over the lanes of a warp, the same bits in every lane (a butterfly adds the same pairs everywhere).
template <typename T> INLINE T warp_sum(T x) {
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(FULL_WARP, x, d);
    return x;
}
INLINE float warp_max(float x) {
    for (int d = 16; d > 0; d >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, d));
    return x;
}
INLINE float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
INLINE float silu(float x) { return x / (1.0f + expf(-x)); }
