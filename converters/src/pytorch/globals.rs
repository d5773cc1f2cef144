//! The classes and functions a pickle may name. Naming one never runs anything; the list says what a name *means*.

use crate::checkpoint::Scalar;
use Meaning::*;

/// An element type that torch can store.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dtype {
    /// As torch prints it, without `torch.`.
    pub name: &'static str,
    /// Bytes of one element.
    pub size: usize,
    /// The same type where weights may have it.
    pub scalar: Option<Scalar>,
}

const fn dtype(name: &'static str, size: usize, scalar: Option<Scalar>) -> Dtype {
    Dtype { name, size, scalar }
}

static FLOAT64: Dtype = dtype("float64", 8, Some(Scalar::F64));
static FLOAT32: Dtype = dtype("float32", 4, Some(Scalar::F32));
static FLOAT16: Dtype = dtype("float16", 2, Some(Scalar::F16));
static BFLOAT16: Dtype = dtype("bfloat16", 2, Some(Scalar::Bf16));
static INT64: Dtype = dtype("int64", 8, None);
static INT32: Dtype = dtype("int32", 4, None);
static INT16: Dtype = dtype("int16", 2, None);
static INT8: Dtype = dtype("int8", 1, None);
static UINT8: Dtype = dtype("uint8", 1, None);
static UINT16: Dtype = dtype("uint16", 2, None);
static UINT32: Dtype = dtype("uint32", 4, None);
static UINT64: Dtype = dtype("uint64", 8, None);
static BOOL: Dtype = dtype("bool", 1, None);
static COMPLEX32: Dtype = dtype("complex32", 4, None);
static COMPLEX64: Dtype = dtype("complex64", 8, None);
static COMPLEX128: Dtype = dtype("complex128", 16, None);
static QINT8: Dtype = dtype("qint8", 1, None);
static QUINT8: Dtype = dtype("quint8", 1, None);
static QINT32: Dtype = dtype("qint32", 4, None);
static FLOAT8_E4M3FN: Dtype = dtype("float8_e4m3fn", 1, None);
static FLOAT8_E5M2: Dtype = dtype("float8_e5m2", 1, None);
/// Bytes whose element type the tensor names.
pub(super) static UNTYPED: Dtype = dtype("untyped bytes", 1, None);

/// What a known global stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meaning {
    /// `OrderedDict()` and the like: an empty mapping that SETITEMS fills.
    Mapping,
    /// `_rebuild_tensor(storage, offset, size, stride)`; v2 appends `requires_grad, hooks[, metadata]`.
    Tensor,
    /// `_rebuild_tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])`.
    TensorOfDtype,
    /// `_rebuild_parameter(tensor, requires_grad, hooks[, state])`.
    Parameter,
    /// `_rebuild_from_type_v2(function, class, arguments, state)`: a tensor with Python attributes.
    TensorFromType,
    /// A tensor without plain data, in words.
    OtherTensor(&'static str),
    /// A storage class, by its elements.
    Storage(&'static Dtype),
    /// A `torch.dtype` object.
    Dtype(&'static Dtype),
    /// `torch.Size(extents)`.
    Size,
    /// `__dict__` holds named values: `argparse.Namespace`.
    Namespace,
    /// A class of a distributed checkpoint's `.metadata`; fields are its state.
    Description,
    /// Kept as an opaque call: paths, dates, numpy scalars, devices.
    Inert,
}

/// One row of the list.
#[derive(Debug)]
pub(super) struct Known {
    /// Module as pickled.
    pub module: &'static str,
    /// Qualified name in that module.
    pub name: &'static str,
    /// What it stands for.
    pub meaning: Meaning,
}

const fn row(module: &'static str, name: &'static str, meaning: Meaning) -> Known {
    Known { module, name, meaning }
}

/// What a checkpoint may name.
///
/// Tensors and storages: torch/_utils.py, torch/storage.py, torch/serialization.py. The inert ones occur in `hparams`.
pub(super) static CHECKPOINT: &[Known] = &[
    row("collections", "OrderedDict", Mapping),
    row("torch._utils", "_rebuild_tensor", Tensor),
    row("torch._utils", "_rebuild_tensor_v2", Tensor),
    row("torch._utils", "_rebuild_tensor_v3", TensorOfDtype),
    row("torch._utils", "_rebuild_parameter", Parameter),
    row("torch._utils", "_rebuild_parameter_with_state", Parameter),
    row("torch._tensor", "_rebuild_from_type_v2", TensorFromType),
    row("torch._utils", "_rebuild_sparse_tensor", OtherTensor("a sparse tensor")),
    row("torch._utils", "_rebuild_sparse_csr_tensor", OtherTensor("a sparse tensor")),
    row("torch._utils", "_rebuild_nested_tensor", OtherTensor("a nested tensor")),
    row("torch._utils", "_rebuild_qtensor", OtherTensor("a quantized tensor")),
    row("torch._utils", "_rebuild_meta_tensor_no_storage", OtherTensor("a meta tensor, which has no data")),
    row("torch._utils", "_rebuild_device_tensor_from_numpy", OtherTensor("a tensor kept as a numpy array")),
    row("torch._utils", "_rebuild_wrapper_subclass", OtherTensor("a wrapper around other tensors")),
    row("torch", "Tensor", Inert),
    row("torch.nn.parameter", "Parameter", Inert),
    row("torch.nn.parameter", "Buffer", Inert),
    row("torch", "DoubleStorage", Storage(&FLOAT64)),
    row("torch", "FloatStorage", Storage(&FLOAT32)),
    row("torch", "HalfStorage", Storage(&FLOAT16)),
    row("torch", "BFloat16Storage", Storage(&BFLOAT16)),
    row("torch", "LongStorage", Storage(&INT64)),
    row("torch", "IntStorage", Storage(&INT32)),
    row("torch", "ShortStorage", Storage(&INT16)),
    row("torch", "CharStorage", Storage(&INT8)),
    row("torch", "ByteStorage", Storage(&UINT8)),
    row("torch", "BoolStorage", Storage(&BOOL)),
    row("torch", "ComplexFloatStorage", Storage(&COMPLEX64)),
    row("torch", "ComplexDoubleStorage", Storage(&COMPLEX128)),
    row("torch", "QInt8Storage", Storage(&QINT8)),
    row("torch", "QUInt8Storage", Storage(&QUINT8)),
    row("torch", "QInt32Storage", Storage(&QINT32)),
    row("torch", "UntypedStorage", Storage(&UNTYPED)),
    row("torch.storage", "UntypedStorage", Storage(&UNTYPED)),
    row("torch.storage", "TypedStorage", Storage(&UNTYPED)),
    row("torch.storage", "_TypedStorage", Storage(&UNTYPED)),
    row("torch.storage", "_UntypedStorage", Storage(&UNTYPED)),
    row("torch", "float64", Dtype(&FLOAT64)),
    row("torch", "double", Dtype(&FLOAT64)),
    row("torch", "float32", Dtype(&FLOAT32)),
    row("torch", "float", Dtype(&FLOAT32)),
    row("torch", "float16", Dtype(&FLOAT16)),
    row("torch", "half", Dtype(&FLOAT16)),
    row("torch", "bfloat16", Dtype(&BFLOAT16)),
    row("torch", "int64", Dtype(&INT64)),
    row("torch", "int32", Dtype(&INT32)),
    row("torch", "int16", Dtype(&INT16)),
    row("torch", "int8", Dtype(&INT8)),
    row("torch", "uint8", Dtype(&UINT8)),
    row("torch", "uint16", Dtype(&UINT16)),
    row("torch", "uint32", Dtype(&UINT32)),
    row("torch", "uint64", Dtype(&UINT64)),
    row("torch", "bool", Dtype(&BOOL)),
    row("torch", "complex32", Dtype(&COMPLEX32)),
    row("torch", "complex64", Dtype(&COMPLEX64)),
    row("torch", "complex128", Dtype(&COMPLEX128)),
    row("torch", "float8_e4m3fn", Dtype(&FLOAT8_E4M3FN)),
    row("torch", "float8_e5m2", Dtype(&FLOAT8_E5M2)),
    row("torch", "Size", Size),
    row("torch", "device", Inert),
    row("torch.serialization", "_get_layout", Inert),
    row("torch.torch_version", "TorchVersion", Inert),
    row("argparse", "Namespace", Namespace),
    row("types", "SimpleNamespace", Namespace),
    row("pathlib", "Path", Inert),
    row("pathlib", "PosixPath", Inert),
    row("pathlib", "PurePosixPath", Inert),
    row("pathlib", "WindowsPath", Inert),
    row("pathlib", "PureWindowsPath", Inert),
    row("pathlib._local", "PosixPath", Inert),
    row("pathlib._local", "WindowsPath", Inert),
    row("datetime", "datetime", Inert),
    row("datetime", "date", Inert),
    row("datetime", "timedelta", Inert),
    row("numpy", "dtype", Inert),
    row("numpy", "ndarray", Inert),
    row("numpy.core.multiarray", "scalar", Inert),
    row("numpy.core.multiarray", "_reconstruct", Inert),
    row("numpy._core.multiarray", "scalar", Inert),
    row("numpy._core.multiarray", "_reconstruct", Inert),
    row("_codecs", "encode", Inert),
];

/// What the `.metadata` of a distributed checkpoint may name besides.
///
/// torch/distributed/checkpoint/metadata.py and filesystem.py.
pub(super) static DISTRIBUTED: &[Known] = &[
    row("torch.distributed.checkpoint.metadata", "Metadata", Description),
    row("torch.distributed.checkpoint.metadata", "TensorStorageMetadata", Description),
    row("torch.distributed.checkpoint.metadata", "BytesStorageMetadata", Description),
    row("torch.distributed.checkpoint.metadata", "TensorProperties", Description),
    row("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata", Description),
    row("torch.distributed.checkpoint.metadata", "MetadataIndex", Description),
    row("torch.distributed.checkpoint.metadata", "StorageMeta", Description),
    row("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING", Inert),
    row("torch.distributed.checkpoint.filesystem", "_StorageInfo", Description),
];
