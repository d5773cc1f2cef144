use super::Graph;
use super::builder::Value;

impl Graph<'_> {
    /// Gated memory unit: `out(silu(in x) * memory)`.
    pub fn gated_memory(&mut self, x: &Value, r: &Value) -> Value {
        let gate = self.linear("gmu_in", x);
        let gate = self.builder.silu(&gate);
        let memory = self.memory.clone().unwrap_or_else(|| unreachable!("a plan has a memory below a gate on it"));
        let gated = self.builder.binary("Mul", &gate, &memory);
        let y = self.linear("gmu_out", &gated);
        self.add(r, &y)
    }
}
