// All kernels as a library for the CPU:
//   g++ -std=c++17 -O2 -ffp-contract=off -shared -fPIC -o libkernels.so emulator.cpp
#include "emulator.h"

#include "all.cu"

namespace {

struct Kernel {
  const char* name;
  void (*one)(void**);
  void (*all)(void**);
  bool barriers;
};

const Kernel KERNELS[] = {
#define KERNEL(name, barriers)                                                                     \
  {#name, emulator::Call<name>::one, emulator::Call<name>::all, barriers},
#include "list.h"
#undef KERNEL
};

} // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// Runs a kernel to its end; arguments as for cuLaunchKernel, a pointer to each value.
// Returns one of emulator::Failure.
EXPORT int emulated_launch(const char* name, const unsigned grid[3], const unsigned block[3],
                           unsigned shared_bytes, void** arguments) {
  for (const Kernel& k : KERNELS)
    if (strcmp(k.name, name) == 0)
      return emulator::launch(k.one, k.all, k.barriers, {grid[0], grid[1], grid[2]},
                              {block[0], block[1], block[2]}, shared_bytes, arguments);
  return emulator::UNKNOWN;
}

// The names, each followed by a newline.
EXPORT const char* emulated_kernels() {
  return
#define KERNEL(name, barriers) #name "\n"
#include "list.h"
#undef KERNEL
      ;
}

// Whether the lanes of a warp and the warps of a block run from the last to the first.
EXPORT void emulated_order(int falling) { emulator::falling_order = falling; }

// Shared memory that a block may have: 48 KB at first, 227 KB at most, as a GPU asks
// to be told of more (cuFuncSetAttribute). 0, or 3 if that is too much.
EXPORT int emulated_shared_limit(unsigned bytes) {
  if (bytes > emulator::MAX_SHARED) return emulator::SHARED_SIZE;
  emulator::shared_limit = bytes;
  return emulator::FINE;
}
