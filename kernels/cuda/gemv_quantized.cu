// y = W x for 1 ... M tokens, W quantized. Arguments, launch and shared memory are those of gemv.cu.
//
//   gemv_FORMAT_exact_M(g), M = 1, 4      weights decoded exactly, products and sums in float32
//   gemv_FORMAT_fast_M(g), M = 1, 4, 8    x rounded to 8 bits under a scale for each 32, integer products: within 1e-2 of exact
#include "gemv.cuh"

#define GEMV(name, kind, Product, M, BLOCKS) \
    extern "C" __global__ void __launch_bounds__(512, BLOCKS) gemv_##name##_##kind##_##M(const Gemv g) { gemv<Product, M>(g); }
// 64 registers, so that a block of the next kernel fits beside.
#define FORMAT(name, F) \
    GEMV(name, exact, ExactProduct<F>, 1, 1) GEMV(name, exact, ExactProduct<F>, 4, 1) \
    GEMV(name, fast, IntProduct<F>, 1, 2) GEMV(name, fast, IntProduct<F>, 4, 1) GEMV(name, fast, IntProduct<F>, 8, 1)
FOR_QUANTIZED(FORMAT)
