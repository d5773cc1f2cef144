// y = W x for 1 ... M tokens, W of plain numbers (f32, f16, bf16); gemv_quantized.cu has the quantized formats. Products and sums in
// float32 in a fixed order, so these serve exact and fast mode.
//
//   gemv_{f32,f16,bf16}_M(g), M = 1, 4, 8: up to M tokens
//
// Argument, one struct by value (`Gemv` in gemv.cuh, C layout):
//   w            weights, n rows, 16-byte aligned. Plain numbers: rows of k, `stride` elements apart, a multiple of 16 bytes; quantized:
//                the repacked matrix (repack.cu)
//   x            (tokens, k), rows `x_stride` elements apart, of any alignment (16-byte aligned rows are faster); x_kind:
//                0 float32   1 bf16   2 float32 under an RMS norm   3 float32 under a LayerNorm
//   norm_weight, norm_bias, eps    float32 (k), 16-byte aligned; the bias of a LayerNorm may be null
//   bias         float32, one for each row of W in W's order, or null
//   y            (tokens, outputs), rows `y_stride` elements apart; y_kind:
//                0 float32   1 bf16   2 float32, added to what is there   3 silu(gate) * up as float32   4 the same as bf16
//                With 3 and 4 there are n / 2 outputs: output i is rows i and n / 2 + i of plain numbers, rows 2 i and 2 i + 1 of a
//                quantized W (interleave them when repacking). y must not overlap x.
//   conv_taps, conv_bias, conv_past, conv_channels, conv_width
//                the causal convolution of conv1d.cu that the first conv_channels outputs (0: none) go through, for one
//                token and y_kind 0 or 1: float32 (conv_width, conv_channels), (conv_channels) or null,
//                (conv_width - 1, conv_channels), of which the last is replaced
//   n, k, stride, x_kind, x_stride, tokens, y_kind, y_stride
//   each, more, inverse_tiles      what the launch decides:
//
// Launch: `blocks` blocks of 512 threads (any power of two from 32 to 512 works), best as many as there are multiprocessors. With
//   tiles = ceil(k / L)        L: f32 128, f16 and bf16 256, quantized 256
//   units = ceil(n / ROWS)     ROWS: quantized 4, plain numbers 2
//   each = units / blocks, more = units % blocks, inverse_tiles = 1.0f / tiles
// Dynamic shared bytes, at least, with warps = threads / 32 and a ring of S stages of TILES tiles of TILE bytes (f32, f16, bf16:
// S 8, TILES 1, TILE 1024; quantized: S 2, TILE as in formats.cuh, TILES 2 where that is more than 800, else 4):
//   X      bytes of x for a tile: plain numbers 4 L, exact 1024, fast 384
//   capacity = (each + 1) ROWS
//   warps S (TILES TILE + 16) + M tiles X
//     + 4 (warps M + warps M ROWS + (2 M + 1) capacity + 2 conv_width capacity)
// and best more than half of a multiprocessor's: then blocks are spread evenly even where the kernel before has not ended.
// Where that passes what a block may have (k very long, M = 8) take fewer threads or fewer tokens a launch.
//
// Limits: units per block times tiles < 2^20. The order of sums depends on blocks, threads, n and k alone.
// Launched with programmatic stream serialization the kernel asks for its first weights before its predecessor has ended; every kernel of
// such a chain calls previous_kernel_wait. Nothing here changes from token to token but what is in device memory.
#include "gemv.cuh"

#define GEMV(name, W, M, BLOCKS) \
    extern "C" __global__ void __launch_bounds__(512, BLOCKS) gemv_##name##_##M(const Gemv g) { gemv<FloatProduct<W>, M>(g); }
// 64 registers, so that a block of the next kernel fits beside.
#define ALL(name, W) GEMV(name, W, 1, 2) GEMV(name, W, 4, 1) GEMV(name, W, 8, 1)
ALL(f32, F32)
ALL(f16, F16)
ALL(bf16, Bf16)
