/* A stand-in for NVIDIA's driver in host memory, with the driver's signatures: one GPU of compute capability 8.9. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int context, stream, graph, executable, launches, capturing;
static const void *expected_stream = &stream;

int cuInit(unsigned flags) { return flags == 0 ? 0 : 1; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Stand-in", size); return device != 40; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1;
    return device != 40;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)24 << 30; return device != 40; }
int cuDevicePrimaryCtxRetain(void **found, int device) { *found = &context; return device != 40; }
int cuCtxSetCurrent(void *given) { return given != &context; }
int cuStreamCreate(void **found, unsigned flags) { *found = &stream; return flags != 1; }
int cuMemAlloc_v2(uint64_t *address, size_t size) {
    if (size > ((size_t)1 << 40)) return 2;
    *address = (uint64_t)(uintptr_t)malloc(size);
    return 0;
}
int cuMemFree_v2(uint64_t address) { free((void *)(uintptr_t)address); return 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *on) {
    memcpy((void *)(uintptr_t)to, from, size);
    return on != expected_stream;
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *on) {
    memcpy(to, (void *)(uintptr_t)from, size);
    return on != expected_stream;
}
int cuStreamSynchronize(void *on) { return on != expected_stream; }
int cuStreamBeginCapture_v2(void *on, int mode) { capturing = 1; return on != expected_stream || mode != 1; }
int cuStreamEndCapture(void *on, void **found) {
    int was = capturing;
    capturing = 0;
    *found = &graph;
    return on != expected_stream || !was;
}
int cuGraphInstantiateWithFlags(void **found, void *given, unsigned long long flags) {
    *found = &executable;
    return given != &graph || flags != 0;
}
int cuGraphDestroy(void *given) { return given != &graph; }
int cuGraphLaunch(void *given, void *on) { launches++; return given != &executable || on != expected_stream; }
int cuGraphExecDestroy(void *given) { return given != &executable; }
int cuGetErrorString(int error, const char **text) {
    *text = error == 2 ? "out of memory" : "invalid value";
    return 0;
}
int launched(void) { return launches; }
