//! One token's way through a model as a graph: hundreds of launches become one.

use super::device::{Device, check};
use super::memory::Pool;
use super::{DeviceError, Rows};
use crate::Result;
use cudarc::driver::{result, sys};
use std::rc::Rc;

/// A decode step. The first time it just runs, in memory of its own, so that the second time, when it is recorded, nothing
/// is allocated or loaded any more; from then on it is replayed.
#[derive(Default)]
pub enum Recording {
    /// Nothing yet.
    #[default]
    Empty,
    /// It has run once in this memory.
    Warm(Pool),
    /// It can be replayed.
    Ready {
        /// The launches.
        graph: Graph,
        /// What they leave behind.
        output: Rows,
        /// What they work in: nobody else may use it.
        memory: Pool,
    },
}

impl Recording {
    /// Runs, records or replays `walk`.
    pub fn repeat(&mut self, device: &Rc<Device>, walk: impl FnOnce() -> Result<Rows>) -> Result<Rows> {
        match std::mem::take(self) {
            Recording::Empty => {
                let memory = Pool::default();
                let before = device.swap_pool(memory.clone());
                let output = walk();
                device.swap_pool(before);
                *self = Recording::Warm(memory);
                output
            }
            Recording::Warm(memory) => {
                let before = device.swap_pool(memory.clone());
                let recorded = Graph::record(device, walk);
                device.swap_pool(before);
                let (graph, output) = recorded?;
                graph.launch()?;
                *self = Recording::Ready { graph, output: output.clone(), memory };
                Ok(output)
            }
            Recording::Ready { graph, output, memory } => {
                graph.launch()?;
                *self = Recording::Ready { graph, output: output.clone(), memory };
                Ok(output)
            }
        }
    }
}

/// Launches that can be repeated with one call.
pub struct Graph {
    device: Rc<Device>,
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
}

impl Graph {
    /// Records what `walk` queues.
    pub fn record<T>(device: &Rc<Device>, walk: impl FnOnce() -> Result<T>) -> Result<(Graph, T)> {
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives as long as the device.
        check("recording", unsafe { result::stream::begin_capture(device.stream, mode) })?;
        let output = walk();
        // Whatever the walk says, the stream must leave this mode.
        // SAFETY: capturing began on this stream.
        let graph = check("recording", unsafe { result::stream::end_capture(device.stream) });
        let (output, graph) = (output?, graph?);
        // SAFETY: a graph that was just recorded.
        let executable = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags_enum(0)) };
        let executable = check("recording", executable).inspect_err(|_| {
            // SAFETY: not used again.
            let _ = unsafe { result::graph::destroy(graph) };
        })?;
        Ok((Graph { device: device.clone(), graph, executable }, output))
    }

    /// Queues all of it.
    pub fn launch(&self) -> std::result::Result<(), DeviceError> {
        // SAFETY: the graph's memory is held by its recording, its stream by the device.
        check("replaying", unsafe { result::graph::launch(self.executable, self.device.stream) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: both were made by `record` and are destroyed once; a launch under way finishes first.
        unsafe {
            let _ = result::stream::synchronize(self.device.stream);
            let _ = result::graph::exec_destroy(self.executable);
            let _ = result::graph::destroy(self.graph);
        }
    }
}
