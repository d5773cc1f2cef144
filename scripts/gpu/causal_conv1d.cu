// causal-conv1d's forward, width 4 with bias and SiLU, as C functions: its own kernels and launch code, bfloat16 only.
// CAUSAL_CONV1D_FWD names its causal_conv1d_fwd.cu, less the explicit instances at the end.
//
// x, out: (channels, length), or (length, channels) for `_rows`; weight (channels, 4), bias (channels), bfloat16 too.
#include <stdint.h>

#include CAUSAL_CONV1D_FWD

static ConvParamsBase parameters(int channels, int length, void *x, void *weight, void *bias, void *out) {
    ConvParamsBase p = {};
    p.batch = 1, p.dim = channels, p.seqlen = length, p.width = 4, p.silu_activation = true;
    p.weight_c_stride = 4, p.weight_width_stride = 1;
    p.x_ptr = x, p.weight_ptr = weight, p.bias_ptr = bias, p.out_ptr = out;
    return p;
}

extern "C" void causal_conv1d(int channels, int length, void *x, void *weight, void *bias, void *out, void *stream) {
    ConvParamsBase p = parameters(channels, length, x, weight, bias, out);
    p.x_c_stride = p.out_c_stride = length, p.x_l_stride = p.out_l_stride = 1;
    causal_conv1d_fwd_launch<128, 4, at::BFloat16, at::BFloat16>(p, static_cast<cudaStream_t>(stream));
}

extern "C" void causal_conv1d_rows(int channels, int length, void *x, void *weight, void *bias, void *out,
                                   void *stream) {
    ConvParamsBase p = parameters(channels, length, x, weight, bias, out);
    p.x_c_stride = p.out_c_stride = 1, p.x_l_stride = p.out_l_stride = channels;
    causal_conv1d_channellast_fwd_launch<128, 4, at::BFloat16, at::BFloat16>(p, static_cast<cudaStream_t>(stream));
}
