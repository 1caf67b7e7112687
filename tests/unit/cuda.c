/* A stand-in for NVIDIA's libcuda.so.1, simulated: copies take the time that H2D and PEER (GB/s) leave them, on
   GPU number SLOW a tenth of that. Addresses have more than 32 bits, so that a caller who cuts them is caught. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT 0x7100000000000ULL
#define MEMORY 0x7200000000000ULL
#define HOST 0x7300000000000ULL
#define EVENT 0x7400000000000ULL
#define OF(base, value) (((uint64_t)(value) >> 32) == ((base) >> 32))

static double now, marks[64]; /* milliseconds */
static int events, current, reachable[8][8];

static double number(const char *name, double otherwise) {
  const char *told = getenv(name);
  return told ? atof(told) : otherwise;
}
static int take(size_t bytes, double gb_s, int gpu) {
  now += bytes / gb_s / 1e6 * (gpu == (int)number("SLOW", -1) ? 10 : 1);
  return 0;
}
int cuInit(unsigned flags) { return flags ? 1 : (int)number("CUDA_STATUS", 0); }
int cuGetErrorString(int status, const char **words) {
  *words = status == 100 ? "no CUDA-capable device is detected" : "invalid argument";
  return 0;
}
int cuDeviceGetCount(int *count) { return *count = (int)number("GPUS", 4), 0; }
int cuDeviceGet(int *device, int place) { return *device = place, 0; }
int cuDeviceGetPCIBusId(char *text, int size, int device) {
  static const char *buses[] = {"0002:01:00.0", "0003:01:00.0", "0006:01:00.0", "0007:01:00.0"};
  return strncpy(text, buses[(device + (int)number("FIRST", 0)) % 4], size), 0;
}
int cuDevicePrimaryCtxRetain(uint64_t *context, int device) { return *context = CONTEXT + device, 0; }
int cuCtxSetCurrent(uint64_t context) { return current = context & 7, !OF(CONTEXT, context); }
int cuMemAlloc_v2(uint64_t *memory, size_t bytes) { return *memory = MEMORY + current, bytes < 1 << 20; }
int cuMemHostAlloc(uint64_t *memory, size_t bytes, unsigned flags) { return *memory = HOST, bytes < 1 << 20 || flags; }
int cuMemFreeHost(uint64_t memory) { return memory != HOST; }
int cuMemcpyHtoDAsync_v2(uint64_t target, uint64_t host, size_t bytes, void *stream) {
  if (!OF(MEMORY, target) || host != HOST || stream) return 1;
  return take(bytes, number("H2D", 33), target & 7);
}
int cuMemcpyPeerAsync(uint64_t to, uint64_t at, uint64_t from, uint64_t by, size_t bytes, void *stream) {
  if (!OF(MEMORY, to) || !OF(MEMORY, from) || !OF(CONTEXT, at) || !OF(CONTEXT, by) || stream) return 1;
  return take(bytes, reachable[by & 7][at & 7] ? number("PEER", 36) : 3, to & 7);
}
int cuDeviceCanAccessPeer(int *can, int device, int other) { return *can = device / 2 == other / 2, 0; }
int cuCtxEnablePeerAccess(uint64_t context, unsigned flags) {
  return reachable[current][context & 7] = 1, !OF(CONTEXT, context) || flags;
}
int cuEventCreate(uint64_t *event, unsigned flags) { return *event = EVENT + events++ % 64, flags; }
int cuEventRecord(uint64_t event, void *stream) { return marks[event & 63] = now, !OF(EVENT, event) || stream; }
int cuEventSynchronize(uint64_t event) { return !OF(EVENT, event); }
int cuEventElapsedTime(float *ms, uint64_t begin, uint64_t end) {
  return *ms = (float)(marks[end & 63] - marks[begin & 63]), 0;
}
