// A substitute for CUDA's runtime library and cuBLAS, for torch's CUDA build on a machine without a GPU.
//
// It answers for cards of CARD_GIB GiB. Memory is address space of the host that nothing touches. A kernel computes
// nothing. What is copied from the card are zeros. Recordings of streams (CUDA graphs) obey CUDA's rules: waiting for a
// recording stream, or an unsafe call in a mode that forbids it, breaks the recording, as it would on a card.
// Everything is counted, so launches, copies, waits and memory are those of a card; numbers and times are not.
//
// bench/no_gpu.py builds it and says what it needs. Source of the interface: CUDA 13's own headers.

#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

namespace {

struct Counts {
    long kernels, products, to_card, to_host, on_card, waits, recordings, replays, replayed_kernels, broken;
};

struct Recording {
    long kernels, products;
};

struct Stream {
    Recording* recording;  // null while nothing is recorded
    bool broken;
    cudaStreamCaptureMode mode;
    unsigned long long id;
    std::thread::id thread;  // that began to record
};

struct Event {
    bool recorded;  // in a stream that was recording
};

struct Call {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
};

std::recursive_mutex mutex;
Counts counts;
Stream legacy;
std::set<Stream*> streams;
std::map<char*, size_t> on_card, pinned;
size_t used;
unsigned long long recordings;
Recording last_recording;
thread_local cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
thread_local cudaError_t last_error = cudaSuccess;
thread_local std::vector<Call> calls;
thread_local int device;

constexpr size_t BLOCK = 2 << 20;            // memory is given in blocks of 2 MiB
constexpr size_t CONTEXT = size_t(512) << 20;  // what a process takes before its first tensor, about

size_t card_bytes() {
    static const size_t bytes = size_t(atof(getenv("CARD_GIB")) * (1 << 30));
    return bytes;
}

int read_number(const char* name, int otherwise) {
    const char* value = getenv(name);
    return value ? atoi(value) : otherwise;
}

cudaError_t fail(cudaError_t error) {
    last_error = error;
    return error;
}

Stream* find(cudaStream_t stream) {
    bool is_legacy = !stream || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
    return is_legacy ? &legacy : reinterpret_cast<Stream*>(stream);
}

void break_recording(Stream* stream, const char* call) {
    stream->broken = true;
    counts.broken++;
    fprintf(stderr, "%s breaks a recording\n", call);
}

// A call that waits for a stream, which must not be recording.
cudaError_t wait_for(Stream* stream, const char* call) {
    counts.waits++;
    if (!stream->recording) return cudaSuccess;
    break_recording(stream, call);
    return fail(cudaErrorStreamCaptureUnsupported);
}

// A call that a recording forbids: in global mode to all threads, in thread-local mode to the thread that records, if
// they did not relax their own mode.
bool is_forbidden(const char* call) {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    for (Stream* stream : streams) {
        bool here = stream->thread == std::this_thread::get_id() && stream->mode == cudaStreamCaptureModeThreadLocal;
        bool forbids = stream->recording && (here || stream->mode == cudaStreamCaptureModeGlobal);
        if (!forbids || mode == cudaStreamCaptureModeRelaxed) continue;
        break_recording(stream, call);
        fail(cudaErrorStreamCaptureUnsupported);
        return true;
    }
    return false;
}

bool holds(std::map<char*, size_t>& blocks, const void* place) {
    auto next = blocks.upper_bound((char*)place);
    return next != blocks.begin() && (char*)place < std::prev(next)->first + std::prev(next)->second;
}

void copy(void* to, const void* from, size_t bytes) {
    bool onto = holds(on_card, to), off = holds(on_card, from);
    counts.on_card += onto && off;
    counts.to_card += onto && !off;
    counts.to_host += off && !onto;
    if (off && !onto) memset(to, 0, bytes);
}

void launch(Stream* stream, bool product) {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    counts.kernels++;
    counts.products += product;
    if (!stream->recording) return;
    stream->recording->kernels++;
    stream->recording->products += product;
}

cublasStatus_t multiply(cudaStream_t stream) {
    launch(find(stream), true);
    return CUBLAS_STATUS_SUCCESS;
}

int any_driver_function(...) { return 0; }

}  // namespace

#define GUARD std::lock_guard<std::recursive_mutex> guard(mutex)

extern "C" {

// Counts, for Python.

void read_counts(long* into) { memcpy(into, &counts, sizeof counts); }
void read_last_recording(long* into) { memcpy(into, &last_recording, sizeof last_recording); }

// Devices.

cudaError_t cudaGetDeviceCount(int* count) { return *count = read_number("CARDS", 1), cudaSuccess; }
cudaError_t cudaGetDevice(int* number) { return *number = device, cudaSuccess; }
cudaError_t cudaSetDevice(int number) { return device = number, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 0, cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    return *least = *greatest = 0, cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* card, int) {
    memset(card, 0, sizeof *card);
    strcpy(card->name, "none (a substitute for CUDA's runtime)");
    card->totalGlobalMem = card_bytes();
    card->major = read_number("CARD_MAJOR", 9);
    card->minor = read_number("CARD_MINOR", 0);
    card->multiProcessorCount = 132;
    card->warpSize = 32;
    card->maxThreadsPerBlock = card->maxThreadsDim[0] = card->maxThreadsDim[1] = 1024;
    card->maxThreadsDim[2] = 64;
    card->maxGridSize[0] = 2147483647;
    card->maxGridSize[1] = card->maxGridSize[2] = 65535;
    card->maxThreadsPerMultiProcessor = 2048;
    card->maxBlocksPerMultiProcessor = 32;
    card->regsPerBlock = card->regsPerMultiprocessor = 65536;
    card->sharedMemPerBlock = 49152;
    card->sharedMemPerBlockOptin = 232448;
    card->sharedMemPerMultiprocessor = 233472;
    card->l2CacheSize = 50 << 20;
    card->textureAlignment = 512;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int number) {
    cudaDeviceProp card;
    cudaGetDeviceProperties(&card, number);
    switch (attribute) {
        case cudaDevAttrMultiProcessorCount: *value = card.multiProcessorCount; break;
        case cudaDevAttrWarpSize: *value = card.warpSize; break;
        case cudaDevAttrMaxThreadsPerBlock: *value = card.maxThreadsPerBlock; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = card.maxThreadsPerMultiProcessor; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = int(card.sharedMemPerBlock); break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(card.sharedMemPerBlockOptin); break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = int(card.sharedMemPerMultiprocessor); break;
        case cudaDevAttrMaxGridDimX: *value = card.maxGridSize[0]; break;
        case cudaDevAttrMaxGridDimY: *value = card.maxGridSize[1]; break;
        case cudaDevAttrMaxGridDimZ: *value = card.maxGridSize[2]; break;
        case cudaDevAttrComputeCapabilityMajor: *value = card.major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = card.minor; break;
        default: *value = 1;
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
    GUARD;
    for (Stream* stream : streams)
        if (stream->recording) return wait_for(stream, "cudaDeviceSynchronize");
    return wait_for(&legacy, "cudaDeviceSynchronize");
}

// Errors.

const char* cudaGetErrorName(cudaError_t) { return "cudaError"; }
cudaError_t cudaPeekAtLastError() { return last_error; }
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "out of memory" : "operation not permitted in a recording";
}

// Memory.

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    GUARD;
    *total = card_bytes();
    *free = *total > used + CONTEXT ? *total - used - CONTEXT : 0;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void** place, size_t bytes) {
    GUARD;
    if (is_forbidden("cudaMalloc")) return last_error;
    size_t whole = (bytes + BLOCK - 1) / BLOCK * BLOCK;
    if (used + whole + CONTEXT > card_bytes()) return fail(cudaErrorMemoryAllocation);
    *place = mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (*place == MAP_FAILED) return fail(cudaErrorMemoryAllocation);
    on_card[(char*)*place] = whole;
    used += whole;
    return cudaSuccess;
}

cudaError_t cudaFree(void* place) {
    GUARD;
    auto found = on_card.find((char*)place);
    if (found == on_card.end()) return cudaSuccess;
    if (is_forbidden("cudaFree")) return last_error;
    munmap(place, found->second);
    used -= found->second;
    on_card.erase(found);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** place, size_t bytes, unsigned) {
    GUARD;
    if (is_forbidden("cudaHostAlloc")) return last_error;
    *place = malloc(bytes);
    pinned[(char*)*place] = bytes;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void* place) {
    GUARD;
    pinned.erase((char*)place);
    free(place);
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* place) {
    GUARD;
    cudaMemoryType unpinned = holds(pinned, place) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
    *found = {};
    found->type = holds(on_card, place) ? cudaMemoryTypeDevice : unpinned;
    found->devicePointer = found->hostPointer = const_cast<void*>(place);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
    GUARD;
    if (is_forbidden("cudaMemcpy")) return last_error;
    counts.waits++;
    return copy(to, from, bytes), cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    GUARD;
    return copy(to, from, bytes), cudaSuccess;
}

cudaError_t cudaMemset(void*, int, size_t) { return cudaSuccess; }

cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t stream) {
    launch(find(stream), false);
    return cudaSuccess;
}

// Streams and events.

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
    GUARD;
    auto made = new Stream{};
    streams.insert(made);
    *stream = reinterpret_cast<cudaStream_t>(made);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) { return *priority = 0, cudaSuccess; }

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    GUARD;
    return wait_for(find(stream), "cudaStreamSynchronize");
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    GUARD;
    if (!find(stream)->recording) return cudaSuccess;
    break_recording(find(stream), "cudaStreamQuery");
    return fail(cudaErrorStreamCaptureUnsupported);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    GUARD;
    Stream* waiting = find(stream);
    if (!waiting->recording || reinterpret_cast<Event*>(event)->recorded) return cudaSuccess;
    break_recording(waiting, "cudaStreamWaitEvent");
    return fail(cudaErrorStreamCaptureIsolation);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = reinterpret_cast<cudaEvent_t>(new Event{});
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete reinterpret_cast<Event*>(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    GUARD;
    reinterpret_cast<Event*>(event)->recorded = find(stream)->recording;
    return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
    return cudaEventRecord(event, stream);
}

cudaError_t cudaEventQuery(cudaEvent_t) {
    GUARD;
    return is_forbidden("cudaEventQuery") ? last_error : cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t) {
    GUARD;
    counts.waits++;
    return is_forbidden("cudaEventSynchronize") ? last_error : cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
    return *milliseconds = 1, cudaSuccess;
}

// Recordings.

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* other) {
    return std::swap(*other, mode), cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode chosen) {
    GUARD;
    Stream* begun = find(stream);
    if (begun == &legacy || begun->recording) return fail(cudaErrorIllegalState);
    *begun = {new Recording{}, false, chosen, ++recordings, std::this_thread::get_id()};
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    GUARD;
    Stream* ended = find(stream);
    if (!ended->recording) return fail(cudaErrorIllegalState);
    Recording* made = std::exchange(ended->recording, nullptr);
    if (ended->broken) return fail(cudaErrorStreamCaptureInvalidated);
    last_recording = *made;
    counts.recordings++;
    *graph = reinterpret_cast<cudaGraph_t>(made);
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    GUARD;
    Stream* asked = find(stream);
    auto active = asked->broken ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
    *status = asked->recording ? active : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t** nodes,
                                     const cudaGraphEdgeData** edges, size_t* count) {
    GUARD;
    cudaStreamIsCapturing(stream, status);
    if (id) *id = find(stream)->id;
    if (graph) *graph = reinterpret_cast<cudaGraph_t>(find(stream)->recording);
    if (nodes) *nodes = nullptr;
    if (edges) *edges = nullptr;
    if (count) *count = 0;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
    *made = reinterpret_cast<cudaGraphExec_t>(new Recording(*reinterpret_cast<Recording*>(graph)));
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
    return *count = size_t(reinterpret_cast<Recording*>(graph)->kernels), cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t made, cudaStream_t) {
    GUARD;
    counts.replays++;
    counts.replayed_kernels += reinterpret_cast<Recording*>(made)->kernels;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete reinterpret_cast<Recording*>(graph), cudaSuccess; }

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t made) {
    return delete reinterpret_cast<Recording*>(made), cudaSuccess;
}

// Kernels. The host's stub of a kernel pushes its shape, fetches the kernel, pops the shape, and launches.

void** __cudaRegisterFatBinary(void*) {
    static void* handle;
    return &handle;
}

void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(void**, const char*, char*, const char*, int, uint3*, uint3*, dim3*, dim3*, int*) {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
    return calls.push_back({grid, block, shared, stream}), 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    Call call = calls.back();
    calls.pop_back();
    *grid = call.grid;
    *block = call.block;
    *shared = call.shared;
    *static_cast<cudaStream_t*>(stream) = call.stream;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
    return *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function)), cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t stream) {
    return launch(find(stream), false), cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t stream) {
    return launch(find(stream), false), cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* how, const void*, void**) {
    return launch(find(how->stream), false), cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
    *found = {};
    found->maxThreadsPerBlock = 1024;
    found->numRegs = 32;
    found->ptxVersion = found->binaryVersion = 90;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* count, const void*, int, size_t, unsigned) {
    return *count = 2, cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
    *function = reinterpret_cast<void*>(any_driver_function);
    if (found) *found = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}

// cuBLAS: one kernel a product. A handle is a pointer to the stream.

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
    if (is_forbidden("cublasCreate")) return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = reinterpret_cast<cublasHandle_t>(new cudaStream_t{});
    return CUBLAS_STATUS_SUCCESS;
}

#define STREAM(handle) (*reinterpret_cast<cudaStream_t*>(handle))

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    return STREAM(handle) = stream, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void*, size_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGetMathMode(cublasHandle_t, cublasMath_t* mode) {
    return *mode = CUBLAS_DEFAULT_MATH, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t, cublasPointerMode_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t, cublasPointerMode_t* mode) {
    return *mode = CUBLAS_POINTER_MODE_HOST, CUBLAS_STATUS_SUCCESS;
}

// The products have long lists of arguments; only the handle is read.
cublasStatus_t substitute_product(cublasHandle_t handle) { return multiply(STREAM(handle)); }

#define PRODUCT(name) \
    __asm__(".globl " name "\n" name ":\n jmp substitute_product\n.type " name ", @function")
PRODUCT("cublasGemmEx");
PRODUCT("cublasSgemmEx");
PRODUCT("cublasSgemm_v2");
PRODUCT("cublasSgemv_v2");
PRODUCT("cublasSdot_v2");
PRODUCT("cublasDotEx");
PRODUCT("cublasSgemmStridedBatched");
PRODUCT("cublasGemmStridedBatchedEx");

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t, const void*, const void*,
                              cublasLtMatrixLayout_t, const void*, cublasLtMatrixLayout_t, const void*, const void*,
                              cublasLtMatrixLayout_t, void*, cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t*,
                              void*, size_t, cudaStream_t stream) {
    return multiply(stream);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t* found,
                                              int* count) {
    *found = {};
    *count = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* made, cublasComputeType_t, cudaDataType_t) {
    return *made = static_cast<cublasLtMatmulDesc_t>(calloc(1, 256)), CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t made) { return free(made), CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* made) {
    return *made = static_cast<cublasLtMatmulPreference_t>(calloc(1, 256)), CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t made) {
    return free(made), CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* made, cudaDataType, uint64_t, uint64_t, int64_t) {
    return *made = static_cast<cublasLtMatrixLayout_t>(calloc(1, 256)), CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t made) { return free(made), CUBLAS_STATUS_SUCCESS; }
}
