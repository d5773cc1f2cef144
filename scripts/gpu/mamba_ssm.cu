// mamba-ssm's selective scan, forward, as a C function: its own kernel and its own launch code, without its Python
// binding. Only the instance that is measured is compiled, in seconds: bfloat16, lengths that are multiples of 2048, B
// and C that depend on the input, gated by z.
//
// Layouts (mamba-ssm's): u, delta, z, out, out_z (D, L); A (D, 16) float; B, C (16, L); skip, bias (D) float;
// ends (D, L / 2048, 16) pairs of float.
#include <stdint.h>

#include "static_switch.h"
#undef BOOL_SWITCH
#define BOOL_SWITCH(CONDITION, NAME, ...)                                                                              \
    [&] {                                                                                                              \
        constexpr bool NAME = true;                                                                                    \
        return __VA_ARGS__();                                                                                          \
    }()
#include "selective_scan_fwd_kernel.cuh"

extern "C" void mamba_ssm_scan(int channels, int length, int states, void *u, void *delta, void *a, void *b, void *c,
                               void *skip, void *z, void *bias, void *out, void *out_z, void *ends, void *stream) {
    SSMParamsBase p = {};
    p.batch = 1, p.dim = channels, p.seqlen = length, p.dstate = states;
    p.n_groups = 1, p.dim_ngroups_ratio = channels, p.n_chunks = length / 2048;
    p.is_variable_B = p.is_variable_C = p.delta_softplus = true;
    p.A_d_stride = states, p.A_dstate_stride = 1;
    p.B_dstate_stride = p.C_dstate_stride = length;
    p.u_d_stride = p.delta_d_stride = p.z_d_stride = p.out_d_stride = p.out_z_d_stride = length;
    p.u_ptr = u, p.delta_ptr = delta, p.A_ptr = a, p.B_ptr = b, p.C_ptr = c, p.D_ptr = skip, p.z_ptr = z;
    p.delta_bias_ptr = bias, p.out_ptr = out, p.out_z_ptr = out_z, p.x_ptr = ends;
    selective_scan_fwd_launch<128, 16, at::BFloat16, float>(p, static_cast<cudaStream_t>(stream));
}
