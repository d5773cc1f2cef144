"""Schemas of the operators of ai.samba, for onnx.checker.check_model(.., check_custom_domain=True).

usage: import ai_samba; ai_samba.register()
Generated from converters/src/onnx/operators: cargo run -p tamborim-converters --example onnx_schema
"""

import onnx.defs
from onnx.defs import OpSchema

OPTIONAL = OpSchema.FormalParameterOption.Optional


def schemas():
    return [
        OpSchema(
            "SelectiveScan",
            "ai.samba",
            1,
            doc="""The selective scan of Mamba (S6, arXiv 2312.00752, algorithm 2): a linear recurrence with a state of d_state numbers for each channel, whose decay and input depend on the token.

dt[b,t,d]    = softplus(delta[b,t,d] + delta_bias[d])
h[b,t,d,n]   = exp(dt[b,t,d] * A[d,n]) * h[b,t-1,d,n] + dt[b,t,d] * B[b,t,n] * u[b,t,d]
s[b,t,d]     = sum over n of C[b,t,n] * h[b,t,d,n]
y[b,t,d]     = (s[b,t,d] + D[d] * u[b,t,d]) * silu(z[b,t,d])
h[b,-1,:,:]  = past_state[b]
present_state[b] = h[b,length-1,:,:]

Inputs, float32:
  u (batch, length, d_inner): the sequence
  delta (batch, length, d_inner): step sizes, before bias and softplus
  A (d_inner, d_state): decay rates, negative (-exp of a checkpoint's A_log)
  B (batch, length, d_state): how the input enters the state
  C (batch, length, d_state): how the state is read
  D (d_inner), optional: weight of the skip connection, 0 if absent
  z (batch, length, d_inner), optional: gate; y is not gated if absent
  delta_bias (d_inner), optional: added to delta, 0 if absent
  past_state (batch, d_inner, d_state), optional: state after the tokens before, 0 if absent

Outputs, float32:
  y (batch, length, d_inner): the result
  present_state (batch, d_inner, d_state), optional: state after the last token
""",
            inputs=[
                OpSchema.FormalParameter("u", "T", "(batch, length, d_inner): the sequence"),
                OpSchema.FormalParameter("delta", "T", "(batch, length, d_inner): step sizes, before bias and softplus"),
                OpSchema.FormalParameter("A", "T", "(d_inner, d_state): decay rates, negative (-exp of a checkpoint's A_log)"),
                OpSchema.FormalParameter("B", "T", "(batch, length, d_state): how the input enters the state"),
                OpSchema.FormalParameter("C", "T", "(batch, length, d_state): how the state is read"),
                OpSchema.FormalParameter("D", "T", "(d_inner): weight of the skip connection, 0 if absent", param_option=OPTIONAL),
                OpSchema.FormalParameter("z", "T", "(batch, length, d_inner): gate; y is not gated if absent", param_option=OPTIONAL),
                OpSchema.FormalParameter("delta_bias", "T", "(d_inner): added to delta, 0 if absent", param_option=OPTIONAL),
                OpSchema.FormalParameter("past_state", "T", "(batch, d_inner, d_state): state after the tokens before, 0 if absent", param_option=OPTIONAL),
            ],
            outputs=[
                OpSchema.FormalParameter("y", "T", "(batch, length, d_inner): the result"),
                OpSchema.FormalParameter("present_state", "T", "(batch, d_inner, d_state): state after the last token", param_option=OPTIONAL),
            ],
            type_constraints=[("T", ["tensor(float)"], "float32")],
        ),
        OpSchema(
            "GatedLinearAttention",
            "ai.samba",
            1,
            doc="""Gated linear attention (arXiv 2312.06635): a matrix-valued recurrence for each head, which forgets by a factor for each token and key channel.

S[b,t,h,k,v] = exp(log_decay[b,t,h,k]) * S[b,t-1,h,k,v] + key[b,t,h,k] * value[b,t,h,v]
y[b,t,h,v]   = sum over k of query[b,t,h,k] * S[b,t,h,k,v] / sqrt(key_dim)
S[b,-1]      = past_state[b]
present_state[b] = S[b,length-1]

Inputs, float32:
  query (batch, length, heads, key_dim): queries
  key (batch, length, heads, key_dim): keys
  value (batch, length, heads, value_dim): values
  log_decay (batch, length, heads, key_dim): natural logarithm of the decay, at most 0
  past_state (batch, heads, key_dim, value_dim), optional: state after the tokens before, 0 if absent

Outputs, float32:
  y (batch, length, heads, value_dim): the result
  present_state (batch, heads, key_dim, value_dim), optional: state after the last token
""",
            inputs=[
                OpSchema.FormalParameter("query", "T", "(batch, length, heads, key_dim): queries"),
                OpSchema.FormalParameter("key", "T", "(batch, length, heads, key_dim): keys"),
                OpSchema.FormalParameter("value", "T", "(batch, length, heads, value_dim): values"),
                OpSchema.FormalParameter("log_decay", "T", "(batch, length, heads, key_dim): natural logarithm of the decay, at most 0"),
                OpSchema.FormalParameter("past_state", "T", "(batch, heads, key_dim, value_dim): state after the tokens before, 0 if absent", param_option=OPTIONAL),
            ],
            outputs=[
                OpSchema.FormalParameter("y", "T", "(batch, length, heads, value_dim): the result"),
                OpSchema.FormalParameter("present_state", "T", "(batch, heads, key_dim, value_dim): state after the last token", param_option=OPTIONAL),
            ],
            type_constraints=[("T", ["tensor(float)"], "float32")],
        ),
        OpSchema(
            "Retention",
            "ai.samba",
            1,
            doc="""Multi-scale retention (arXiv 2307.08621) in its recurrent form: a matrix-valued recurrence for each head, which forgets by a constant factor. Queries and keys come with their position embedding applied.

S[b,t,h,k,v] = decay[h] * S[b,t-1,h,k,v] + key[b,t,h,k] * value[b,t,h,v]
y[b,t,h,v]   = sum over k of query[b,t,h,k] * S[b,t,h,k,v] / sqrt(key_dim)
S[b,-1]      = past_state[b]
present_state[b] = S[b,length-1]

Inputs, float32:
  query (batch, length, heads, key_dim): queries
  key (batch, length, heads, key_dim): keys
  value (batch, length, heads, value_dim): values
  decay (heads): decay of each head, 0 to 1
  past_state (batch, heads, key_dim, value_dim), optional: state after the tokens before, 0 if absent

Outputs, float32:
  y (batch, length, heads, value_dim): the result
  present_state (batch, heads, key_dim, value_dim), optional: state after the last token
""",
            inputs=[
                OpSchema.FormalParameter("query", "T", "(batch, length, heads, key_dim): queries"),
                OpSchema.FormalParameter("key", "T", "(batch, length, heads, key_dim): keys"),
                OpSchema.FormalParameter("value", "T", "(batch, length, heads, value_dim): values"),
                OpSchema.FormalParameter("decay", "T", "(heads): decay of each head, 0 to 1"),
                OpSchema.FormalParameter("past_state", "T", "(batch, heads, key_dim, value_dim): state after the tokens before, 0 if absent", param_option=OPTIONAL),
            ],
            outputs=[
                OpSchema.FormalParameter("y", "T", "(batch, length, heads, value_dim): the result"),
                OpSchema.FormalParameter("present_state", "T", "(batch, heads, key_dim, value_dim): state after the last token", param_option=OPTIONAL),
            ],
            type_constraints=[("T", ["tensor(float)"], "float32")],
        ),
    ]


def register():
    for schema in schemas():
        if not onnx.defs.has(schema.name, schema.since_version, schema.domain):
            onnx.defs.register_schema(schema)
