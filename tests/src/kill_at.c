// Loaded before the C library, it kills its process just before the change of the file system that
// KILL_AT says: 1 is the first. What is done past the C library does not count.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void change(void) {
    static atomic_int made;
    const char *at = getenv("KILL_AT");
    if (at != NULL && atomic_fetch_add(&made, 1) + 1 == atoi(at)) {
        kill(getpid(), SIGKILL);
    }
}

#define CHANGE(name, parameters, arguments)                                   \
    int name parameters {                                                     \
        int(*next) parameters = (int(*) parameters)dlsym(RTLD_NEXT, #name);   \
        change();                                                             \
        return next arguments;                                                \
    }

CHANGE(mkdir, (const char *path, mode_t mode), (path, mode))
CHANGE(rename, (const char *from, const char *to), (from, to))
CHANGE(symlink, (const char *target, const char *path), (target, path))
CHANGE(link, (const char *from, const char *to), (from, to))
CHANGE(unlink, (const char *path), (path))
CHANGE(unlinkat, (int dir, const char *path, int flags), (dir, path, flags))
CHANGE(rmdir, (const char *path), (path))
CHANGE(fdatasync, (int file), (file))
CHANGE(syncfs, (int file), (file))

int open64(const char *path, int flags, ...) {
    int (*next)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (flags & O_CREAT) {
        change();
    }
    return next(path, flags, mode);
}
