// Enough of CUDA to run the kernels' own sources on a CPU, so that their logic is
// tested where there is no GPU. Include before any kernel.
//
//   * A kernel without barriers is a loop over its threads.
//   * A kernel with barriers runs each block on fibers, one a thread: a warp's lanes
//     take turns between shuffles, the warps between __syncthreads.
//   * Shared memory holds NaN (all bits set) before each block, so a value that is
//     read before it is written shows in the result; the bytes behind each array are
//     checked after the block. What a shuffle reads of a lane that took no part is
//     NaN as well.
//   * Lanes can run in falling order (emulated_order): a result that depends on the
//     order lacks a barrier.
//   * Launches from several threads of the host run at the same time, each with a
//     state of its own.
//
// It is sequential: races show only as far as the two orders tell them apart.
//
// Compile with -std=c++17; for the bits of f32 results also with -ffp-contract=off
// where the compiler would fuse (x86-64 without -march does not).
#pragma once

#include <atomic>
#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#if defined(__x86_64__) && defined(__linux__)
#define EMULATOR_OWN_SWITCH 1
#else
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

// ---- words of the language ------------------------------------------------------

// Kernels are found by the table alone, and their names are common words.
#define __global__ __attribute__((visibility("hidden")))
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __constant__ static const
#define __launch_bounds__(...)
#define UNROLL
#define UNROLL_BY(n)

#define SHARED_ARRAY(type, name, count)                                                  \
  type* const name = emulator::fixed_array<type>(__COUNTER__, count)
#define SHARED(type, name)                                                               \
  type* const name = reinterpret_cast<type*>(emulator::dynamic_array())
#define REQUIRE(condition)                                                               \
  do {                                                                                   \
    if (!(condition)) emulator::fail(emulator::REFUSED);                                 \
  } while (0)

struct uint3 {
  unsigned x, y, z;
};
struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// Within a library that is loaded late, this model is the one that costs no call.
#ifdef __linux__
#define EMULATOR_LOCAL static thread_local __attribute__((tls_model("initial-exec")))
#else
#define EMULATOR_LOCAL static thread_local
#endif
EMULATOR_LOCAL uint3 gridDim, blockDim, blockIdx, threadIdx;

// ---- numbers --------------------------------------------------------------------

inline unsigned __float_as_uint(float x) {
  unsigned u;
  memcpy(&u, &x, 4);
  return u;
}
inline float __uint_as_float(unsigned u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}

struct __nv_bfloat16 {
  uint16_t bits;
};
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }
// To nearest, ties to even; any NaN becomes the one that the hardware writes.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  unsigned u = __float_as_uint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {(uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16)};
}

// Each rounds by itself. Where the CPU has a fused multiply-add that the compiler
// might choose, the product goes through memory first.
inline float emulator_apart(float x) {
#ifdef __FP_FAST_FMAF
  asm("" : "+m"(x));
#endif
  return x;
}
inline float __fmul_rn(float a, float b) { return emulator_apart(a * b); }
inline float __fadd_rn(float a, float b) { return emulator_apart(a + b); }
inline float __fsub_rn(float a, float b) { return emulator_apart(a - b); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
template <class T> inline T __ldg(const T* p) { return *p; }

// ---- the machine ----------------------------------------------------------------

namespace emulator {

// What a launch returns.
enum Failure {
  FINE = 0,
  UNKNOWN = 1,   // no kernel of that name
  DIVERGENT = 2, // a barrier that some threads of a block or warp never reach
  SHARED_SIZE = 3, // more shared memory than there is, or written behind an array
  REFUSED = 4,   // a grid or block that a GPU or the kernel does not take
};

constexpr unsigned MAX_THREADS = 1024, LANES = 32;
// Bytes of shared memory: fixed arrays alone; all without opting in; all with it.
constexpr size_t FIXED_LIMIT = 48 << 10, MAX_SHARED = 227 << 10, GAP = 64;
// Not a power of two: equal offsets would compete for the same lines of the cache.
constexpr size_t STACK = (64 << 10) + 5 * 64;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t STACKS = 4 * STACK;
#else
constexpr size_t STACKS = STACK;
#endif

inline std::atomic<int> falling_order{0};
inline std::atomic<unsigned> shared_limit{48 << 10};

enum class Lane : unsigned char { Ready, AtShuffle, AtBarrier, Done };

#ifdef EMULATOR_OWN_SWITCH
using Context = void*; // a stack pointer; all else is on the stack
#else
using Context = ucontext_t;
#endif

struct Fiber {
  Context context;
  uint3 index;
  unsigned shuffles; // done so far in this block
  Lane state;
};

// What a lane offers to a shuffle. Two slots take turns: when a lane writes to a slot
// again, all others have been through the shuffle between and so have read it.
struct Offer {
  unsigned shuffle;
  unsigned char value[8];
};

// A GPU of one thread of the host, with one block at a time.
struct Machine {
  Fiber fibers[MAX_THREADS];
  Offer offers[2][MAX_THREADS];
  Context home;
  std::unique_ptr<unsigned char[]> stacks;
  unsigned stacked = 0; // threads that have a stack

  void (*body)(void**);
  void** arguments;
  unsigned threads, current, warp, cursor, warps_seen;
  int line; // of the barrier where the first threads wait; 0 for none
  bool falling;

  alignas(64) unsigned char shared[MAX_SHARED + 64 * GAP];
  size_t dynamic, used, dirty, fixed;
  // Where each SHARED_ARRAY of the sources lies in this block.
  static constexpr unsigned ARRAYS = 128;
  struct Array {
    unsigned block;
    size_t start, end;
  } arrays[ARRAYS] = {};
  unsigned block = 0; // serial number
};

EMULATOR_LOCAL Machine* machine; // of this thread of the host, made at the first launch
EMULATOR_LOCAL int failure;
EMULATOR_LOCAL bool on_fibers;
EMULATOR_LOCAL jmp_buf* plain_exit;

#ifdef EMULATOR_OWN_SWITCH
// Pushes what a call must keep, swaps stacks, pops. Control words of the floating
// point unit are the same on all sides, and no system call saves a signal mask.
extern "C" void emulator_switch(void** from, void* to) __attribute__((visibility("hidden")));
asm(R"(
.pushsection .text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, . - emulator_switch
.popsection
)");
inline void change(Context& from, Context& to) { emulator_switch(&from, to); }
#else
inline void change(Context& from, Context& to) { swapcontext(&from, &to); }
#endif

// Ends the launch from within a kernel.
[[noreturn]] inline void fail(int code) {
  failure = code;
  if (!on_fibers) longjmp(*plain_exit, 1);
  Machine& m = *machine;
  change(m.fibers[m.current].context, m.home);
  abort(); // nobody comes back to a block that failed
}

// The next lane to run, or -1: the block has ended, or `failure` says why it cannot.
inline int pick(Machine& m) {
  unsigned warps = (m.threads + LANES - 1) / LANES;
  for (;;) {
    unsigned first = m.warp * LANES;
    unsigned lanes = m.threads - first < LANES ? m.threads - first : LANES;
    while (m.cursor < lanes) {
      unsigned t = first + (m.falling ? lanes - 1 - m.cursor : m.cursor);
      m.cursor++;
      if (m.fibers[t].state == Lane::Ready) return (int)t;
    }
    m.cursor = 0;
    bool at_shuffle = false, at_barrier = false;
    for (unsigned t = first; t < first + lanes; t++) {
      at_shuffle |= m.fibers[t].state == Lane::AtShuffle;
      at_barrier |= m.fibers[t].state == Lane::AtBarrier;
    }
    if (at_shuffle && at_barrier) {
      failure = DIVERGENT;
      return -1;
    }
    if (at_shuffle) { // all lanes that have not ended are there
      for (unsigned t = first; t < first + lanes; t++)
        if (m.fibers[t].state == Lane::AtShuffle) m.fibers[t].state = Lane::Ready;
      continue;
    }
    if (++m.warps_seen == warps) {
      bool waiting = false;
      for (unsigned t = 0; t < m.threads; t++)
        if (m.fibers[t].state == Lane::AtBarrier) m.fibers[t].state = Lane::Ready, waiting = true;
      if (!waiting) return -1;
      m.line = 0;
      m.warps_seen = 0;
    }
    m.warp = m.falling ? warps - 1 - m.warps_seen : m.warps_seen;
  }
}

inline void resume(Machine& m, Context& from, unsigned thread) {
  m.current = thread;
  threadIdx = m.fibers[thread].index;
  change(from, m.fibers[thread].context);
}

inline void wait(Lane state) {
  if (!on_fibers) fail(DIVERGENT); // the table says that this kernel has no barrier
  Machine& m = *machine;
  unsigned me = m.current;
  m.fibers[me].state = state;
  int next = pick(m);
  if (next == (int)me) return;
  if (next < 0)
    change(m.fibers[me].context, m.home);
  else
    resume(m, m.fibers[me].context, (unsigned)next);
}

// A thread's life: the kernel, once for each block.
inline void live() {
  for (;;) {
    machine->body(machine->arguments);
    wait(Lane::Done);
  }
}

// Threads must meet at the same barrier of the source, not only at any.
inline void barrier(int line) {
  if (!on_fibers) fail(DIVERGENT);
  Machine& m = *machine;
  if (m.line && m.line != line) fail(DIVERGENT);
  m.line = line;
  wait(Lane::AtBarrier);
}

template <class T> inline T shuffle(T value, unsigned from_lane) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  if (!on_fibers) fail(DIVERGENT);
  Machine& m = *machine;
  unsigned me = m.current, turn = ++m.fibers[me].shuffles;
  Offer* offers = m.offers[turn & 1];
  offers[me].shuffle = turn;
  memcpy(offers[me].value, &value, sizeof value);
  wait(Lane::AtShuffle);
  if (from_lane >= LANES) return value; // beyond the warp: a lane keeps its own
  unsigned other = me / LANES * LANES + from_lane;
  if (other < m.threads && offers[other].shuffle == turn)
    memcpy(&value, offers[other].value, sizeof value);
  else
    memset(&value, 0xff, sizeof value);
  return value;
}

inline size_t rounded_up(size_t n) { return (n + 63) / 64 * 64; }

// A piece of shared memory with a gap behind it that must keep its poison.
template <class T> inline T* fixed_array(unsigned place, size_t count) {
  Machine& m = *machine;
  place = 2 * place + (sizeof(T) == 8); // forms of a template are arrays of their own
  if (place >= Machine::ARRAYS) abort();
  Machine::Array& a = m.arrays[place];
  if (a.block != m.block) {
    size_t size = count * sizeof(T);
    m.fixed += size;
    if (m.fixed > FIXED_LIMIT || m.fixed + m.dynamic > shared_limit) fail(SHARED_SIZE);
    a = {m.block, m.used, m.used + size};
    m.used += rounded_up(size) + GAP;
    if (m.used > sizeof m.shared) fail(SHARED_SIZE);
  }
  return reinterpret_cast<T*>(m.shared + a.start);
}

inline void* dynamic_array() { return machine->shared; }

inline void new_block(Machine& m) {
  memset(m.shared, 0xff, m.dirty);
  m.block++;
  m.fixed = 0;
  m.used = rounded_up(m.dynamic) + GAP;
}

inline bool gaps_intact(Machine& m) {
  auto intact = [&m](size_t end) {
    for (size_t i = end; i < rounded_up(end) + GAP; i++)
      if (m.shared[i] != 0xff) return false;
    return true;
  };
  bool good = intact(m.dynamic);
  for (auto& a : m.arrays)
    if (a.block == m.block) good &= intact(a.end);
  m.dirty = m.used;
  return good;
}

inline Machine& own_machine() {
  static thread_local std::unique_ptr<Machine> owner;
  if (!owner) {
    owner.reset(new Machine);
    owner->dirty = sizeof owner->shared;
  }
  return *(machine = owner.get());
}

inline void prepare_fibers(Machine& m) {
  if (m.stacked < m.threads) {
    // Not zeroed: only the pages that a stack reaches are ever there.
    m.stacks.reset(new unsigned char[m.threads * STACKS]);
    m.stacked = m.threads;
  }
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(m.stacks.get(), m.threads * STACKS);
#endif
  for (unsigned t = 0; t < m.threads; t++) {
    unsigned char* bottom = m.stacks.get() + t * STACKS;
#ifdef EMULATOR_OWN_SWITCH
    auto top = reinterpret_cast<uintptr_t>(bottom + STACKS) & ~uintptr_t(63);
    void** sp = reinterpret_cast<void**>(top) - 8;
    for (int i = 0; i < 8; i++) sp[i] = nullptr;
    sp[6] = reinterpret_cast<void*>(live); // six registers below, no caller above
    m.fibers[t].context = sp;
#else
    Context& c = m.fibers[t].context;
    getcontext(&c);
    c.uc_stack.ss_sp = bottom;
    c.uc_stack.ss_size = STACKS;
    c.uc_link = nullptr;
    makecontext(&c, live, 0);
#endif
    m.fibers[t].index = {t % blockDim.x, t / blockDim.x % blockDim.y,
                         t / blockDim.x / blockDim.y};
  }
}

// A kernel with its argument list filled from pointers to the values.
template <auto kernel> struct Call;
template <class... A, void (*kernel)(A...)> struct Call<kernel> {
  template <size_t... I> static void unpack(void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
  }
  // One thread.
  static void one(void** arguments) { unpack(arguments, std::index_sequence_for<A...>()); }
  // All threads of a block, one after the other.
  static void all(void** arguments) {
    for (threadIdx.z = 0; threadIdx.z < blockDim.z; threadIdx.z++)
      for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) one(arguments);
  }
};

template <class F> inline void each_block(F run) {
  for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
        run();
        if (failure) return;
      }
}

inline void run_plain(void (*block)(void**), void** arguments) {
  jmp_buf exit;
  plain_exit = &exit;
  if (setjmp(exit) == 0) each_block([=] { block(arguments); });
}

inline void run_on_fibers(Machine& m, void (*body)(void**), void** arguments) {
  m.body = body;
  m.arguments = arguments;
  prepare_fibers(m);
  on_fibers = true;
  each_block([&m] {
    new_block(m);
    for (unsigned t = 0; t < m.threads; t++) {
      m.fibers[t].state = Lane::Ready;
      m.fibers[t].shuffles = 0;
    }
    memset(m.offers, 0, sizeof m.offers);
    m.line = 0;
    m.cursor = 0;
    m.warps_seen = 0;
    m.warp = m.falling ? (m.threads - 1) / LANES : 0;
    resume(m, m.home, (unsigned)pick(m));
    if (!gaps_intact(m) && !failure) failure = SHARED_SIZE;
  });
  on_fibers = false;
}

// Runs a kernel: `one` a thread of it, `all` a block without barriers.
inline int launch(void (*one)(void**), void (*all)(void**), bool barriers, uint3 grid, uint3 block,
                  size_t dynamic, void** arguments) {
  Machine& m = own_machine();
  size_t threads = (size_t)block.x * block.y * block.z;
  if (!grid.x || grid.x > 0x7fffffffu || !grid.y || grid.y > 65535 || !grid.z || grid.z > 65535 ||
      !threads || block.x > MAX_THREADS || block.y > MAX_THREADS || block.z > 64 ||
      threads > MAX_THREADS)
    return REFUSED;
  if (dynamic > shared_limit) return SHARED_SIZE;
  gridDim = grid;
  blockDim = block;
  m.threads = (unsigned)threads;
  m.dynamic = dynamic;
  m.falling = falling_order;
  failure = FINE;
  if (barriers)
    run_on_fibers(m, one, arguments);
  else
    run_plain(all, arguments);
  return failure;
}

} // namespace emulator

// ---- barriers and shuffles ------------------------------------------------------

#define __syncthreads() emulator::barrier(__LINE__)
inline void __syncwarp(unsigned = 0xffffffffu) { emulator::wait(emulator::Lane::AtShuffle); }
inline unsigned emulator_lane() { return emulator::machine->current % emulator::LANES; }
template <class T> inline T __shfl_xor_sync(unsigned, T value, int with) {
  return emulator::shuffle(value, emulator_lane() ^ (unsigned)with);
}
template <class T> inline T __shfl_down_sync(unsigned, T value, unsigned by) {
  return emulator::shuffle(value, emulator_lane() + by);
}
template <class T> inline T __shfl_sync(unsigned, T value, int from) {
  return emulator::shuffle(value, (unsigned)from % emulator::LANES);
}
