// XLA's runtime on a GPU, for handlers of the emulated backend. XLA's own runtime on CPUs calls a
// shim, which hands the handler the same call with operands and results in the emulation's memory
// and with the functions that a runtime on a GPU has. Written against the header that jaxlib ships.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "xla/ffi/api/c_api.h"

namespace {

constexpr std::size_t kMost = 32;

struct Runtime {
  std::mutex lock;
  std::array<XLA_FFI_Handler*, kMost> handlers{};
  void* (*allocate)(std::size_t) = nullptr;
  void (*release)(void*) = nullptr;
  void* stream = nullptr;
  std::int32_t device = 0;
  std::string refused;  // the function that fails

  XLA_FFI_CallFrame* call = nullptr;
  bool replays = false;  // may its work be recorded?
  std::map<void*, std::size_t> workspaces;
  int calls = 0, allocations = 0;
  std::string misuse;
};

Runtime& runtime() {
  static Runtime runtime;
  return runtime;
}

XLA_FFI_Error* fail(const std::string& message) {
  Runtime& r = runtime();
  XLA_FFI_Error_Create_Args args{};
  args.struct_size = XLA_FFI_Error_Create_Args_STRUCT_SIZE;
  args.message = message.c_str();
  args.errc = XLA_FFI_Error_Code_RESOURCE_EXHAUSTED;
  return r.call->api->XLA_FFI_Error_Create(&args);
}

/// Is this a call that a runtime would take?
template <class Args>
XLA_FFI_Error* enter(const Args& args, std::size_t size, const char* function) {
  Runtime& r = runtime();
  if (args.struct_size < size) r.misuse = std::string(function) + ": struct_size";
  if (args.ctx != r.call->ctx) r.misuse = std::string(function) + ": another context";
  return r.refused == function ? fail(std::string(function) + " is refused") : nullptr;
}

XLA_FFI_Error* stream_get(XLA_FFI_Stream_Get_Args* args) {
  args->stream = runtime().stream;
  return enter(*args, XLA_FFI_Stream_Get_Args_STRUCT_SIZE, "Stream_Get");
}

XLA_FFI_Error* device_get(XLA_FFI_DeviceOrdinal_Get_Args* args) {
  args->device_ordinal = runtime().device;
  return enter(*args, XLA_FFI_DeviceOrdinal_Get_Args_STRUCT_SIZE, "DeviceOrdinal_Get");
}

XLA_FFI_Error* memory_allocate(XLA_FFI_DeviceMemory_Allocate_Args* args) {
  Runtime& r = runtime();
  if (args->alignment == 0 || 16 % args->alignment != 0) r.misuse = "alignment";
  if (XLA_FFI_Error* error =
          enter(*args, XLA_FFI_DeviceMemory_Allocate_Args_STRUCT_SIZE, "DeviceMemory_Allocate")) {
    return error;
  }
  if (r.replays) r.misuse = "DeviceMemory_Allocate: what is recorded has no memory of its own";
  args->data = r.allocate(args->size);
  r.workspaces[args->data] = args->size;
  ++r.allocations;
  return nullptr;
}

XLA_FFI_Error* memory_free(XLA_FFI_DeviceMemory_Free_Args* args) {
  Runtime& r = runtime();
  const auto found = r.workspaces.find(args->data);
  if (found == r.workspaces.end() || found->second != args->size) {
    r.misuse = "DeviceMemory_Free: memory that was not allocated so";
    return nullptr;
  }
  r.release(args->data);
  r.workspaces.erase(found);
  return enter(*args, XLA_FFI_DeviceMemory_Free_Args_STRUCT_SIZE, "DeviceMemory_Free");
}

std::size_t size_of(XLA_FFI_DataType type) {
  switch (type) {
    case XLA_FFI_DataType_F64:
    case XLA_FFI_DataType_S64:
      return 8;
    case XLA_FFI_DataType_F32:
    case XLA_FFI_DataType_S32:
      return 4;
    case XLA_FFI_DataType_F16:
    case XLA_FFI_DataType_BF16:
      return 2;
    default:
      return 1;
  }
}

/// Copies of operands or results in the emulation's memory. Results that have the memory of an
/// operand have that of its copy.
class There {
 public:
  There(std::int64_t count, void** given, const There* operands = nullptr)
      : given_(given, given + count) {
    for (void* pointer : given_) {
      copies_.push_back(*static_cast<XLA_FFI_Buffer*>(pointer));
      XLA_FFI_Buffer& copy = copies_.back();
      std::size_t bytes = size_of(copy.dtype);
      for (std::int64_t axis = 0; axis < copy.rank; ++axis) {
        bytes *= static_cast<std::size_t>(copy.dims[axis]);
      }
      sizes_.push_back(bytes);
      void* shared = operands == nullptr ? nullptr : operands->there(copy.data);
      if (shared == nullptr && bytes > 0) owned_.push_back(runtime().allocate(bytes));
      copy.data = bytes == 0 ? nullptr : shared == nullptr ? owned_.back() : shared;
    }
    for (XLA_FFI_Buffer& copy : copies_) pointers_.push_back(&copy);
  }
  ~There() {
    for (void* memory : owned_) runtime().release(memory);
  }
  There(const There&) = delete;
  There& operator=(const There&) = delete;

  void bring() const {
    for (std::size_t i = 0; i < sizes_.size(); ++i) {
      if (sizes_[i] > 0) std::memcpy(copies_[i].data, here(i), sizes_[i]);
    }
  }
  void fetch() const {
    for (std::size_t i = 0; i < sizes_.size(); ++i) {
      if (sizes_[i] > 0) std::memcpy(here(i), copies_[i].data, sizes_[i]);
    }
  }
  void** pointers() { return pointers_.data(); }
  /// The memory that stands for this, if any does.
  void* there(const void* memory) const {
    for (std::size_t i = 0; i < sizes_.size(); ++i) {
      if (sizes_[i] > 0 && here(i) == memory) return copies_[i].data;
    }
    return nullptr;
  }

 private:
  void* here(std::size_t i) const { return static_cast<XLA_FFI_Buffer*>(given_[i])->data; }

  std::vector<void*> given_, pointers_, owned_;
  std::vector<XLA_FFI_Buffer> copies_;
  std::vector<std::size_t> sizes_;
};

/// May XLA record what this handler queues, and replay it?
bool replays(XLA_FFI_Handler* handler) {
  XLA_FFI_Metadata metadata{};
  metadata.struct_size = XLA_FFI_Metadata_STRUCT_SIZE;
  XLA_FFI_Metadata_Extension extension{};
  extension.extension_base.struct_size = XLA_FFI_Metadata_Extension_STRUCT_SIZE;
  extension.extension_base.type = XLA_FFI_Extension_Metadata;
  extension.metadata = &metadata;
  XLA_FFI_CallFrame frame{};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.extension_start = &extension.extension_base;
  handler(&frame);
  return (metadata.traits & XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE) != 0;
}

template <std::size_t N>
XLA_FFI_Error* shim(XLA_FFI_CallFrame* frame) {
  Runtime& r = runtime();
  const std::lock_guard guard(r.lock);
  if (frame->extension_start != nullptr) return r.handlers[N](frame);
  r.call = frame;
  r.replays = replays(r.handlers[N]);
  ++r.calls;
  XLA_FFI_Api api = *frame->api;
  api.XLA_FFI_Stream_Get = &stream_get;
  api.XLA_FFI_DeviceOrdinal_Get = &device_get;
  api.XLA_FFI_DeviceMemory_Allocate = &memory_allocate;
  api.XLA_FFI_DeviceMemory_Free = &memory_free;
  if (r.refused == "old") api.struct_size -= sizeof(void*);
  There operands(frame->args.size, frame->args.args);
  There results(frame->rets.size, frame->rets.rets, &operands);
  operands.bring();
  XLA_FFI_CallFrame call = *frame;
  call.api = &api;
  call.args.args = operands.pointers();
  call.rets.rets = results.pointers();
  XLA_FFI_Error* error = r.handlers[N](&call);
  results.fetch();
  return error;
}

template <std::size_t... N>
constexpr std::array<XLA_FFI_Handler*, kMost> shims(std::index_sequence<N...> /*places*/) {
  return {&shim<N>...};
}

}  // namespace

extern "C" {

void begin(void* (*allocate)(std::size_t), void (*release)(void*)) {
  runtime().allocate = allocate;
  runtime().release = release;
}

/// The shim of a handler.
void* shim_of(int place, XLA_FFI_Handler* handler) {
  const auto n = static_cast<std::size_t>(place);
  runtime().handlers.at(n) = handler;
  return reinterpret_cast<void*>(shims(std::make_index_sequence<kMost>()).at(n));
}

int replayed(int place) {
  return replays(runtime().handlers.at(static_cast<std::size_t>(place))) ? 1 : 0;
}

/// Forgets what was counted; `refused` is the function of the runtime that fails, or "".
void reset(void* stream, int device, const char* refused) {
  Runtime& r = runtime();
  r.stream = stream;
  r.device = device;
  r.refused = refused;
  r.calls = r.allocations = 0;
  r.misuse.clear();
}

int calls() { return runtime().calls; }
int allocations() { return runtime().allocations; }
int workspaces() { return static_cast<int>(runtime().workspaces.size()); }
const char* misuse() { return runtime().misuse.c_str(); }
}
