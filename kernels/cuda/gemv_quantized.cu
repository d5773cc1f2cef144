// placeholder
#include "gemv.cuh"
#ifndef STAGES
#define STAGES 5
#endif
#ifndef TILES
#define TILES 2
#endif
#ifndef WIDE_X
#define WIDE_X 1
#endif
#ifndef THREADS
#define THREADS 512
#endif
#ifndef BLOCKS
#define BLOCKS 2
#endif
#define FAST(name, F, M) \
    extern "C" __global__ void __launch_bounds__(THREADS, M == 1 ? BLOCKS : 1) gemv_##name##_fast_##M(const Gemv g) { \
        gemv<IntProduct<F, WIDE_X>, M, TILES, STAGES>(g); \
    }
#define EXACT(name, F, M) \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) gemv_##name##_exact_##M(const Gemv g) { gemv<ExactProduct<F>, M, TILES, STAGES>(g); }
#ifdef TUNE
#define ONE(name, F) FAST(name, F, 1)
ONE(q4_0, Q4_0) ONE(q4_k, Q4_K) ONE(q8_0, Q8_0) ONE(q6_k, Q6_K)
#else
#define ONE(name, F) FAST(name, F, 1) EXACT(name, F, 1) FAST(name, F, 4) FAST(name, F, 8) EXACT(name, F, 4)
FOR_QUANTIZED(ONE)
#endif
