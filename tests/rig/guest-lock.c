/* What the job "nfs-two" runs in its guests: locks, in the manner of fcntl(2) or of flock(2).
 *
 *   guest-lock try FILE fcntl|flock       takes a lock if it can be had now; status 1 when it cannot
 *   guest-lock hold FILE fcntl|flock      waits for a lock, makes FILE.held and holds it until killed
 *   guest-lock count FILE fcntl|flock N   adds one to the number in FILE, N times, each time under a lock
 *
 * Static and of one source file: the guest has no libc. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static void fail(const char *what)
{
    perror(what);
    exit(2);
}

static int take(int fd, int is_flock, int waits)
{
    struct flock all = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

    if (is_flock)
        return flock(fd, waits ? LOCK_EX : LOCK_EX | LOCK_NB);
    return fcntl(fd, waits ? F_SETLKW : F_SETLK, &all);
}

static void count(const char *path, int is_flock)
{
    char text[16] = "";
    int fd = open(path, O_RDWR | O_CREAT, 0644);

    if (fd < 0 || take(fd, is_flock, 1))
        fail("lock");
    if (pread(fd, text, sizeof text - 1, 0) < 0)
        fail("pread");
    snprintf(text, sizeof text, "%d\n", atoi(text) + 1);
    if (pwrite(fd, text, strlen(text), 0) != (ssize_t)strlen(text))
        fail("pwrite");
    /* Which ends the lock. */
    close(fd);
}

int main(int argc, char **argv)
{
    char held[256];
    int fd, is_flock;

    if (argc < 4)
        return 2;
    is_flock = !strcmp(argv[3], "flock");
    if (!strcmp(argv[1], "count")) {
        for (int left = argc > 4 ? atoi(argv[4]) : 0; left > 0; left--)
            count(argv[2], is_flock);
        return 0;
    }
    fd = open(argv[2], O_RDWR | O_CREAT, 0644);
    if (fd < 0)
        fail("open");
    if (take(fd, is_flock, !strcmp(argv[1], "hold"))) {
        if (errno == EAGAIN || errno == EACCES)
            return 1;
        fail("lock");
    }
    if (strcmp(argv[1], "hold"))
        return 0;
    snprintf(held, sizeof held, "%s.held", argv[2]);
    close(open(held, O_RDWR | O_CREAT, 0644));
    for (;;)
        pause();
}
