/* A scripted stand-in for the vendor's management library, for tests only. Compile with `cc -shared -fPIC`.
 *
 * It reads `<own file>.script` at every call, so that a test can change what it says while it is used. A script is lines
 * of `key value`; a device's keys carry its index:
 *
 *   count 2                                devices listed
 *   0.uuid GPU-…                           also 0.name, 0.pci, 0.capability (8.9), 0.total, 0.used, 0.reserved (bytes),
 *                                          0.utilization (percent), 0.temperature, 0.power (mW), 0.limit (mW),
 *                                          0.energy (mJ), 0.corrected, 0.uncorrected, 0.throttle (bits)
 *   0.process 4711 1048576                 one computing process with its bytes
 *   0.mig 2                                divided into two parts: 0.0.uuid, 0.0.name, 0.0.total, 0.1.…
 *   0.code 15                              every call about the device answers this
 *   code.nvmlDeviceGetTemperature 3        this call answers this code
 *   hang.nvmlDeviceGetMemoryInfo_v2 1      this call returns only when the line is gone
 *   event 1 0 8 79                         serial, device, type, data: delivered once, when the serial is new
 *
 * A figure that the script does not give is "not supported". */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned int uint;
typedef unsigned long long ull;
enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, TIMEOUT = 10 };

static char *read_script(void) {
    Dl_info info;
    char path[4096];
    if (!dladdr((void *)read_script, &info)) return NULL;
    snprintf(path, sizeof path, "%s.script", info.dli_fname);
    FILE *file = fopen(path, "r");
    if (!file) return NULL;
    char *text = calloc(1, 65536);
    if (fread(text, 1, 65535, file) == 0) text[0] = 0;
    fclose(file);
    return text;
}

/* The value of a key, or 0. */
static int look(const char *key, char *out, size_t size) {
    char *text = read_script(), *rest = text, *line;
    int found = 0;
    while (text && !found && (line = strsep(&rest, "\n"))) {
        size_t length = strlen(key);
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            snprintf(out, size, "%s", line + length + 1);
            found = 1;
        }
    }
    free(text);
    return found;
}

static int number(const char *key, ull *out) {
    char value[256];
    if (!look(key, value, sizeof value)) return 0;
    *out = strtoull(value, NULL, 10);
    return 1;
}

/* What every call does first: hang while told to, then answer what is told. */
static int enter(const char *call) {
    char key[128];
    ull value;
    snprintf(key, sizeof key, "hang.%s", call);
    while (number(key, &value)) usleep(5000);
    snprintf(key, sizeof key, "code.%s", call);
    return number(key, &value) ? (int)value : OK;
}

/* A device's handle is its index plus one; a part's is 1000 × (index + 1) + part + 1. */
typedef void *device_t;
static void prefix(device_t device, char *out, size_t size) {
    unsigned long handle = (unsigned long)device;
    if (handle >= 1000) snprintf(out, size, "%lu.%lu", handle / 1000 - 1, handle % 1000 - 1);
    else snprintf(out, size, "%lu", handle - 1);
}

static int of_device(const char *call, device_t device, const char *name, char *value, size_t size) {
    char key[128], at[32];
    ull code;
    int answer = enter(call);
    if (answer) return answer;
    prefix(device, at, sizeof at);
    snprintf(key, sizeof key, "%s.code", at);
    if (number(key, &code)) return (int)code;
    snprintf(key, sizeof key, "%s.%s", at, name);
    return look(key, value, size) ? OK : NOT_SUPPORTED;
}

static int number_of(const char *call, device_t device, const char *name, ull *out) {
    char value[256];
    int answer = of_device(call, device, name, value, sizeof value);
    if (!answer) *out = strtoull(value, NULL, 10);
    return answer;
}

#define UINT_CALL(call, name)                                   \
    int call(device_t device, uint *out) {                      \
        ull value;                                              \
        int answer = number_of(#call, device, name, &value);    \
        if (!answer) *out = (uint)value;                        \
        return answer;                                          \
    }
#define TEXT_CALL(call, name) \
    int call(device_t device, char *out, uint size) { return of_device(#call, device, name, out, size); }

int nvmlInit_v2(void) { return enter("nvmlInit_v2"); }
int nvmlShutdown(void) { return OK; }
int nvmlSystemGetDriverVersion(char *out, uint size) {
    int answer = enter("nvmlSystemGetDriverVersion");
    if (!answer && !look("driver", out, size)) answer = NOT_SUPPORTED;
    return answer;
}
int nvmlDeviceGetCount_v2(uint *out) {
    ull value = 0;
    int answer = enter("nvmlDeviceGetCount_v2");
    if (!answer && number("count", &value)) *out = (uint)value;
    return answer;
}
int nvmlDeviceGetHandleByIndex_v2(uint index, device_t *out) {
    char key[64];
    ull code;
    int answer = enter("nvmlDeviceGetHandleByIndex_v2");
    snprintf(key, sizeof key, "%u.handle", index);
    if (!answer && number(key, &code)) answer = (int)code;
    if (!answer) *out = (device_t)(unsigned long)(index + 1);
    return answer;
}
TEXT_CALL(nvmlDeviceGetUUID, "uuid")
TEXT_CALL(nvmlDeviceGetName, "name")
UINT_CALL(nvmlDeviceGetPowerUsage, "power")
UINT_CALL(nvmlDeviceGetEnforcedPowerLimit, "limit")
int nvmlDeviceGetTemperature(device_t device, int sensor, uint *out) {
    ull value;
    int answer = number_of("nvmlDeviceGetTemperature", device, "temperature", &value);
    (void)sensor;
    if (!answer) *out = (uint)value;
    return answer;
}
int nvmlDeviceGetTotalEnergyConsumption(device_t device, ull *out) {
    return number_of("nvmlDeviceGetTotalEnergyConsumption", device, "energy", out);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(device_t device, ull *out) {
    return number_of("nvmlDeviceGetCurrentClocksThrottleReasons", device, "throttle", out);
}
int nvmlDeviceGetTotalEccErrors(device_t device, int kind, int counter, ull *out) {
    (void)counter;
    return number_of("nvmlDeviceGetTotalEccErrors", device, kind ? "uncorrected" : "corrected", out);
}

struct pci { char legacy[16]; uint domain, bus, device, id, subsystem; char bus_id[32]; };
int nvmlDeviceGetPciInfo_v3(device_t device, struct pci *out) {
    memset(out, 0, sizeof *out);
    return of_device("nvmlDeviceGetPciInfo_v3", device, "pci", out->bus_id, sizeof out->bus_id);
}
int nvmlDeviceGetCudaComputeCapability(device_t device, int *major, int *minor) {
    char value[64];
    int answer = of_device("nvmlDeviceGetCudaComputeCapability", device, "capability", value, sizeof value);
    if (!answer && sscanf(value, "%d.%d", major, minor) != 2) answer = INVALID;
    return answer;
}
struct memory { uint version; ull total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(device_t device, struct memory *out) {
    int answer = number_of("nvmlDeviceGetMemoryInfo_v2", device, "total", &out->total);
    if (answer) return answer;
    if (number_of("", device, "used", &out->used)) out->used = 0;
    if (number_of("", device, "reserved", &out->reserved)) out->reserved = 0;
    out->free = out->total - out->used - out->reserved;
    return OK;
}
struct utilization { uint gpu, memory; };
int nvmlDeviceGetUtilizationRates(device_t device, struct utilization *out) {
    ull value;
    int answer = number_of("nvmlDeviceGetUtilizationRates", device, "utilization", &value);
    if (!answer) *out = (struct utilization){(uint)value, (uint)value};
    return answer;
}
struct process { uint pid; ull bytes; uint instance, compute_instance; };
int nvmlDeviceGetComputeRunningProcesses_v3(device_t device, uint *count, struct process *out) {
    char value[128];
    uint room = *count, pid;
    ull bytes;
    int answer = of_device("nvmlDeviceGetComputeRunningProcesses_v3", device, "process", value, sizeof value);
    if (answer == NOT_SUPPORTED) return *count = 0, OK;
    if (answer) return answer;
    *count = 1;
    if (!out || room < 1) return TOO_SMALL;
    if (sscanf(value, "%u %llu", &pid, &bytes) != 2) return INVALID;
    *out = (struct process){pid, bytes, ~0u, ~0u};
    return OK;
}

int nvmlDeviceGetMigMode(device_t device, uint *now, uint *pending) {
    ull parts;
    int answer = number_of("nvmlDeviceGetMigMode", device, "mig", &parts);
    if (!answer) *now = *pending = parts > 0;
    return answer;
}
int nvmlDeviceGetMaxMigDeviceCount(device_t device, uint *out) {
    (void)device;
    *out = 7;
    return enter("nvmlDeviceGetMaxMigDeviceCount");
}
int nvmlDeviceGetMigDeviceHandleByIndex(device_t device, uint index, device_t *out) {
    ull parts = 0;
    int answer = number_of("nvmlDeviceGetMigDeviceHandleByIndex", device, "mig", &parts);
    if (answer) return answer;
    if (index >= parts) return NOT_FOUND;
    *out = (device_t)(1000 * (unsigned long)device + index + 1);
    return OK;
}

struct event { device_t device; ull type, data; uint instance, compute_instance; };
int nvmlDeviceGetSupportedEventTypes(device_t device, ull *out) {
    char value[64];
    int answer = of_device("nvmlDeviceGetSupportedEventTypes", device, "uuid", value, sizeof value);
    if (!answer) *out = 1 | 2 | 8;
    return answer;
}
int nvmlDeviceRegisterEvents(device_t device, ull types, void *set) {
    char value[64];
    (void)types, (void)set;
    return of_device("nvmlDeviceRegisterEvents", device, "uuid", value, sizeof value);
}
int nvmlEventSetCreate(void **out) {
    *out = (void *)1;
    return enter("nvmlEventSetCreate");
}
int nvmlEventSetFree(void *set) {
    (void)set;
    return OK;
}
int nvmlEventSetWait_v2(void *set, struct event *out, uint timeout_ms) {
    static ull delivered;
    char value[128];
    ull serial, index, type, data;
    (void)set;
    for (uint waited = 0;; waited += 5) {
        int answer = enter("nvmlEventSetWait_v2");
        if (answer) return answer;
        if (look("event", value, sizeof value) && sscanf(value, "%llu %llu %llu %llu", &serial, &index, &type, &data) == 4 &&
            serial > delivered) {
            delivered = serial;
            *out = (struct event){(device_t)(unsigned long)(index + 1), type, data, ~0u, ~0u};
            return OK;
        }
        if (waited >= timeout_ms) return TIMEOUT;
        usleep(5000);
    }
}
