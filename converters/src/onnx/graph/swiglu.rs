use super::Graph;
use super::builder::Value;

impl Graph<'_> {
    /// SwiGLU: `down(silu(gate x) * (up x))`. `prefix` of its tensors: `ffn`, or `mix` in a mixer's place.
    pub fn swiglu(&mut self, prefix: &str, x: &Value, r: &Value) -> Value {
        let gate = self.linear(&format!("{prefix}_gate"), x);
        let up = self.linear(&format!("{prefix}_up"), x);
        let gate = self.builder.silu(&gate);
        let hidden = self.builder.binary("Mul", &gate, &up);
        let down = self.linear(&format!("{prefix}_down"), &hidden);
        self.builder.binary("Add", r, &down)
    }
}
