/* A disk on which one write fails: loaded into a program by LD_PRELOAD.

   DISK_UNDER   the folder whose writes are counted
   DISK_STATE   a file of three numbers of 64 bits that all processes share: the count so far, which write fails
                (0: none), and for how many writes from there on
   DISK_LOG     a file that gets a line for the write that failed

   A write is whatever can be refused for want of room: opening a file for writing, writing, lengthening, flushing,
   renaming, linking and making a folder. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static volatile int64_t *state;
static const char *under, *record;

static void begin(void) {
    if (state) return;
    const char *path = getenv("DISK_STATE");
    under = getenv("DISK_UNDER");
    record = getenv("DISK_LOG");
    if (!path || !under) return;
    int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int file = real_open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    void *at = mmap(NULL, 24, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (at != MAP_FAILED) state = at;
}

__attribute__((constructor)) static void loaded(void) { begin(); }

static int fails(const char *call, const char *path) {
    if (!state || !path || strncmp(path, under, strlen(under)) != 0) return 0;
    int64_t number = __sync_add_and_fetch(&state[0], 1);
    if (!state[1] || number < state[1] || number >= state[1] + state[2]) return 0;
    if (record) {
        int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
        ssize_t (*real_write)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
        int file = real_open(record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%ld %s %s\n", (long)number, call, path);
        if (file >= 0) { if (real_write(file, line, length)) {} close(file); }
    }
    errno = ENOSPC;
    return 1;
}

static const char *named(int file, char *room) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, room, PATH_MAX - 1);
    if (length < 0) return NULL;
    room[length] = 0;
    return room;
}

static const char *resolved(int folder, const char *path, char *room) {
    if (!path || path[0] == '/') return path;
    char before[PATH_MAX];
    if (folder == AT_FDCWD) { if (!getcwd(before, sizeof before)) return NULL; }
    else if (!named(folder, before)) return NULL;
    if (snprintf(room, PATH_MAX, "%s/%s", before, path) >= PATH_MAX) return NULL;
    return room;
}

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define WRITES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC))
#define OF_FILE(name, result, parameters, arguments) \
    result name parameters { REAL(name); char room[PATH_MAX]; if (fails(#name, named(file, room))) return -1; return real arguments; }
#define OF_PATH(name, parameters, folder, path, arguments) \
    int name parameters { REAL(name); char room[PATH_MAX]; if (fails(#name, resolved(folder, path, room))) return -1; return real arguments; }
#define OPENS(name, parameters, folder, call) \
    int name parameters { \
        REAL(name); char room[PATH_MAX]; mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
        if (WRITES(flags) && fails(#name, resolved(folder, path, room))) return -1; \
        return call; }

OPENS(open, (const char *path, int flags, ...), AT_FDCWD, real(path, flags, mode))
OPENS(open64, (const char *path, int flags, ...), AT_FDCWD, real(path, flags, mode))
OPENS(openat, (int folder, const char *path, int flags, ...), folder, real(folder, path, flags, mode))
OPENS(openat64, (int folder, const char *path, int flags, ...), folder, real(folder, path, flags, mode))
OF_FILE(write, ssize_t, (int file, const void *content, size_t size), (file, content, size))
OF_FILE(pwrite, ssize_t, (int file, const void *content, size_t size, off_t at), (file, content, size, at))
OF_FILE(pwrite64, ssize_t, (int file, const void *content, size_t size, off64_t at), (file, content, size, at))
OF_FILE(writev, ssize_t, (int file, const struct iovec *parts, int count), (file, parts, count))
OF_FILE(fsync, int, (int file), (file))
OF_FILE(fdatasync, int, (int file), (file))
OF_FILE(ftruncate, int, (int file, off_t size), (file, size))
OF_FILE(ftruncate64, int, (int file, off64_t size), (file, size))
OF_PATH(mkdir, (const char *path, mode_t mode), AT_FDCWD, path, (path, mode))
OF_PATH(mkdirat, (int folder, const char *path, mode_t mode), folder, path, (folder, path, mode))
OF_PATH(rename, (const char *from, const char *path), AT_FDCWD, path, (from, path))
OF_PATH(renameat, (int before, const char *from, int folder, const char *path), folder, path, (before, from, folder, path))
OF_PATH(link, (const char *from, const char *path), AT_FDCWD, path, (from, path))
OF_PATH(linkat, (int before, const char *from, int folder, const char *path, int flags), folder, path, (before, from, folder, path, flags))
OF_PATH(symlink, (const char *from, const char *path), AT_FDCWD, path, (from, path))

/* posix_fallocate returns the error instead of setting errno */
int posix_fallocate(int file, off_t at, off_t size) {
    REAL(posix_fallocate); char room[PATH_MAX];
    return fails("posix_fallocate", named(file, room)) ? ENOSPC : real(file, at, size);
}
