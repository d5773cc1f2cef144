use super::Graph;
use super::builder::Value;
use tamborim_model::mixers::SwiGlu;

impl Graph<'_> {
    /// SwiGLU: `down(silu(gate x) * (up x))`. `prefix` of its tensors: `ffn`, or `mix` in a mixer's place.
    pub fn swiglu(&mut self, s: &SwiGlu, prefix: &str, x: &Value, r: &Value) -> Value {
        let up = self.linear(&format!("{prefix}_up"), x);
        let [gate, up] = match s.fused {
            true => {
                let halves = self.builder.split(&up, &[("gate", s.width), ("up", s.width)]);
                halves.try_into().unwrap_or_else(|_| unreachable!("two parts give two values"))
            }
            false => [self.linear(&format!("{prefix}_gate"), x), up],
        };
        let gate = self.builder.silu(&gate);
        let hidden = self.builder.binary("Mul", &gate, &up);
        let down = self.linear(&format!("{prefix}_down"), &hidden);
        self.add(r, &down)
    }
}
