// Kernels for self_test.py alone: what a GPU must do, and mistakes the shim must show. `wrong` selects a mistake.
#include "common.cuh"

// y[block] = sum of n numbers. 256 threads. wrong = 1: no barrier before partial sums are read.
extern "C" __global__ void __launch_bounds__(256) test_sum(const float* x, float* y, int n, int wrong) {
    __shared__ float part[8];
    float v = 0.0f;
    for (int i = threadIdx.x; i < n; i += 256) v += x[blockIdx.x * n + i];
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    if (wrong != 1) __syncthreads();
    if (threadIdx.x == 0) {
        v = 0.0f;
        for (int w = 0; w < 8; w++) v += part[w];
        y[blockIdx.x] = v;
    }
}

// Moves n tiles of 256 numbers through two buffers, each thread reading what the thread opposite copied. 64 threads, 2
// KB. wrong = 1: no wait; 2: no barrier after the wait; 3: no barrier before a buffer is filled again; 4: waits for one
// copy too few.
extern "C" __global__ void test_pipeline(const float* x, float* y, int n, int wrong) {
    DYNAMIC_SHARED(shared);
    float* buffer = (float*)shared;
    int t = threadIdx.x, opposite = 63 - t;
    copy_async16(buffer + 4 * t, x + 4 * t);
    copy_async_commit();
    for (int i = 0; i < n; i++) {
        copy_async16(buffer + (i + 1) % 2 * 256 + 4 * t, x + (i + 1) * 256 + 4 * t, i + 1 < n);
        copy_async_commit();
        if (wrong == 4) copy_async_wait<2>();
        else if (wrong != 1) copy_async_wait<1>();
        if (wrong != 2) __syncthreads();
        for (int j = 0; j < 4; j++) y[i * 256 + 4 * opposite + j] = buffer[i % 2 * 256 + 4 * opposite + j];
        if (wrong != 3) __syncthreads();
    }
}

// Rotates numbers among the lanes of a warp through shared memory. wrong = 1: no __syncwarp.
extern "C" __global__ void test_rotate(float* x, int wrong) {
    __shared__ float lanes[32];
    lanes[threadIdx.x] = x[threadIdx.x];
    if (wrong != 1) __syncwarp();
    x[threadIdx.x] = lanes[(threadIdx.x + 1) % 32];
}

// d (16x8) = a (16x16) b (16x8), one warp, 768 bytes.
extern "C" __global__ void test_mma(const bf16_t* a, const bf16_t* b, float* d) {
    DYNAMIC_SHARED(shared);
    bf16_t *sa = (bf16_t*)shared, *sb = sa + 256;
    int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) sa[i] = a[i];
    for (int i = lane; i < 128; i += 32) sb[i] = b[i];
    __syncwarp();
    uint32_t fa[4], fb[4];
    load_matrix_x4(fa, sa + lane % 16 * 16 + lane / 16 * 8);
    load_matrix_x4_transposed(fb, sb + lane % 16 * 8);
    float sum[4] = {};
    mma_bf16(sum, fa, fb[0], fb[1]);
    for (int i = 0; i < 4; i++) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

// Warp operations by diverged lanes and with parts of the mask; lane 31 returns first. y: 8 x 32 (rows of lane 31 stay
// as they are).
extern "C" __global__ void test_warp(int* y) {
    int lane = threadIdx.x;
    if (lane == 31) return;
    int v = lane < 16 ? __shfl_sync(FULL_WARP, lane, 30) : __shfl_sync(FULL_WARP, lane, 0);
    y[lane] = v;
    if (lane < 8) y[32 + lane] = __shfl_xor_sync(0xff, lane, 1);
    else y[32 + lane] = __popc(__ballot_sync(0xffffff00, lane % 2));
    y[64 + lane] = __shfl_up_sync(FULL_WARP, lane, 3, 8);
    y[96 + lane] = __shfl_down_sync(FULL_WARP, lane, 2, 16);
    y[128 + lane] = __all_sync(FULL_WARP, lane < 31) * 2 + __any_sync(FULL_WARP, lane == 30);
    y[160 + lane] = __reduce_add_sync(FULL_WARP, lane);
    y[192 + lane] = (int)__match_any_sync(FULL_WARP, lane % 4);
    y[224 + lane] = __dp4a(0x7f80ff01, 0x01020304, 10) + (int)__byte_perm(0x33221100, 0x77665544, 0x5140);
}

// y[i] = 1 + y[i - 1] of the block before, by spinning on its flag.
extern "C" __global__ void test_chain(int* y) {
    if (threadIdx.x == 0) {
        int before = 0;
        if (blockIdx.x > 0)
            while ((before = atomicAdd(&y[blockIdx.x - 1], 0)) == 0) {}
        __threadfence();
        atomicExch(&y[blockIdx.x], before + 1);
    }
}

// x[i] becomes x[i] + x[i + 1 of 64] of before; two of them in turn, overlapping. wrong = 1: reads, 2: writes before it may.
extern "C" __global__ void test_overlap(const float* x, float* y, int wrong) {
    int i = threadIdx.x;
    float early = x[i];
    if (wrong == 2) y[i] = early;
    next_kernel_start();
    previous_kernel_wait();
    y[i] = (wrong == 1 ? early : x[i]) + x[(i + 1) % 64];
}

// f16 -> float32 -> f16, and float32 -> bf16 -> float32.
extern "C" __global__ void test_formats(const f16_t* x, f16_t* y, float* wide, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    wide[i] = f16_to_f32(x[i]);
    y[i] = f32_to_f16(wide[i]);
}

// wrong = 1: a deadlock; 2: writes past x; 3: past dynamic shared memory; 4: through a null pointer; 5: a copy that is
// not aligned; 6: different warp operations meet.
extern "C" __global__ void test_abort(float* x, int n, int wrong) {
    DYNAMIC_SHARED(shared);
    if (wrong == 1 && threadIdx.x % 2) __syncthreads();
    if (wrong == 1 && threadIdx.x % 2 == 0) __syncwarp();
    if (wrong == 2) x[n + threadIdx.x] = 1.0f;
    if (wrong == 3) shared[128 + threadIdx.x] = 1;
    if (wrong == 4) ((float*)nullptr)[threadIdx.x] = 1.0f;
    if (wrong == 5) copy_async16(shared, x + 1);
    if (wrong == 6) x[0] = threadIdx.x % 2 ? __shfl_sync(FULL_WARP, 1.0f, 0) : (float)__ballot_sync(FULL_WARP, 1);
}
