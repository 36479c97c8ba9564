#pragma once

// XLA's stable C ABI for foreign functions, version 0.3, as far as our handlers meet it.
// tests/jax/test_jax_ffi.py compares every size and offset with the header that jaxlib ships.

#include <cstddef>
#include <cstdint>

namespace gossamer::python::xla {

inline constexpr int kMajorVersion = 0, kMinorVersion = 3;

/// Opaque to handlers.
struct Error;
struct ExecutionContext;
struct InternalApi;
struct Future;

enum class ExtensionType : std::int32_t { metadata = 1 };
struct Extension {
  std::size_t struct_size;
  ExtensionType type;
  Extension* next;
};

struct ApiVersion {
  std::size_t struct_size;
  Extension* extension_start;
  int major_version;
  int minor_version;
};

enum class ErrorCode : std::int32_t { invalid_argument = 3, internal = 13 };
struct ErrorCreateArgs {
  std::size_t struct_size;
  Extension* extension_start;
  const char* message;
  ErrorCode code;
};

struct ErrorDestroyArgs {
  std::size_t struct_size;
  Extension* extension_start;
  Error* error;
};

/// The stream on which a handler for a GPU queues its work.
struct StreamGetArgs {
  std::size_t struct_size;
  Extension* extension_start;
  ExecutionContext* context;
  void* stream;  // out
};

/// Memory on the call's device, to be freed when the work that uses it is queued.
struct MemoryAllocateArgs {
  std::size_t struct_size;
  Extension* extension_start;
  ExecutionContext* context;
  std::size_t size;
  std::size_t alignment;
  void* data;  // out
};
struct MemoryFreeArgs {
  std::size_t struct_size;
  Extension* extension_start;
  ExecutionContext* context;
  std::size_t size;
  void* data;
};

/// Which of the process's devices the call is on.
struct DeviceGetArgs {
  std::size_t struct_size;
  Extension* extension_start;
  ExecutionContext* context;
  std::int32_t device;  // out
};

/// The table of the runtime's functions. Those without a name here are not used.
struct Api {
  std::size_t struct_size;
  Extension* extension_start;
  ApiVersion api_version;
  const InternalApi* internal_api;
  Error* (*error_create)(ErrorCreateArgs* args);
  void* unused_after_error_create[1];
  void (*error_destroy)(ErrorDestroyArgs* args);
  void* unused_after_error_destroy[1];
  Error* (*stream_get)(StreamGetArgs* args);
  void* unused_after_stream_get[4];
  Error* (*memory_allocate)(MemoryAllocateArgs* args);
  Error* (*memory_free)(MemoryFreeArgs* args);
  void* unused_after_memory_free[6];
  Error* (*device_get)(DeviceGetArgs* args);
};

enum class DataType : std::int32_t {
  pred = 1,
  s32 = 4,
  s64 = 5,
  u8 = 6,
  f16 = 10,
  f32 = 11,
  f64 = 12,
  bf16 = 16,
};
struct Buffer {
  std::size_t struct_size;
  Extension* extension_start;
  DataType dtype;
  void* data;
  std::int64_t rank;
  std::int64_t* dims;
};

struct ByteSpan {
  const char* ptr;
  std::size_t len;
};
struct Scalar {
  DataType dtype;
  void* value;
};

enum class ArgType : std::int32_t { buffer = 1 };
struct Args {
  std::size_t struct_size;
  Extension* extension_start;
  std::int64_t size;
  ArgType* types;
  void** args;
};
struct Rets {
  std::size_t struct_size;
  Extension* extension_start;
  std::int64_t size;
  ArgType* types;
  void** rets;
};
enum class AttrType : std::int32_t { array = 1, dictionary = 2, scalar = 3, string = 4 };
struct Attrs {
  std::size_t struct_size;
  Extension* extension_start;
  std::int64_t size;
  AttrType* types;
  ByteSpan** names;
  void** attrs;
};

enum class Stage : std::int32_t { instantiate = 0, prepare = 1, initialize = 2, execute = 3 };
struct CallFrame {
  std::size_t struct_size;
  Extension* extension_start;
  const Api* api;
  ExecutionContext* context;
  Stage stage;
  Args args;
  Rets rets;
  Attrs attrs;
  Future* future;
};

/// A trait: the handler always queues the same work, which may be captured and replayed.
inline constexpr std::uint32_t kCommandBufferCompatible = 1;

/// What the runtime asks for when a handler is registered.
struct Metadata {
  std::size_t struct_size;
  ApiVersion api_version;
  std::uint32_t traits;
  std::int64_t state_type_id;
};
struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

}  // namespace gossamer::python::xla
