// LEAD (03:37 UTC): a final, tested version of gemv*, dequantize, repack must be in place by 03:52 UTC; the session ends soon after. The layout of RESULT-1 met the bars.
#include "gemv.cuh"
#ifndef STAGES
#define STAGES 5
#endif
#ifndef TILES
#define TILES 2
#endif
#ifndef THREADS
#define THREADS 512
#endif
#ifndef BLOCKS
#define BLOCKS 2
#endif
#define FLOAT(name, W, M) \
    extern "C" __global__ void __launch_bounds__(THREADS, M == 1 ? BLOCKS : 1) gemv_##name##_##M(const Gemv g) { gemv<FloatProduct<W>, M, TILES, STAGES>(g); }
FLOAT(bf16, Bf16, 1)
#ifndef TUNE
FLOAT(f16, F16, 1)
FLOAT(f32, F32, 1)
#define MANY(M) FLOAT(bf16, Bf16, M) FLOAT(f16, F16, M) FLOAT(f32, F32, M)
MANY(4)
MANY(8)
#endif
