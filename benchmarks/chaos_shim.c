/* Kills this process, or makes a call fail, at a chosen system call on files below a folder.
 *
 * benchmarks/chaos.py compiles it and loads it by LD_PRELOAD:
 *   cc -shared -fPIC -O1 -o shim.so chaos_shim.c -ldl
 * chaos_arm(folder, at, span, mode) counts the calls from then on. Modes: 0 only counts; 1 kills
 * before call number `at`, 2 after it, 3 kills in the middle of a write; 4 lets the `span` calls
 * from `at` on fail with ENOSPC, 5 with EIO; 6 shortens those that write. It writes a line with the
 * call and the file to the standard error output. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, BEFORE, AFTER, TORN, NO_SPACE, IO_ERROR, SHORT };

static char folder[PATH_MAX];
static atomic_long calls;
static long first, last;
static int mode;
static atomic_int armed;

void chaos_arm(const char *path, long at, long span, int how) {
    strncpy(folder, path, sizeof folder - 1);
    first = at, last = at + span, mode = how;
    atomic_store(&calls, 0);
    atomic_store(&armed, 1);
}

long chaos_count(void) { return atomic_load(&calls); }

/* The file that the current call of this thread is on. */
static __thread char target[PATH_MAX];

static int below(const char *path) {
    if (!path || strncmp(path, folder, strlen(folder))) return 0;
    snprintf(target, sizeof target, "%s", path + strlen(folder));
    return 1;
}

static int below_fd(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return below(path);
}

static int below_at(int fd, const char *path) {
    if (!path || path[0] == '/' || fd == AT_FDCWD) return below(path);
    if (!below_fd(fd)) return 0;
    size_t size = strlen(target);
    snprintf(target + size, sizeof target - size, "/%s", path);
    return 1;
}

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

static void tell(const char *call, long number) {
    dprintf(2, "\n%s: call %ld, %s %s\n", mode < NO_SPACE ? "KILLED" : "FAILED", number, call,
            target);
}

/* Returns the mode if it applies to this call, else COUNT. */
static int meet(const char *call, int ours) {
    if (!atomic_load(&armed) || !ours) return COUNT;
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (mode == COUNT || number < first || number >= last) return COUNT;
    if (mode < NO_SPACE || number == first) tell(call, number);
    if (mode == BEFORE) die();
    return mode;
}

static int fails(int met) {
    if (met != NO_SPACE && met != IO_ERROR) return 0;
    errno = met == NO_SPACE ? ENOSPC : EIO;
    return 1;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define CALL(ours, call) do { \
    int met = meet(__func__, ours); \
    if (fails(met)) return -1; \
    __typeof__(call) result = call; \
    if (met == AFTER || met == TORN) die(); \
    return result; \
} while (0)

#define WRITE(ours, size, call_whole, call_half) do { \
    int met = meet(__func__, ours); \
    if (fails(met)) return -1; \
    if ((met == TORN || met == SHORT) && size > 1) { \
        ssize_t half = call_half; \
        if (met == TORN) die(); \
        return half; \
    } \
    ssize_t result = call_whole; \
    if (met == AFTER || met == TORN) die(); \
    return result; \
} while (0)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    WRITE(below_fd(fd), size, real(fd, data, size), real(fd, data, size / 2));
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    WRITE(below_fd(fd), size, real(fd, data, size, at), real(fd, data, size / 2, at));
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    WRITE(below_fd(fd), size, real(fd, data, size, at), real(fd, data, size / 2, at));
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    WRITE(below_fd(fd), count, real(fd, parts, count), real(fd, parts, count / 2));
}
int fsync(int fd) { REAL(fsync); CALL(below_fd(fd), real(fd)); }
int fdatasync(int fd) { REAL(fdatasync); CALL(below_fd(fd), real(fd)); }
int ftruncate(int fd, off_t size) { REAL(ftruncate); CALL(below_fd(fd), real(fd, size)); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); CALL(below_fd(fd), real(fd, size)); }
int rename(const char *from, const char *to) { REAL(rename); CALL(below(to), real(from, to)); }
int renameat(int a, const char *from, int b, const char *to) {
    REAL(renameat);
    CALL(below_at(b, to), real(a, from, b, to));
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL(renameat2);
    CALL(below_at(b, to), real(a, from, b, to, flags));
}
int mkdir(const char *path, mode_t bits) { REAL(mkdir); CALL(below(path), real(path, bits)); }
int rmdir(const char *path) { REAL(rmdir); CALL(below(path), real(path)); }
int unlink(const char *path) { REAL(unlink); CALL(below(path), real(path)); }
int unlinkat(int fd, const char *path, int flags) {
    REAL(unlinkat);
    CALL(below_at(fd, path), real(fd, path, flags));
}

#define OPEN(name, ours, ...) do { \
    mode_t bits = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        bits = va_arg(rest, mode_t); \
        va_end(rest); \
    } \
    if (!(flags & O_CREAT)) return real(__VA_ARGS__, bits); \
    CALL(ours, real(__VA_ARGS__, bits)); \
} while (0)

int open(const char *path, int flags, ...) { REAL(open); OPEN(open, below(path), path, flags); }
int open64(const char *path, int flags, ...) {
    REAL(open64);
    OPEN(open64, below(path), path, flags);
}
int openat(int fd, const char *path, int flags, ...) {
    REAL(openat);
    OPEN(openat, below_at(fd, path), fd, path, flags);
}
int openat64(int fd, const char *path, int flags, ...) {
    REAL(openat64);
    OPEN(openat64, below_at(fd, path), fd, path, flags);
}
