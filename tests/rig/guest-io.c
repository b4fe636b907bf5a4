/* What the job "count" runs in the guest: reads or writes past the page cache between two markers that tcg-count.c
 * sees, and a mount(2) without a helper, which busybox has not got for NFS 4.
 *
 *   guest-io mount SOURCE DIRECTORY TYPE OPTIONS
 *   guest-io read|write FILE BLOCK_SIZE DEPTH COUNT
 *
 * Depth 1 is pread or pwrite. More is Linux's native asynchronous I/O: a new request for each completed one, submitted
 * in the batches in which completions come. The file, which must be there, is gone through from its start, again and
 * again. Static and of one source file: the guest has no libc. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MOST_DEPTH = 256, WARM_UP = 64 };

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* nopl 0x7f5afeNN(%rax), executed in user mode. */
static void begin(void) { __asm__ volatile(".byte 0x0f, 0x1f, 0x80, 1, 0xfe, 0x5a, 0x7f" ::: "memory"); }
static void end(void) { __asm__ volatile(".byte 0x0f, 0x1f, 0x80, 2, 0xfe, 0x5a, 0x7f" ::: "memory"); }

static int fd, writes;
static long block, blocks, depth;
static char *buffers;

static void one_by_one(long count)
{
    for (long i = 0; i < count; i++) {
        off_t at = i % blocks * block;

        if ((writes ? pwrite(fd, buffers, block, at) : pread(fd, buffers, block, at)) != block)
            fail(writes ? "pwrite" : "pread");
    }
}

static void at_depth(aio_context_t context, long count)
{
    static struct iocb control[MOST_DEPTH], *batch[MOST_DEPTH];
    static struct io_event events[MOST_DEPTH];
    long begun = 0, completed = 0, ready = depth < count ? depth : count;

    for (long i = 0; i < ready; i++)
        batch[i] = &control[i];
    while (completed < count) {
        long got, more;

        for (long i = 0; i < ready; i++) {
            long slot = batch[i] - control;

            *batch[i] = (struct iocb){
                .aio_lio_opcode = writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
                .aio_fildes = fd,
                .aio_buf = (uintptr_t)(buffers + slot * block),
                .aio_nbytes = block,
                .aio_offset = begun++ % blocks * block,
                .aio_data = slot,
            };
        }
        if (ready > 0 && syscall(SYS_io_submit, context, ready, batch) != ready)
            fail("io_submit");
        got = syscall(SYS_io_getevents, context, 1, depth, events, NULL);
        if (got < 1)
            fail("io_getevents");
        for (long i = 0; i < got; i++)
            if (events[i].res != block) {
                fprintf(stderr, "guest-io: a request ended with %lld\n", (long long)events[i].res);
                exit(1);
            }
        completed += got;
        more = count - begun;
        ready = got < more ? got : more;
        for (long i = 0; i < ready; i++)
            batch[i] = &control[events[i].data];
    }
}

int main(int argc, char **argv)
{
    struct stat status;
    struct timespec began, ended;
    aio_context_t context = 0;
    long count;
    double seconds;

    if (argc == 6 && !strcmp(argv[1], "mount")) {
        if (mount(argv[2], argv[3], argv[4], 0, argv[5]))
            fail("mount");
        return 0;
    }
    if (argc != 6 || (strcmp(argv[1], "read") && strcmp(argv[1], "write"))) {
        fprintf(stderr, "usage: guest-io mount SOURCE DIRECTORY TYPE OPTIONS\n"
                        "       guest-io read|write FILE BLOCK_SIZE DEPTH COUNT\n");
        return 2;
    }
    writes = argv[1][0] == 'w';
    block = atol(argv[3]);
    depth = atol(argv[4]);
    count = atol(argv[5]);
    fd = open(argv[2], O_RDWR | O_DIRECT);
    if (fd < 0 || fstat(fd, &status))
        fail(argv[2]);
    if (block < 1 || depth < 1 || depth > MOST_DEPTH || status.st_size < block) {
        fprintf(stderr, "guest-io: no such block size or depth\n");
        return 2;
    }
    blocks = status.st_size / block;
    if (posix_memalign((void **)&buffers, 4096, block * depth))
        fail("memory");
    memset(buffers, 7, block * depth);
    if (depth > 1 && syscall(SYS_io_setup, depth, &context))
        fail("io_setup");

    if (depth > 1)
        at_depth(context, depth + WARM_UP);
    else
        one_by_one(WARM_UP);
    clock_gettime(CLOCK_MONOTONIC, &began);
    begin();
    if (depth > 1)
        at_depth(context, count);
    else
        one_by_one(count);
    end();
    clock_gettime(CLOCK_MONOTONIC, &ended);
    seconds = ended.tv_sec - began.tv_sec + (ended.tv_nsec - began.tv_nsec) / 1e9;
    printf("guest-io: %s bs=%ld qd=%ld count=%ld seconds=%.3f\n", argv[1], block, depth, count, seconds);
    return 0;
}
