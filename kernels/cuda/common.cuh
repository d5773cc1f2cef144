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

// 16 bytes read once: past L1, through the read-only path.
INLINE uint4 load_stream16(const void* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

INLINE uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
// 16 bytes from global to shared memory, both 16-byte aligned; where `valid` is false, zeros.
INLINE void copy_async16(void* shared, const void* global, bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0) : "memory");
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

// Programmatic dependent launch: what comes before `previous_kernel_wait` may overlap the kernel before; `next_kernel_start` lets the
// next one's prologue begin. Nothing on chips before sm_90, or where the launch does not ask for it.
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

#endif // TAMBORIM_SHIM

// An activation is float32 in exact mode and bf16 in fast mode; kernels are templates over it.
INLINE float load(const float* p) { return *p; }
INLINE float load(const bf16_t* p) { return bf16_to_f32(*p); }
INLINE void store(float* p, float x) { *p = x; }
INLINE void store(bf16_t* p, float x) { *p = f32_to_bf16(x); }

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
