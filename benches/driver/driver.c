/* The workloads of the benchmark that consist of single calls, done with as little of their own cost as can be.
 *
 *   driver OPERATION PATH [key=value ...]
 *
 * Prints one line of JSON: operations done, bytes, seconds, latencies in microseconds, and whether the time or the
 * number was the limit. The first call that fails, or that reads other bytes than were written, ends the run with
 * `"error"` and exit code 1. Every 4 KiB block of a file begins with a stamp made of its place, by which reads know
 * what must be there. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, PER_FOLDER = 200, KEPT = 1 << 20 };

static const char *root;
static long count = 1000, threads = 1, size = BLOCK, io = BLOCK, first = 0;
static double seconds = 1e9;
static uint64_t seed = 1;
static const char *suffix = "f";

static _Atomic long next_index, done_count;
static _Atomic int stop, timed_out;
static struct timespec began;
static double deadline;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char failure[512];
static float *latencies;
static _Atomic long latency_count;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)(t.tv_sec - began.tv_sec) + (double)(t.tv_nsec - began.tv_nsec) / 1e9;
}

__attribute__((format(printf, 1, 2))) static void fail(const char *format, ...) {
    int error = errno;
    pthread_mutex_lock(&mutex);
    if (!failure[0]) {
        va_list list;
        va_start(list, format);
        int n = vsnprintf(failure, sizeof failure, format, list);
        va_end(list);
        if (error && n > 0 && n < (int)sizeof failure) snprintf(failure + n, sizeof failure - (size_t)n, ": %s", strerror(error));
    }
    pthread_mutex_unlock(&mutex);
    stop = 1;
}

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

/* --- data ---------------------------------------------------------------------------------------------------- */

/* Stamps the blocks of a buffer that goes to this offset; the rest of each block is noise that no store can squeeze. */
static void stamp(char *buffer, long length, uint64_t offset) {
    for (long at = 0; at < length; at += BLOCK) {
        uint64_t value = mix(offset + (uint64_t)at);
        memcpy(buffer + at, &value, sizeof value);
    }
}

static int stamped(const char *buffer, long length, uint64_t offset) {
    for (long at = 0; at < length; at += BLOCK) {
        uint64_t value = mix(offset + (uint64_t)at), found;
        memcpy(&found, buffer + at, sizeof found);
        if (found != value) return 0;
    }
    return 1;
}

static char *noise(long length, uint64_t from) {
    uint64_t *words;
    long whole = (length + BLOCK - 1) / BLOCK * BLOCK;
    if (posix_memalign((void **)&words, BLOCK, (size_t)whole)) abort();
    for (long i = 0; i < whole / 8; i++) words[i] = mix(from + (uint64_t)i);
    return (char *)words;
}

static int write_all(int fd, const char *buffer, long length, off_t offset) {
    while (length > 0) {
        ssize_t n = pwrite(fd, buffer, (size_t)length, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        buffer += n, length -= n, offset += n;
    }
    return 0;
}

static long read_all(int fd, char *buffer, long length, off_t offset) {
    long got = 0;
    while (got < length) {
        ssize_t n = pread(fd, buffer + got, (size_t)(length - got), offset + got);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        if (n == 0) break;
        got += n;
    }
    return got;
}

/* --- the clock and the counter ------------------------------------------------------------------------------- */

/* The next operation's number, or -1 when number or time is up. One is always done: slow is not the same as broken. */
static long take(void) {
    if (stop) return -1;
    if (next_index && now() >= deadline) {
        timed_out = 1;
        return -1;
    }
    long index = atomic_fetch_add(&next_index, 1);
    return index < count ? index : -1;
}

static void finished(double since) {
    double took = now() - since;
    atomic_fetch_add(&done_count, 1);
    long at = atomic_fetch_add(&latency_count, 1);
    if (at < KEPT) latencies[at] = (float)(took * 1e6);
}

static void name_of(char *out, size_t room, long index, const char *end) {
    snprintf(out, room, "%s/d%04ld/%06ld.%s", root, index / PER_FOLDER, index, end);
}

/* Some order in which each of the files comes once in a round, and neighbours do not follow each other. */
static long scattered(long index, long files) {
    uint64_t step = 7919;
    while (files % (long)step == 0) step += 2;
    return (long)(((uint64_t)index * step + seed * 31) % (uint64_t)files);
}

/* --- operations: each a loop of one thread ------------------------------------------------------------------- */

static long files = 0;

static void *op_create(void *unused) {
    (void)unused;
    char path[4096], *data = noise(size, seed);
    stamp(data, size, 0);
    for (long i; (i = take()) >= 0;) {
        name_of(path, sizeof path, first + i, suffix);
        double since = now();
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
        if (fd < 0) { fail("creating %s", path); break; }
        if (write_all(fd, data, size, 0)) { fail("writing %s", path); close(fd); break; }
        if (close(fd)) { fail("closing %s", path); break; }
        finished(since);
    }
    free(data);
    return NULL;
}

/* Every file written and synced; what is timed is the sync alone, but the whole loop counts for the rate. */
static void *op_createsync(void *unused) {
    (void)unused;
    char path[4096], *data = noise(size, seed);
    stamp(data, size, 0);
    for (long i; (i = take()) >= 0;) {
        name_of(path, sizeof path, first + i, suffix);
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
        if (fd < 0) { fail("creating %s", path); break; }
        if (write_all(fd, data, size, 0)) { fail("writing %s", path); close(fd); break; }
        double since = now();
        if (fsync(fd)) { fail("syncing %s", path); close(fd); break; }
        finished(since);
        if (close(fd)) { fail("closing %s", path); break; }
    }
    free(data);
    return NULL;
}

static void *op_openread(void *unused) {
    (void)unused;
    char path[4096], *data = noise(size, 0);
    for (long i; (i = take()) >= 0;) {
        name_of(path, sizeof path, scattered(i, files), suffix);
        double since = now();
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) { fail("opening %s", path); break; }
        long n = read_all(fd, data, size, 0);
        if (n != size) { fail(n < 0 ? "reading %s" : "%s is too short", path); close(fd); break; }
        close(fd);
        finished(since);
        if (!stamped(data, size, 0)) { errno = 0; fail("wrong bytes in %s", path); break; }
    }
    free(data);
    return NULL;
}

static void *op_stat(void *unused) {
    (void)unused;
    char path[4096];
    struct stat st;
    for (long i; (i = take()) >= 0;) {
        name_of(path, sizeof path, scattered(i, files), suffix);
        double since = now();
        if (lstat(path, &st)) { fail("stat of %s", path); break; }
        finished(since);
        if (st.st_size != size) { errno = 0; fail("%s is %ld bytes long, not %ld", path, (long)st.st_size, size); break; }
    }
    return NULL;
}

static void *op_rename(void *unused) {
    (void)unused;
    char path[4096], new[4096];
    for (long i; (i = take()) >= 0;) {
        name_of(path, sizeof path, first + i, suffix);
        name_of(new, sizeof new, first + i, "r");
        double since = now();
        if (rename(path, new)) { fail("renaming %s", path); break; }
        finished(since);
    }
    return NULL;
}

static void *op_unlink(void *unused) {
    (void)unused;
    char path[4096];
    for (long i; (i = take()) >= 0;) {
        name_of(path, sizeof path, first + i, suffix);
        double since = now();
        if (unlink(path)) { fail("removing %s", path); break; }
        finished(since);
    }
    return NULL;
}

static void *op_mkdir(void *unused) {
    (void)unused;
    char path[4096];
    for (long i; (i = take()) >= 0;) {
        snprintf(path, sizeof path, "%s/m%06ld", root, first + i);
        double since = now();
        if (mkdir(path, 0755)) { fail("making %s", path); break; }
        finished(since);
    }
    return NULL;
}

static void *op_rmdir(void *unused) {
    (void)unused;
    char path[4096];
    for (long i; (i = take()) >= 0;) {
        snprintf(path, sizeof path, "%s/m%06ld", root, first + i);
        double since = now();
        if (rmdir(path)) { fail("removing %s", path); break; }
        finished(since);
    }
    return NULL;
}

/* One thread writes the folders that name_of wants. */
static void *op_folders(void *unused) {
    (void)unused;
    char path[4096];
    for (long i; (i = take()) >= 0;) {
        snprintf(path, sizeof path, "%s/d%04ld", root, i);
        double since = now();
        if (mkdir(path, 0755) && errno != EEXIST) { fail("making %s", path); break; }
        finished(since);
    }
    return NULL;
}

/* Lists each of the folders that name_of wants; what counts is the names. */
static void *op_readdir(void *unused) {
    (void)unused;
    char path[4096];
    for (long i; (i = take()) >= 0;) {
        long left = files - i * PER_FOLDER, expected = left < PER_FOLDER ? left : PER_FOLDER, names = 0;
        snprintf(path, sizeof path, "%s/d%04ld", root, i);
        double since = now();
        DIR *dir = opendir(path);
        if (!dir) { fail("opening %s", path); break; }
        errno = 0;
        for (struct dirent *entry; (entry = readdir(dir));) names += entry->d_name[0] != '.';
        int error = errno;
        closedir(dir);
        errno = error;
        if (error) { fail("listing %s", path); break; }
        finished(since);
        atomic_fetch_add(&done_count, names - 1);
        if (names != expected) { fail("%s has %ld names, not %ld", path, names, expected); break; }
    }
    return NULL;
}

/* Appends with a sync each, one file a thread. */
static void *op_appendsync(void *which) {
    char path[4096], *data = noise(io, seed);
    snprintf(path, sizeof path, "%s/append.%ld", root, (long)(intptr_t)which);
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0) { fail("creating %s", path); return NULL; }
    for (uint64_t at = 0; take() >= 0; at += (uint64_t)io) {
        stamp(data, io, at);
        double since = now();
        if (write_all(fd, data, io, (off_t)at)) { fail("writing %s", path); break; }
        if (fsync(fd)) { fail("syncing %s", path); break; }
        finished(since);
    }
    if (close(fd)) fail("closing %s", path);
    free(data);
    return NULL;
}

static void *op_randread(void *unused) {
    (void)unused;
    char *data = noise(io, 0);
    int fd = open(root, O_RDONLY | O_CLOEXEC);
    if (fd < 0) { fail("opening %s", root); return NULL; }
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    for (long i; (i = take()) >= 0;) {
        uint64_t offset = mix(seed * 1000003 + (uint64_t)i) % (uint64_t)(size / io) * (uint64_t)io;
        double since = now();
        long n = read_all(fd, data, io, (off_t)offset);
        if (n != io) { fail(n < 0 ? "reading %s" : "%s is too short", root); break; }
        finished(since);
        if (!stamped(data, io, offset)) { errno = 0; fail("wrong bytes in %s at %llu", root, (unsigned long long)offset); break; }
    }
    close(fd);
    free(data);
    return NULL;
}

static void *op_randwrite(void *unused) {
    (void)unused;
    char *data = noise(io, seed);
    int fd = open(root, O_WRONLY | O_CLOEXEC);
    if (fd < 0) { fail("opening %s", root); return NULL; }
    for (long i; (i = take()) >= 0;) {
        uint64_t offset = mix(seed * 1000003 + (uint64_t)i) % (uint64_t)(size / io) * (uint64_t)io;
        stamp(data, io, offset);
        double since = now();
        if (write_all(fd, data, io, (off_t)offset)) { fail("writing %s", root); break; }
        finished(since);
    }
    if (fsync(fd)) fail("syncing %s", root);
    if (close(fd)) fail("closing %s", root);
    free(data);
    return NULL;
}

static void *op_seqwrite(void *unused) {
    (void)unused;
    char *data = noise(io, seed);
    int fd = open(root, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    if (fd < 0) { fail("creating %s", root); return NULL; }
    for (long i; (i = take()) >= 0;) {
        stamp(data, io, (uint64_t)i * (uint64_t)io);
        double since = now();
        if (write_all(fd, data, io, i * io)) { fail("writing %s", root); break; }
        finished(since);
    }
    if (!stop && fsync(fd)) fail("syncing %s", root);
    if (close(fd)) fail("closing %s", root);
    free(data);
    return NULL;
}

static void *op_seqread(void *unused) {
    (void)unused;
    char *data = noise(io, 0);
    int fd = open(root, O_RDONLY | O_CLOEXEC);
    if (fd < 0) { fail("opening %s", root); return NULL; }
    for (long i; (i = take()) >= 0;) {
        double since = now();
        long n = read_all(fd, data, io, i * io);
        if (n != io) { fail(n < 0 ? "reading %s" : "%s is too short", root); break; }
        finished(since);
        if (!stamped(data, io, (uint64_t)i * (uint64_t)io)) {
            errno = 0;
            fail("wrong bytes in %s at %lld", root, (long long)i * io);
            break;
        }
    }
    close(fd);
    free(data);
    return NULL;
}

/* Reads every file of a tree, in the order of the folders. */
static long long walked_bytes;

static int visit(const char *path, const struct stat *st, int type, struct FTW *where) {
    static char buffer[1 << 17];
    (void)where;
    if (take() < 0) return 1;
    double since = now();
    if (type == FTW_NS || type == FTW_DNR) { fail("reading %s", path); return 1; }
    if (type == FTW_F && S_ISREG(st->st_mode)) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) { fail("opening %s", path); return 1; }
        long long got = 0;
        for (;;) {
            ssize_t n = read(fd, buffer, sizeof buffer);
            if (n < 0) { fail("reading %s", path); close(fd); return 1; }
            if (n == 0) break;
            got += n;
        }
        close(fd);
        if (got != st->st_size) { errno = 0; fail("%s: %lld of %lld bytes", path, got, (long long)st->st_size); return 1; }
        walked_bytes += got;
        finished(since);
    }
    return 0;
}

static void *op_walk(void *unused) {
    (void)unused;
    if (nftw(root, visit, 64, FTW_PHYS) < 0) fail("walking %s", root);
    return NULL;
}

/* --- the run ------------------------------------------------------------------------------------------------- */

static const struct operation {
    const char *name;
    void *(*loop)(void *);
    long *bytes; /* how many each operation moves */
} operations[] = {
    {"folders", op_folders, NULL},     {"create", op_create, &size},       {"createsync", op_createsync, &size},
    {"openread", op_openread, &size},  {"stat", op_stat, NULL},            {"rename", op_rename, NULL},
    {"unlink", op_unlink, NULL},       {"mkdir", op_mkdir, NULL},          {"rmdir", op_rmdir, NULL},
    {"appendsync", op_appendsync, &io}, {"randread", op_randread, &io},    {"randwrite", op_randwrite, &io},
    {"seqwrite", op_seqwrite, &io},    {"seqread", op_seqread, &io},       {"walk", op_walk, NULL},
    {"readdir", op_readdir, NULL},
};

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(long n, double p) {
    if (n == 0) return 0;
    return (double)latencies[(long)((double)(n - 1) * p)];
}

int main(int argc, char **argv) {
    const struct operation *operation = NULL;
    for (size_t i = 0; argc >= 3 && i < sizeof operations / sizeof *operations; i++)
        if (!strcmp(argv[1], operations[i].name)) operation = &operations[i];
    if (!operation) {
        fprintf(stderr, "usage: driver OPERATION PATH [count= seconds= threads= size= io= files= first= suffix= seed=]\noperations:");
        for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) fprintf(stderr, " %s", operations[i].name);
        fprintf(stderr, "\n");
        return 2;
    }
    root = argv[2];
    for (int i = 3; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (!value) { fprintf(stderr, "driver: %s is not key=value\n", argv[i]); return 2; }
        *value++ = 0;
        if (!strcmp(argv[i], "count")) count = atol(value);
        else if (!strcmp(argv[i], "seconds")) seconds = atof(value);
        else if (!strcmp(argv[i], "threads")) threads = atol(value);
        else if (!strcmp(argv[i], "size")) size = atol(value);
        else if (!strcmp(argv[i], "io")) io = atol(value);
        else if (!strcmp(argv[i], "files")) files = atol(value);
        else if (!strcmp(argv[i], "first")) first = atol(value);
        else if (!strcmp(argv[i], "suffix")) suffix = value;
        else if (!strcmp(argv[i], "seed")) seed = (uint64_t)atoll(value);
        else { fprintf(stderr, "driver: unknown setting %s\n", argv[i]); return 2; }
    }
    if (count < 0 || threads < 1 || threads > 1024 || size < 1 || io < 1 || (!files && (files = count) == 0)) {
        fprintf(stderr, "driver: a setting makes no sense\n");
        return 2;
    }
    latencies = malloc(sizeof *latencies * KEPT);
    if (!latencies) abort();
    /* Touched before the clock runs. */
    memset(latencies, 0, sizeof *latencies * KEPT);
    pthread_t ids[1024];
    clock_gettime(CLOCK_MONOTONIC, &began);
    deadline = seconds;
    if (threads == 1) {
        operation->loop(NULL);
    } else {
        for (long i = 0; i < threads; i++)
            if (pthread_create(&ids[i], NULL, operation->loop, (void *)(intptr_t)i)) abort();
        for (long i = 0; i < threads; i++) pthread_join(ids[i], NULL);
    }
    double took = now();
    long n = latency_count < KEPT ? latency_count : KEPT;
    qsort(latencies, (size_t)n, sizeof *latencies, by_value);
    long long bytes = operation->loop == op_walk ? walked_bytes : operation->bytes ? (long long)done_count * *operation->bytes : 0;
    printf("{\"operations\": %ld, \"bytes\": %lld, \"seconds\": %.6f, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"max\": %.1f, \"timed_out\": %s",
           (long)done_count, bytes, took, percentile(n, 0.5), percentile(n, 0.9), percentile(n, 0.99), percentile(n, 1.0),
           timed_out ? "true" : "false");
    if (failure[0]) {
        printf(", \"error\": \"");
        for (const char *c = failure; *c; c++) {
            if (*c == '"' || *c == '\\') putchar('\\');
            if ((unsigned char)*c >= ' ') putchar(*c);
        }
        printf("\"");
    }
    printf("}\n");
    return failure[0] ? 1 : 0;
}
