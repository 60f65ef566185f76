/* A stand-in for an ONNX Runtime of long ago, for tests only. Compile with `cc -shared -fPIC`.
 *
 * It says its version, and has no API of the number that it is asked for, as the real one has none. */
#include <stddef.h>
#include <stdint.h>

struct base {
    const void *(*get_api)(uint32_t number);
    const char *(*version)(void);
};

static const void *get_api(uint32_t number) {
    (void)number;
    return NULL;
}

static const char *version(void) { return "1.9.1"; }

const struct base *OrtGetApiBase(void) {
    static const struct base base = { get_api, version };
    return &base;
}
