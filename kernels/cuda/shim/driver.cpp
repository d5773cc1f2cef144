// A stand-in for libcuda.so.1: the part of the driver API that the runtime uses, on the CPU. All work is done when it
// is asked for, so every stream is in order with every other, and a graph replays what was captured in that order.
//
// Device memory is host memory. It is filled with NaN before use and lies between guard zones that are checked after
// each launch. Environment:
//     SHIM_SEED=n         order of threads, see engine.cpp; 0 is the plain one
//     SHIM_THREADS=n      OS threads that run CTAs
//     SHIM_TRACE=1        a line for each launch on stderr, and the time by kernel at exit
//     SHIM_CAPABILITY=90  compute capability in tenths
//     SHIM_MEMORY=n       bytes of device memory
#include "engine.hpp"
#include <algorithm>
#include <chrono>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <mutex>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <string.h>
#include <thread>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, LAUNCH_OUT_OF_RESOURCES = 701, NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_UNMATCHED = 903, CAPTURE_ISOLATION = 905, CAPTURE_WRONG_THREAD = 908,
};
static const struct { int code; const char *name, *text; } ERRORS[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not started in this stream"},
    {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture from another thread"},
};

typedef unsigned int u32;
typedef uint64_t DevicePointer;
using shim::Kernel;

static std::recursive_mutex state;
static void finish_pending();
// Held by whatever touches the device; a kernel that is still to run does so first.
struct Lock {
    std::lock_guard<std::recursive_mutex> guard{state};
    Lock(bool finish = true) {
        if (finish) finish_pending();
    }
};

static size_t setting(const char* name, size_t otherwise) {
    const char* text = getenv(name);
    return text ? strtoull(text, nullptr, 10) : otherwise;
}

// Refuses with a reason, which a real driver keeps to itself.
static int refuse(int code, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "shim: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    return code;
}

// ---- Device, contexts -----------------------------------------------------------------------------------------------

constexpr u32 MULTIPROCESSORS = 132, SHARED_OPT_IN = 227 << 10, SHARED_PER_MULTIPROCESSOR = 228 << 10;
static bool initialized;
static char primary_context;
static thread_local void* current_context;
static size_t memory_total() {
    static size_t total = setting("SHIM_MEMORY", 16ull << 30);
    return total;
}

API cuInit(u32) {
    initialized = true;
    return SUCCESS;
}
API cuDriverGetVersion(int* version) { return *version = 13000, SUCCESS; }
API cuGetErrorName(int code, const char** text) {
    for (const auto& e : ERRORS)
        if (e.code == code) return *text = e.name, SUCCESS;
    return *text = nullptr, INVALID_VALUE;
}
API cuGetErrorString(int code, const char** text) {
    for (const auto& e : ERRORS)
        if (e.code == code) return *text = e.text, SUCCESS;
    return *text = nullptr, INVALID_VALUE;
}
API cuGetProcAddress_v2(const char* name, void** function, int, uint64_t, int* status) {
    static void* library = [] {
        Dl_info info;
        return dladdr((void*)&cuInit, &info) ? dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD) : nullptr;
    }();
    *function = dlsym(library, (std::string(name) + "_v2").c_str());
    if (!*function) *function = dlsym(library, name);
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}
API cuDeviceGetCount(int* count) { return initialized ? (*count = 1, SUCCESS) : NOT_INITIALIZED; }
API cuDeviceGet(int* device, int ordinal) { return !initialized ? NOT_INITIALIZED : ordinal ? INVALID_DEVICE : (*device = 0, SUCCESS); }
API cuDeviceGetName(char* name, int size, int) { return snprintf(name, size, "CPU shim"), SUCCESS; }
API cuDeviceGetUuid_v2(unsigned char* uuid, int) { return memcpy(uuid, "tamborim cpushim", 16), SUCCESS; }
API cuDeviceGetUuid(unsigned char* uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }
API cuDeviceTotalMem_v2(size_t* size, int) { return *size = memory_total(), SUCCESS; }
API cuDeviceComputeCapability(int* major, int* minor, int) {
    size_t capability = setting("SHIM_CAPABILITY", 90);
    return *major = (int)(capability / 10), *minor = (int)(capability % 10), SUCCESS;
}
API cuDeviceGetAttribute(int* value, int attribute, int device) {
    int major, minor;
    cuDeviceComputeCapability(&major, &minor, device);
    static const std::map<int, int> VALUES = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 0x7fffffff}, {6, 65535}, {7, 65535}, // threads of a block, blocks of a grid
        {8, 48 << 10}, {97, SHARED_OPT_IN}, {81, SHARED_PER_MULTIPROCESSOR}, {111, 1024}, // shared memory
        {9, 64 << 10}, {10, 32}, {12, 65536}, {82, 65536}, {13, 1980000}, {16, MULTIPROCESSORS}, {31, 1}, {36, 3201000}, {37, 6144},
        {38, 50 << 20}, {39, 2048}, {40, 1}, {41, 1}, {78, 1}, {95, 0}, {106, 32}, {115, 1}, {120, 0},
    };
    auto found = VALUES.find(attribute);
    *value = attribute == 75 ? major : attribute == 76 ? minor : found != VALUES.end() ? found->second : 0;
    return SUCCESS;
}

API cuDevicePrimaryCtxRetain(void** context, int) { return initialized ? (*context = &primary_context, SUCCESS) : NOT_INITIALIZED; }
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuDevicePrimaryCtxReset_v2(int) { return SUCCESS; }
API cuDevicePrimaryCtxSetFlags_v2(int, u32) { return SUCCESS; }
API cuDevicePrimaryCtxGetState(int, u32* flags, int* active) { return *flags = 0, *active = 1, SUCCESS; }
API cuCtxCreate_v4(void** context, void*, u32, int) { return current_context = *context = new char, SUCCESS; }
API cuCtxDestroy_v2(void*) { return SUCCESS; }
API cuCtxSetCurrent(void* context) { return current_context = context, SUCCESS; }
API cuCtxGetCurrent(void** context) { return *context = current_context, SUCCESS; }
API cuCtxGetDevice(int* device) { return current_context ? (*device = 0, SUCCESS) : INVALID_CONTEXT; }
API cuCtxPushCurrent_v2(void* context) { return current_context = context, SUCCESS; }
API cuCtxPopCurrent_v2(void** context) { return *context = current_context, current_context = nullptr, SUCCESS; }
API cuCtxSetFlags(u32) { return SUCCESS; }
API cuCtxGetLimit(size_t* value, int) { return *value = 0, SUCCESS; }
API cuCtxSetLimit(int, size_t) { return SUCCESS; }
API cuCtxGetCacheConfig(int* config) { return *config = 0, SUCCESS; }
API cuCtxSetCacheConfig(int) { return SUCCESS; }
API cuCtxGetStreamPriorityRange(int* least, int* greatest) { return *least = 0, *greatest = -5, SUCCESS; }
API cuProfilerStart() { return SUCCESS; }
API cuProfilerStop() { return SUCCESS; }

// ---- Streams, captures, graphs --------------------------------------------------------------------------------------

struct Graph {
    std::vector<std::function<int()>> nodes; // in the order captured, which is one the dependencies allow
};
struct Capture {
    Graph* graph;
    void* origin;
    int mode; // 0 global, 1 of this thread, 2 relaxed
    void* thread;
    bool broken = false;
};
struct Stream {
    Capture* capture = nullptr;
};
struct Event {
    bool recorded = false;
    Capture* capture = nullptr; // recorded as a node of this capture
    std::chrono::steady_clock::time_point time;
};
static std::vector<Capture*> captures;
static Stream default_stream, thread_stream;
static thread_local char this_thread;

static Stream* stream_of(void* handle) {
    return (size_t)handle <= 1 ? &default_stream : (size_t)handle == 2 ? &thread_stream : (Stream*)handle;
}

// What waits for the device or allocates must not happen while a stream is captured; it ends the capture.
static int outside_of_capture(const char* what) {
    for (Capture* c : captures)
        if (c->mode == 0 || (c->mode == 1 && c->thread == &this_thread)) {
            c->broken = true;
            return refuse(CAPTURE_UNSUPPORTED, "%s while a stream is captured", what);
        }
    return SUCCESS;
}

// Does the work now, or adds it to the graph of a stream that is captured.
static int submit(void* handle, std::function<int()> work) {
    Capture* c = stream_of(handle)->capture;
    if (!c) return work();
    if (c->broken) return CAPTURE_INVALIDATED;
    c->graph->nodes.push_back(std::move(work));
    return SUCCESS;
}

API cuStreamCreate(void** stream, u32) { return *stream = new Stream, SUCCESS; }
API cuStreamCreateWithPriority(void** stream, u32, int) { return *stream = new Stream, SUCCESS; }
API cuStreamDestroy_v2(void* stream) {
    if ((size_t)stream <= 2) return INVALID_HANDLE;
    delete (Stream*)stream;
    return SUCCESS;
}
API cuStreamSynchronize(void* stream) {
    Lock lock;
    if (Capture* c = stream_of(stream)->capture) {
        c->broken = true;
        return refuse(CAPTURE_UNSUPPORTED, "cuStreamSynchronize of a stream that is captured");
    }
    return SUCCESS;
}
API cuStreamQuery(void* stream) { return cuStreamSynchronize(stream); }
API cuCtxSynchronize() {
    Lock lock;
    return outside_of_capture("cuCtxSynchronize");
}
API cuStreamBeginCapture_v2(void* stream, int mode) {
    Lock lock;
    if ((size_t)stream <= 1) return refuse(CAPTURE_UNSUPPORTED, "the default stream cannot be captured");
    Stream* s = stream_of(stream);
    if (s->capture) return INVALID_VALUE;
    captures.push_back(s->capture = new Capture{new Graph, stream, mode, &this_thread});
    return SUCCESS;
}
API cuStreamIsCapturing(void* stream, int* status) {
    Lock lock;
    Capture* c = stream_of(stream)->capture;
    return *status = !c ? 0 : c->broken ? 2 : 1, SUCCESS;
}
API cuStreamEndCapture(void* stream, void** graph) {
    Lock lock;
    *graph = nullptr;
    Stream* s = stream_of(stream);
    Capture* c = s->capture;
    if (!c || c->origin != stream) return CAPTURE_UNMATCHED;
    if (c->mode == 1 && c->thread != &this_thread) return CAPTURE_WRONG_THREAD;
    captures.erase(std::find(captures.begin(), captures.end(), c));
    s->capture = nullptr; // events and joined streams may still point at the capture, so it stays
    if (c->broken) return CAPTURE_INVALIDATED;
    *graph = c->graph;
    return SUCCESS;
}
API cuGraphCreate(void** graph, u32) { return *graph = new Graph, SUCCESS; }
API cuGraphDestroy(void* graph) { return delete (Graph*)graph, SUCCESS; }
API cuGraphClone(void** copy, void* graph) { return *copy = new Graph(*(Graph*)graph), SUCCESS; }
API cuGraphGetNodes(void* graph, void**, size_t* count) { return *count = ((Graph*)graph)->nodes.size(), SUCCESS; }
API cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
    if (flags & 4) return INVALID_VALUE; // launched by the device
    return *executable = new Graph(*(Graph*)graph), SUCCESS;
}
API cuGraphInstantiate(void** executable, void* graph, unsigned long long flags) {
    return cuGraphInstantiateWithFlags(executable, graph, flags);
}
API cuGraphExecDestroy(void* executable) { return delete (Graph*)executable, SUCCESS; }
API cuGraphExecUpdate_v2(void*, void*, void*) { return NOT_SUPPORTED; }
API cuGraphUpload(void*, void*) { return SUCCESS; }
API cuGraphLaunch(void* executable, void* stream) {
    Lock lock(false);
    Graph* graph = (Graph*)executable;
    return submit(stream, [nodes = graph->nodes] {
        for (const auto& node : nodes)
            if (int code = node()) return code;
        return (int)SUCCESS;
    });
}

API cuEventCreate(void** event, u32) { return *event = new Event, SUCCESS; }
API cuEventDestroy_v2(void* event) { return delete (Event*)event, SUCCESS; }
API cuEventRecord(void* event, void* stream) {
    Lock lock;
    Event* e = (Event*)event;
    e->capture = stream_of(stream)->capture;
    e->recorded = true;
    e->time = std::chrono::steady_clock::now();
    return SUCCESS;
}
API cuEventRecordWithFlags(void* event, void* stream, u32) { return cuEventRecord(event, stream); }
API cuEventQuery(void*) { return SUCCESS; }
API cuEventSynchronize(void* event) { return ((Event*)event)->capture ? (int)CAPTURE_UNSUPPORTED : (int)SUCCESS; }
API cuEventElapsedTime_v2(float* ms, void* from, void* to) {
    Lock lock;
    Event *a = (Event*)from, *b = (Event*)to;
    if (!a->recorded || !b->recorded || a->capture || b->capture) return INVALID_HANDLE;
    return *ms = std::chrono::duration<float, std::milli>(b->time - a->time).count(), SUCCESS;
}
API cuEventElapsedTime(float* ms, void* from, void* to) { return cuEventElapsedTime_v2(ms, from, to); }
API cuStreamWaitEvent(void* stream, void* event, u32) {
    Lock lock;
    Stream* s = stream_of(stream);
    Event* e = (Event*)event;
    if (s->capture && e->recorded && e->capture != s->capture) {
        s->capture->broken = true;
        return refuse(CAPTURE_ISOLATION, "a captured stream waits for an event recorded outside of the capture");
    }
    // A stream that waits for captured work joins the capture.
    if (!s->capture && e->capture && std::find(captures.begin(), captures.end(), e->capture) != captures.end()) s->capture = e->capture;
    return SUCCESS;
}
API cuLaunchHostFunc(void* stream, void (*function)(void*), void* argument) {
    Lock lock;
    return submit(stream, [=] { return finish_pending(), function(argument), (int)SUCCESS; });
}

// ---- Memory ---------------------------------------------------------------------------------------------------------

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t GUARD = 0; // the sanitizer has its own
#else
constexpr size_t GUARD = 256;
#endif
constexpr int GUARD_BYTE = 0xa5;
static std::map<DevicePointer, size_t> allocations;
static size_t allocated;

static int allocate(DevicePointer* pointer, size_t size) {
    if (!initialized) return NOT_INITIALIZED;
    if (!size) return INVALID_VALUE;
    if (size > memory_total() - allocated) return OUT_OF_MEMORY;
    void* block;
    if (posix_memalign(&block, 256, size + 2 * GUARD)) return OUT_OF_MEMORY;
    unsigned char* start = (unsigned char*)block + GUARD;
    memset(block, GUARD_BYTE, GUARD);
    memset(start, shim::POISON, size);
    memset(start + size, GUARD_BYTE, GUARD);
    allocated += size;
    allocations[*pointer = (DevicePointer)start] = size;
    return SUCCESS;
}

// `where` names who may have written past an allocation.
static void check_guards(DevicePointer start, size_t size, const char* where) {
    if (GUARD == 0) return;
    static const std::vector<unsigned char> EXPECTED(GUARD, GUARD_BYTE);
    const unsigned char *before = (unsigned char*)start - GUARD, *after = (unsigned char*)start + size;
    bool overrun = memcmp(after, EXPECTED.data(), GUARD);
    if (!overrun && !memcmp(before, EXPECTED.data(), GUARD)) return;
    size_t i = 0;
    while ((overrun ? after[i] : before[GUARD - 1 - i]) == GUARD_BYTE) i++;
    fprintf(stderr, "shim: %s wrote %s an allocation of %zu bytes, %zu bytes off\n", where, overrun ? "past" : "before", size, i);
    abort();
}
static void check_all_guards(const char* where) {
    for (const auto& a : allocations) check_guards(a.first, a.second, where);
}

static int release(DevicePointer pointer) {
    if (!pointer) return SUCCESS;
    auto found = allocations.find(pointer);
    if (found == allocations.end()) return refuse(INVALID_VALUE, "free of something that is not the start of an allocation");
    check_guards(found->first, found->second, "somebody");
    allocated -= found->second;
    memset((void*)pointer, shim::POISON, found->second);
    free((unsigned char*)pointer - GUARD);
    allocations.erase(found);
    return SUCCESS;
}

// Whether a range lies in one allocation.
static bool inside(DevicePointer pointer, size_t size) {
    if (!size) return true;
    auto after = allocations.upper_bound(pointer);
    if (after == allocations.begin()) return false;
    --after;
    return pointer - after->first + size <= after->second;
}

API cuMemAlloc_v2(DevicePointer* pointer, size_t size) {
    Lock lock;
    int code = outside_of_capture("cuMemAlloc");
    return code ? code : allocate(pointer, size);
}
API cuMemFree_v2(DevicePointer pointer) {
    Lock lock;
    int code = outside_of_capture("cuMemFree");
    return code ? code : release(pointer);
}
API cuMemAllocAsync(DevicePointer* pointer, size_t size, void* stream) {
    Lock lock;
    if (stream_of(stream)->capture) return refuse(NOT_SUPPORTED, "cuMemAllocAsync in a capture: the shim has no allocation nodes");
    return allocate(pointer, size);
}
API cuMemFreeAsync(DevicePointer pointer, void* stream) {
    Lock lock;
    if (stream_of(stream)->capture) return refuse(INVALID_VALUE, "cuMemFreeAsync in a capture, of memory allocated outside");
    return release(pointer);
}
API cuMemAllocFromPoolAsync(DevicePointer* pointer, size_t size, void*, void* stream) { return cuMemAllocAsync(pointer, size, stream); }
API cuMemAllocManaged(DevicePointer* pointer, size_t size, u32) { return cuMemAlloc_v2(pointer, size); }
API cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = &primary_context, SUCCESS; }
API cuDeviceGetMemPool(void** pool, int) { return *pool = &primary_context, SUCCESS; }
API cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
API cuMemPoolTrimTo(void*, size_t) { return SUCCESS; }
API cuMemGetInfo_v2(size_t* available, size_t* total) {
    Lock lock;
    return *total = memory_total(), *available = memory_total() - allocated, SUCCESS;
}
API cuMemHostAlloc(void** pointer, size_t size, u32) { return posix_memalign(pointer, 4096, size ? size : 1) ? OUT_OF_MEMORY : SUCCESS; }
API cuMemAllocHost_v2(void** pointer, size_t size) { return cuMemHostAlloc(pointer, size, 0); }
API cuMemFreeHost(void* pointer) { return free(pointer), SUCCESS; }
API cuMemHostRegister_v2(void*, size_t, u32) { return SUCCESS; }
API cuMemHostUnregister(void*) { return SUCCESS; }
API cuPointerGetAttribute(void* data, int attribute, DevicePointer pointer) {
    Lock lock;
    if (attribute != 2) return NOT_SUPPORTED;
    return inside(pointer, 1) ? (*(u32*)data = 2, SUCCESS) : INVALID_VALUE;
}

static int copy(const char* what, void* to, const void* from, size_t size, bool to_device, bool from_device) {
    finish_pending(); // for copies in a graph
    if ((to_device && !inside((DevicePointer)to, size)) || (from_device && !inside((DevicePointer)from, size)))
        return refuse(INVALID_VALUE, "%s: %zu bytes from %p to %p are not inside of an allocation", what, size, from, to);
    memmove(to, from, size);
    return SUCCESS;
}
#define COPY(name, To, From, to_device, from_device)                                                                   \
    API name##_v2(To to, From from, size_t size) {                                                                     \
        Lock lock;                                                                                              \
        int code = outside_of_capture(#name);                                                                          \
        return code ? code : copy(#name, (void*)to, (const void*)from, size, to_device, from_device);                  \
    }                                                                                                                  \
    API name##Async_v2(To to, From from, size_t size, void* stream) {                                                  \
        Lock lock;                                                                                              \
        return submit(stream, [=] { return copy(#name "Async", (void*)to, (const void*)from, size, to_device, from_device); }); \
    }
COPY(cuMemcpyHtoD, DevicePointer, const void*, true, false)
COPY(cuMemcpyDtoH, void*, DevicePointer, false, true)
COPY(cuMemcpyDtoD, DevicePointer, DevicePointer, true, true)
API cuMemcpyPeerAsync(DevicePointer to, void*, DevicePointer from, void*, size_t size, void* stream) {
    return cuMemcpyDtoDAsync_v2(to, from, size, stream);
}

template <typename T> int fill(const char* what, DevicePointer to, T value, size_t count) {
    finish_pending();
    if (!inside(to, count * sizeof(T)) || to % sizeof(T))
        return refuse(INVALID_VALUE, "%s: %zu elements are not inside of an allocation", what, count);
    std::fill_n((T*)to, count, value);
    return SUCCESS;
}
#define MEMSET(name, v2, T)                                                                                            \
    API name##v2(DevicePointer to, T value, size_t count) {                                                            \
        Lock lock;                                                                                              \
        int code = outside_of_capture(#name);                                                                          \
        return code ? code : fill<T>(#name, to, value, count);                                                         \
    }                                                                                                                  \
    API name##Async(DevicePointer to, T value, size_t count, void* stream) {                                           \
        Lock lock;                                                                                              \
        return submit(stream, [=] { return fill<T>(#name "Async", to, value, count); });                               \
    }
MEMSET(cuMemsetD8, _v2, unsigned char)
MEMSET(cuMemsetD16, _v2, unsigned short)
MEMSET(cuMemsetD32, _v2, unsigned int)

// ---- Modules, functions ---------------------------------------------------------------------------------------------

// Every module has functions of its own, with attributes of their own.
using Module = std::map<std::string, Kernel>;

API cuModuleLoadData(void** module, const void* image) {
    if (!current_context) return INVALID_CONTEXT;
    if (!image || !*(const char*)image) return INVALID_IMAGE;
    return *module = new Module, SUCCESS;
}
API cuModuleLoadDataEx(void** module, const void* image, u32, void*, void*) { return cuModuleLoadData(module, image); }
API cuModuleLoadFatBinary(void** module, const void* image) { return cuModuleLoadData(module, image); }
API cuModuleLoad(void** module, const char* path) {
    FILE* f = fopen(path, "rb");
    if (!f) return 301; // file not found
    fclose(f);
    return cuModuleLoadData(module, "x");
}
API cuModuleUnload(void* module) {
    Lock lock;
    return delete (Module*)module, SUCCESS;
}
API cuModuleGetFunction(void** function, void* module, const char* name) {
    for (Kernel* k = Kernel::first(); k; k = k->next)
        if (!strcmp(k->name, name)) return *function = &((Module*)module)->emplace(name, *k).first->second, SUCCESS;
    return refuse(NOT_FOUND, "no kernel %s", name);
}
API cuModuleGetGlobal_v2(DevicePointer*, size_t*, void*, const char*) { return NOT_FOUND; }
API cuFuncSetAttribute(void* function, int attribute, int value) {
    Kernel* k = (Kernel*)function;
    if (attribute == 8) { // largest dynamic shared memory
        if (value < 0 || (u32)value > SHARED_OPT_IN) return refuse(INVALID_VALUE, "%s: %d bytes of shared memory", k->name, value);
        k->max_dynamic_shared = (u32)value;
    }
    return SUCCESS;
}
API cuFuncGetAttribute(int* value, int attribute, void* function) {
    Kernel* k = (Kernel*)function;
    switch (attribute) {
    case 0: return *value = (int)k->max_threads, SUCCESS;
    case 4: return *value = (int)std::min(255u, 65536 / k->max_threads), SUCCESS; // registers
    case 5: case 6: return *value = 90, SUCCESS;
    case 8: return *value = (int)k->max_dynamic_shared, SUCCESS;
    default: return *value = 0, SUCCESS;
    }
}
API cuFuncSetCacheConfig(void*, int) { return SUCCESS; }
API cuFuncGetName(const char** name, void* function) { return *name = ((Kernel*)function)->name, SUCCESS; }
API cuFuncGetParamInfo(void* function, size_t i, size_t* offset, size_t* size) {
    Kernel* k = (Kernel*)function;
    if (i >= k->parameters) return INVALID_VALUE;
    *offset = 0;
    return *size = k->sizes[i], SUCCESS;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* function, int threads, size_t shared, u32) {
    Kernel* k = (Kernel*)function;
    if (threads < 1 || (u32)threads > k->max_threads) return INVALID_VALUE;
    size_t by_shared = SHARED_PER_MULTIPROCESSOR / (shared + 1024);
    return *blocks = (int)std::min<size_t>({32, 2048u / (u32)threads, by_shared}), SUCCESS;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* function, int threads, size_t shared) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared, 0);
}
API cuOccupancyMaxPotentialBlockSize(int* grid, int* block, void* function, size_t (*)(int), size_t, int limit) {
    u32 threads = ((Kernel*)function)->max_threads;
    *block = (int)(limit > 0 ? std::min(threads, (u32)limit) : threads);
    return *grid = (int)MULTIPROCESSORS * (2048 / *block), SUCCESS;
}
API cuOccupancyAvailableDynamicSMemPerBlock(size_t* size, void*, int blocks, int) {
    return *size = std::min<size_t>(SHARED_OPT_IN, SHARED_PER_MULTIPROCESSOR / blocks - 1024), SUCCESS;
}

// ---- Launches -------------------------------------------------------------------------------------------------------

struct Times {
    std::map<std::string, std::pair<double, u32>> by_kernel;
    ~Times() {
        std::vector<std::pair<double, std::string>> order;
        for (const auto& k : by_kernel) order.push_back({k.second.first, k.first});
        std::sort(order.rbegin(), order.rend());
        for (const auto& k : order)
            fprintf(stderr, "shim: %10.3f ms %6u launches of %s\n", k.first, by_kernel[k.second].second, k.second.c_str());
    }
};

static void execute(const shim::Launch& l, bool nested = false) {
    static bool trace = setting("SHIM_TRACE", 0);
    auto start = std::chrono::steady_clock::now();
    shim::run(l, nested);
    check_all_guards(l.kernel->name);
    if (trace) {
        static Times times;
        double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
        fprintf(stderr, "shim: %s grid (%u, %u, %u) block (%u, %u, %u) shared %u: %.3f ms\n", l.kernel->name, l.grid.x, l.grid.y, l.grid.z,
                l.block.x, l.block.y, l.block.z, l.shared, ms);
        auto& t = times.by_kernel[l.kernel->name];
        t.first += ms, t.second++;
    }
}

// Programmatic dependent launches overlap in the worst way: once a program uses them, a kernel is put off until the next one waits for it
// (in a thread of its own, since that one is in the middle of a CTA) or anything else needs it. What the next one reads before it waits is
// then old, what it writes too new.
struct Pending {
    shim::Launch launch;
    std::vector<std::vector<unsigned long long>> values; // of the parameters
    std::vector<void*> parameters;
    bool waits = false;
    std::mutex mutex;

    void set(const shim::Launch& l) {
        launch = l;
        values.clear(), parameters.clear();
        for (u32 i = 0; i < l.kernel->parameters; i++) {
            values.emplace_back((l.kernel->sizes[i] + 7) / 8);
            memcpy(values[i].data(), l.parameters[i], l.kernel->sizes[i]);
        }
        for (auto& v : values) parameters.push_back(v.data());
        launch.parameters = parameters.data();
        waits = true;
    }
    void finish(bool nested) {
        std::lock_guard<std::mutex> lock(mutex);
        if (!waits) return;
        waits = false;
        if (nested) std::thread([this] { execute(launch, true); }).join();
        else execute(launch);
    }
};
static Pending pending;
static void finish_pending() { pending.finish(false); }

static int launch(shim::Launch l) {
    static bool overlaps;
    static u32 count;
    overlaps |= l.programmatic;
    if (l.programmatic && pending.waits) {
        l.finish_previous = [] { pending.finish(true); };
        execute(l);
        return SUCCESS;
    }
    finish_pending();
    // With a seed, sometimes not, so that other pairs of kernels overlap.
    static size_t seed = setting("SHIM_SEED", 0);
    if (overlaps && (!seed || (seed * 0x9e3779b97f4a7c15ull + count++ * 0xbf58476d1ce4e5b9ull) >> 62)) pending.set(l);
    else execute(l);
    return SUCCESS;
}

static int check(const shim::Launch& l) {
    const Kernel& k = *l.kernel;
    if (!l.grid.x || !l.grid.y || !l.grid.z || l.grid.x > 0x7fffffff || l.grid.y > 65535 || l.grid.z > 65535)
        return refuse(INVALID_VALUE, "%s: grid (%u, %u, %u)", k.name, l.grid.x, l.grid.y, l.grid.z);
    size_t threads = (size_t)l.block.x * l.block.y * l.block.z;
    if (!threads || threads > shim::MAX_THREADS || l.block.x > 1024 || l.block.y > 1024 || l.block.z > 64)
        return refuse(INVALID_VALUE, "%s: block (%u, %u, %u)", k.name, l.block.x, l.block.y, l.block.z);
    if (threads > k.max_threads) return refuse(INVALID_VALUE, "%s: %zu threads, launch bounds are %u", k.name, threads, k.max_threads);
    if (l.shared > k.max_dynamic_shared)
        return refuse(INVALID_VALUE, "%s: %u bytes of dynamic shared memory, its attribute allows %u", k.name, l.shared,
                      k.max_dynamic_shared);
    if (!l.parameters && k.parameters) return refuse(INVALID_VALUE, "%s: no parameters", k.name);
    return SUCCESS;
}

static int enqueue(shim::Launch l, void* stream) {
    Lock lock(false);
    if (!l.kernel) return INVALID_HANDLE;
    if (int code = check(l)) return code;
    Capture* c = stream_of(stream)->capture;
    if (!c) return launch(l);
    if (c->broken) return CAPTURE_INVALIDATED;
    // The values of the parameters are those of now.
    std::vector<std::vector<unsigned long long>> values;
    for (u32 i = 0; i < l.kernel->parameters; i++) {
        values.emplace_back((l.kernel->sizes[i] + 7) / 8);
        memcpy(values[i].data(), l.parameters[i], l.kernel->sizes[i]);
    }
    c->graph->nodes.push_back([l, values = std::move(values)]() mutable {
        std::vector<void*> parameters;
        for (auto& v : values) parameters.push_back(v.data());
        l.parameters = parameters.data();
        return launch(l);
    });
    return SUCCESS;
}

API cuLaunchKernel(void* function, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 shared, void* stream, void** parameters,
                   void** extra) {
    if (extra) return NOT_SUPPORTED;
    return enqueue({(Kernel*)function, {gx, gy, gz}, {bx, by, bz}, shared, false, parameters}, stream);
}
struct LaunchAttribute {
    int id;
    union {
        int flag;
        u32 dimensions[3];
        char space[64];
    } __attribute__((aligned(8)));
};
struct LaunchConfig {
    u32 grid[3], block[3], shared;
    void* stream;
    LaunchAttribute* attributes;
    u32 count;
};
API cuLaunchKernelEx(const LaunchConfig* c, void* function, void** parameters, void** extra) {
    if (extra) return NOT_SUPPORTED;
    bool programmatic = false;
    for (u32 i = 0; i < c->count; i++) {
        const LaunchAttribute& a = c->attributes[i];
        if (a.id == 2 && a.flag) return refuse(NOT_SUPPORTED, "cooperative launch");
        if (a.id == 4 && a.dimensions[0] * a.dimensions[1] * a.dimensions[2] != 1) return refuse(NOT_SUPPORTED, "thread block clusters");
        if (a.id == 6) programmatic = a.flag;
    }
    shim::Index grid = {c->grid[0], c->grid[1], c->grid[2]}, block = {c->block[0], c->block[1], c->block[2]};
    return enqueue({(Kernel*)function, grid, block, c->shared, programmatic, parameters}, c->stream);
}
API cuLaunchCooperativeKernel(void*, u32, u32, u32, u32, u32, u32, u32, void*, void**) {
    return refuse(NOT_SUPPORTED, "cooperative launch");
}

// For tests that run many seeds in one process.
API shim_set_seed(unsigned long long seed) {
    Lock lock;
    shim::set_seed(seed);
    return SUCCESS;
}
