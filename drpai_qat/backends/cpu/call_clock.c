/* A clock for TVM's machine: notes the time before and after each of its calls. See call_clock.py.
 *
 *   attach(machine)                             from now on the machine calls the clock
 *   start(naming)                               forget what was noted; note names too if naming
 *   idle() -> picoseconds                       that a call of the clock takes
 *   times(int64 tensor) -> number               nanoseconds of each event
 *   names(uint8 tensor) -> number               "+name\n" before and "-\n" after each call
 */
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <tvm/ffi/c_api.h>

#define EXPORT __attribute__((visibility("default")))
#define MOST_EVENTS (1 << 20)
#define MOST_TEXT (1 << 24)

static int64_t stamps[MOST_EVENTS];
static char text[MOST_TEXT];
static int64_t events, letters, naming;

static int answer(TVMFFIAny* result, int64_t value) {
  result->type_index = kTVMFFIInt;
  result->zero_padding = 0;
  result->v_int64 = value;
  return 0;
}

static void append(const char* from, size_t size) {
  if (letters + (int64_t)size <= MOST_TEXT) {
    memcpy(text + letters, from, size);
    letters += size;
  }
}

static void append_name(const TVMFFIAny* name) {
  if (name->type_index == kTVMFFIRawStr) {
    append(name->v_c_str, strlen(name->v_c_str));
  } else if (name->type_index == kTVMFFISmallStr) {
    append(name->v_bytes, name->small_str_len);
  } else if (name->type_index == kTVMFFIStr) {
    const TVMFFIByteArray* bytes = (const TVMFFIByteArray*)((const char*)name->v_obj + sizeof(TVMFFIObject));
    append(bytes->data, bytes->size);
  }
}

/* What the machine calls: (function, name, before, result, arguments of the call ...). */
static int told(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  struct timespec now;
  if (naming) {
    int before = (int)arguments[2].v_int64;
    append(before ? "+" : "-", 1);
    if (before) append_name(&arguments[1]);
    append("\n", 1);
  }
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (events < MOST_EVENTS) stamps[events] = now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
  events++;
  return answer(result, 0);
}

/* Over RPC no function can be handed to the machine, so that the clock hands itself over. */
EXPORT int __tvm_ffi_attach(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  const TVMFFIByteArray lookup = {"ffi.ModuleGetFunction", 21};
  TVMFFIObjectHandle get = NULL, clock = NULL;
  TVMFFIAny wanted[3], setter = {0}, given = {0}, nothing = {0};
  int failed = TVMFFIFunctionGetGlobal(&lookup, &get);
  if (failed) return failed;
  memset(wanted, 0, sizeof(wanted));
  wanted[0] = arguments[0];
  wanted[1].type_index = kTVMFFIRawStr;
  wanted[1].v_c_str = "set_instrument";
  wanted[2].type_index = kTVMFFIBool;
  failed = TVMFFIFunctionCall(get, wanted, 3, &setter);
  if (!failed) failed = TVMFFIFunctionCreate(NULL, told, NULL, &clock);
  if (!failed) {
    given.type_index = kTVMFFIFunction;
    given.v_obj = (TVMFFIObject*)clock;
    failed = TVMFFIFunctionCall(setter.v_obj, &given, 1, &nothing);
    TVMFFIObjectDecRef(clock);
  }
  if (setter.type_index >= kTVMFFIStaticObjectBegin) TVMFFIObjectDecRef(setter.v_obj);
  TVMFFIObjectDecRef(get);
  return failed ? failed : answer(result, 0);
}

/* Picoseconds of a call of the clock with nothing to time: the best of several series. What was noted is forgotten. */
EXPORT int __tvm_ffi_idle(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  enum { SERIES = 64, CALLS = 1 << 13 };
  TVMFFIObjectHandle clock = NULL;
  TVMFFIAny given[6], nothing = {0};
  struct timespec begin, end;
  int64_t best = INT64_MAX;
  int failed = TVMFFIFunctionCreate(NULL, told, NULL, &clock);
  memset(given, 0, sizeof(given));
  naming = 0;
  for (int series = 0; !failed && series < SERIES; ++series) {
    events = 0;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; !failed && i < CALLS; ++i) failed = TVMFFIFunctionCall(clock, given, 6, &nothing);
    clock_gettime(CLOCK_MONOTONIC, &end);
    int64_t taken = (end.tv_sec - begin.tv_sec) * INT64_C(1000000000) + end.tv_nsec - begin.tv_nsec;
    if (taken < best) best = taken;
  }
  if (clock) TVMFFIObjectDecRef(clock);
  events = 0;
  return failed ? failed : answer(result, best * 1000 / CALLS);
}

EXPORT int __tvm_ffi_start(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  events = letters = 0;
  naming = arguments[0].v_int64;
  return answer(result, 0);
}

static int copy(const TVMFFIAny* argument, const void* from, int64_t number, int64_t width, TVMFFIAny* result) {
  const DLTensor* to = argument->type_index == kTVMFFIDLTensorPtr
                           ? (const DLTensor*)argument->v_ptr
                           : (const DLTensor*)((const char*)argument->v_obj + sizeof(TVMFFIObject));
  int64_t room = to->shape[0];
  memcpy((char*)to->data + to->byte_offset, from, (number < room ? number : room) * width);
  return answer(result, number);
}

EXPORT int __tvm_ffi_times(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  return copy(&arguments[0], stamps, events < MOST_EVENTS ? events : MOST_EVENTS, sizeof(int64_t), result);
}

EXPORT int __tvm_ffi_names(void* self, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) {
  return copy(&arguments[0], text, letters, 1, result);
}
