//! The operators inside ONNX Runtime.

use crate::operator::{Inputs, Operator};
use crate::operators::OPERATORS;
use crate::pool::Pool;
use ort::operator::{ComputeContext, Kernel, KernelContext, OperatorDomain, OperatorInput, OperatorOutput};
use ort::value::{TensorElementType, ValueRef, ValueRefMut};
use ort::{AsPointer, sys};
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::OnceLock;

/// The domain of the operators.
const DOMAIN: &str = "ai.samba";

/// Has this copy of the crate use the ONNX Runtime behind `base`, which must be called before anything else.
///
/// # Errors
/// Which version of ONNX Runtime was expected and found; that this copy serves another one, of the same process, already.
///
/// # Safety
/// `base` is what `OrtGetApiBase` of a libonnxruntime returned, which stays loaded.
pub unsafe fn use_runtime(base: *const sys::OrtApiBase) -> Result<(), String> {
    // SAFETY: a valid base, by contract.
    let api = unsafe { ((*base).GetApi)(sys::ORT_API_VERSION) };
    if api.is_null() {
        // SAFETY: as above; the version is a C string that lives as long as the library.
        let version = unsafe { std::ffi::CStr::from_ptr(((*base).GetVersionString)()) };
        let found = version.to_string_lossy();
        return Err(format!("expected ONNX Runtime 1.{} or newer, found {found}", sys::ORT_API_VERSION));
    }
    static SERVED: OnceLock<usize> = OnceLock::new();
    if *SERVED.get_or_init(|| api as usize) != api as usize {
        return Err("expected the ONNX Runtime that has loaded this library first, found a second one".to_owned());
    }
    // SAFETY: a table of at least this version's functions, never freed. A second call sets nothing.
    ort::set_api(unsafe { ptr::read(api) });
    Ok(())
}

/// The operators, to be registered with a session.
///
/// # Errors
/// What ONNX Runtime objects to.
pub fn domain() -> ort::Result<OperatorDomain> {
    OPERATORS.into_iter().try_fold(OperatorDomain::new(DOMAIN)?, |domain, operator| domain.add(Registered(operator)))
}

/// The entry point of a library of custom operators: adds them to session options.
///
/// # Safety
/// Both pointers are ONNX Runtime's, which is the only one to call this.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn RegisterCustomOps(
    options: *mut sys::OrtSessionOptions,
    base: *const sys::OrtApiBase,
) -> sys::OrtStatusPtr {
    /// Lives as long as the process: sessions refer to it and do not own it.
    struct Shared(OperatorDomain);
    // SAFETY: nothing changes after its construction; ONNX Runtime reads it under its own locks.
    unsafe impl Send for Shared {}
    // SAFETY: as above.
    unsafe impl Sync for Shared {}
    static SHARED: OnceLock<Result<Shared, String>> = OnceLock::new();

    let register = AssertUnwindSafe(|| {
        // SAFETY: ONNX Runtime's own pointer.
        unsafe { use_runtime(base) }?;
        let shared = SHARED.get_or_init(|| domain().map(Shared).map_err(|e| e.to_string()));
        let domain = shared.as_ref().map_err(Clone::clone)?.0.ptr().cast_mut();
        // SAFETY: both are valid, and the domain outlives every session.
        Ok(unsafe { (ort::api().AddCustomOpDomain)(options, domain) })
    });
    let outcome: Result<_, String> = catch_unwind(register).unwrap_or_else(|_| Err("internal error".to_owned()));
    outcome.unwrap_or_else(|message| {
        let message = CString::new(format!("tamborim: {message}")).unwrap_or_default();
        // SAFETY: every version of ONNX Runtime has version 1 of its table, and CreateStatus is in it.
        unsafe {
            let api = ((*base).GetApi)(1);
            ((*api).CreateStatus)(sys::OrtErrorCode::ORT_FAIL, message.as_ptr())
        }
    })
}

/// An operator as ONNX Runtime knows it. Shapes are not inferred: the function that models carry, or their `value_info`, has
/// them.
struct Registered(&'static Operator);

impl ort::operator::Operator for Registered {
    type Kernel<'attr> = Running;

    fn name(&self) -> &str {
        self.0.name
    }

    fn versions(&self) -> std::ops::RangeInclusive<u32> {
        // Unbounded: a model may import the domain at another version's number than the operators' first.
        1..=i32::MAX as u32
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        self.0.inputs.iter().map(|port| match port.optional {
            true => OperatorInput::optional(TensorElementType::Float32),
            false => OperatorInput::required(TensorElementType::Float32),
        })
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        self.0.outputs.iter().map(|port| match port.optional {
            true => OperatorOutput::optional(TensorElementType::Float32),
            false => OperatorOutput::required(TensorElementType::Float32),
        })
    }

    fn create_kernel<'attr>(&self, _: &KernelContext<'attr>) -> ort::Result<Running> {
        Ok(Running(self.0))
    }
}

struct Running(&'static Operator);

impl Kernel for Running {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        // A panic must not reach C++.
        catch_unwind(AssertUnwindSafe(|| compute(self.0, context)))
            .unwrap_or_else(|_| Err(ort::Error::new(format!("{}: internal error", self.0.name))))
    }
}

fn compute(operator: &'static Operator, context: &ComputeContext) -> ort::Result<()> {
    let values = (0..operator.inputs.len().min(context.num_inputs()?))
        .map(|i| context.input(i))
        .collect::<ort::Result<Vec<Option<ValueRef<'_>>>>>()?;
    let tensors = values
        .iter()
        .map(|value| value.as_ref().map(|v| v.try_extract_tensor::<f32>()).transpose())
        .collect::<ort::Result<Vec<_>>>()?;
    let given: Vec<_> = tensors.iter().map(|t| t.map(|(shape, data)| (&**shape, data))).collect();
    let inputs = Inputs::new(operator, &given).map_err(ort::Error::new)?;
    let mut values = (0..operator.outputs.len().min(context.num_outputs()?))
        .map(|i| context.output(i, inputs.output_shape(i)))
        .collect::<ort::Result<Vec<Option<ValueRefMut<'_>>>>>()?;
    let mut outputs = Vec::with_capacity(operator.outputs.len());
    for value in &mut values {
        outputs.push(value.as_mut().map(|v| v.try_extract_tensor_mut::<f32>()).transpose()?.map(|(_, data)| data));
    }
    outputs.resize_with(operator.outputs.len(), || None);
    inputs.compute(&mut outputs, &SessionThreads(context)).map_err(ort::Error::new)
}

/// The threads of the session that runs an operator.
struct SessionThreads<'c>(&'c ComputeContext);

impl Pool for SessionThreads<'_> {
    fn run(&self, times: usize, work: &(dyn Fn() + Sync)) -> Result<(), String> {
        self.0.par_for(times, 0, |_| work()).map_err(|e| e.to_string())
    }
}
