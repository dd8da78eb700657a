/* Ways to use memory: argv[1] says how, argv[2] how many MiB. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#define MB (1 << 20)

static char block[MB];

static char *map(size_t size, int flags) { return mmap(0, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0); }
static void touch(char *at, size_t size) { for (size_t i = 0; i < size; i += 4096) at[i] = 1; }
static void fill(int fd, int megabytes) { for (int i = 0; i < megabytes; i++) if (write(fd, block, MB) != MB) _exit(3); }
static void deep(int left) { char frame[64 * 1024]; memset(frame, left, sizeof frame); if (left) deep(left - 1); else usleep(300000); __asm__ volatile("" ::"r"(frame) : "memory"); }

static size_t wanted;
static void *grow_alone(void *none)
{
    usleep(200000); /* the first thread has ended */
    for (size_t i = 0; i < wanted; i += MB) { touch(map(MB, MAP_PRIVATE), MB); usleep(500); }
    puts("done");
    fflush(stdout);
    usleep(300000);
    syscall(SYS_exit_group, 0);
    return none;
}
static void send_fd(int to, int fd)
{
    char byte = 0, control[64] = {0};
    struct iovec io = {&byte, 1};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(4)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET, head->cmsg_type = SCM_RIGHTS, head->cmsg_len = CMSG_LEN(4);
    memcpy(CMSG_DATA(head), &fd, 4);
    sendmsg(to, &message, 0);
}
static int receive_fd(int from)
{
    char byte, control[64] = {0};
    struct iovec io = {&byte, 1};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int fd = -1;
    if (recvmsg(from, &message, 0) >= 0) memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), 4);
    return fd;
}

int main(int argc, char **argv)
{
    char *how = argv[1];
    size_t size = (size_t)atoi(argv[2]) * MB;
    memset(block, 1, MB);
    if (!strcmp(how, "map")) touch(map(size, MAP_PRIVATE), size);
    if (!strcmp(how, "small")) for (size_t i = 0; i < size; i += 4096) memset(malloc(4000), 1, 4000);
    if (!strcmp(how, "populate")) map(size, MAP_PRIVATE | MAP_POPULATE);
    if (!strcmp(how, "noreserve")) touch(map(size, MAP_PRIVATE | MAP_NORESERVE), size);
    if (!strcmp(how, "brk")) touch(sbrk(size), size);
    if (!strcmp(how, "huge")) { char *at = map(size, MAP_PRIVATE); madvise(at, size, MADV_HUGEPAGE); touch(at, size); }
    if (!strcmp(how, "mremap")) { char *at = map(MB, MAP_PRIVATE); at = mremap(at, MB, size, MREMAP_MAYMOVE); touch(at, size); }
    if (!strcmp(how, "file")) { /* private pages of a file */
        int fd = open("/proc/self/exe", O_RDONLY);
        for (size_t i = 0; i < size; i += 4096) *(char *)mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) = 1;
    }
    if (!strcmp(how, "stack")) deep(size / (64 * 1024));
    if (!strcmp(how, "memfd")) fill(memfd_create("x", 0), size / MB);
    if (!strcmp(how, "fallocate")) { if (fallocate(memfd_create("x", 0), 0, 0, size)) _exit(3); }
    if (!strcmp(how, "hidden")) { /* nobody has it open, and one page of it is mapped */
        for (size_t i = 0; i < size; i += 16 * MB) {
            int fd = memfd_create("x", MFD_CLOEXEC);
            fill(fd, 16);
            mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
            close(fd);
        }
        sleep(5);
    }
    if (!strcmp(how, "forks")) { /* each small, together not */
        for (size_t i = 0; i < size; i += 16 * MB)
            if (fork() == 0) { touch(map(16 * MB, MAP_PRIVATE), 16 * MB); for (;;) pause(); }
        int status; /* until one is killed */
        while (wait(&status) > 0) if (WIFSIGNALED(status)) { printf("child %d\n", WTERMSIG(status)); fflush(stdout); kill(0, 9); }
    }
    if (!strcmp(how, "copies")) { /* shared at first, written by each afterwards */
        char *at = map(16 * MB, MAP_PRIVATE);
        touch(at, 16 * MB);
        for (size_t i = 0; i < size; i += 16 * MB)
            if (fork() == 0) { usleep(200000); touch(at, 16 * MB); for (;;) pause(); }
        int status;
        while (wait(&status) > 0) if (WIFSIGNALED(status)) { printf("child %d\n", WTERMSIG(status)); fflush(stdout); kill(0, 9); }
    }
    if (!strcmp(how, "sharing")) { /* many see the same pages */
        char *at = map(size, MAP_PRIVATE);
        touch(at, size);
        for (int i = 0; i < 8; i++) if (fork() == 0) { usleep(500000); _exit(0); }
        int status, bad = 0;
        while (wait(&status) > 0) bad |= status;
        if (bad) return 4;
    }
    if (!strcmp(how, "spawning")) { /* while a child shares all memory */
        char *words[] = {"sleep", "0", 0}, *none[] = {0};
        char *at = map(size, MAP_PRIVATE);
        touch(at, size);
        for (int i = 0; i < 40; i++) {
            pid_t child;
            if (vfork() == 0) { usleep(10000); execve("/bin/true", words, none); _exit(1); }
            int status;
            if (wait(&status) < 0 || status) return 4;
        }
    }
    if (!strcmp(how, "shared")) { /* dropped from the page tables, not from memory */
        char *at = map(size, MAP_SHARED);
        if (at == MAP_FAILED) { printf("%d\n", errno); return 0; }
        for (size_t i = 0; i < size; i += MB) { touch(at + i, MB); madvise(at + i, MB, MADV_DONTNEED); }
    }
    if (!strcmp(how, "again")) for (int i = 0; i < 50; i++) { char *at = map(size, MAP_SHARED); if (at == MAP_FAILED) return 4; touch(at, size); munmap(at, size); }
    if (!strcmp(how, "memfds")) for (int i = 0; i < 2000; i++) { int fd = memfd_create("x", 0); if (fd < 0) return 4; if (write(fd, block, 4096) < 0) return 5; close(fd); }
    if (!strcmp(how, "tmpfs") || !strcmp(how, "unlinked")) {
        int fd = open(argv[3], O_CREAT | O_RDWR, 0600);
        if (!strcmp(how, "unlinked")) unlink(argv[3]);
        fill(fd, size / MB);
        sleep(5);
    }
    if (!strcmp(how, "leaderless")) { /* /proc/PID shows no memory of it */
        pthread_t thread;
        wanted = size;
        pthread_create(&thread, 0, grow_alone, 0);
        syscall(SYS_exit, 0);
    }
    if (!strcmp(how, "tails")) for (size_t i = 0; i < size; i += 8 * MB) { /* a page is mapped, all is kept */
        char *at = map(8 * MB, MAP_SHARED);
        if (at == MAP_FAILED) { printf("%d\n", errno); return 0; }
        touch(at, 8 * MB);
        munmap(at + 4096, 8 * MB - 4096);
        usleep(20000);
    }
    if (!strcmp(how, "flight")) { /* nobody has it open while it is forgotten */
        int pair[2], fd = memfd_create("x", 0);
        socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
        fill(fd, 1);
        send_fd(pair[0], fd);
        close(fd);
        usleep(1000000);
        fd = receive_fd(pair[1]);
        if (lseek(fd, 0, SEEK_END) != MB) return 6; /* what was on its way is whole */
        fill(fd, size / MB);
    }
    if (!strcmp(how, "zero")) { /* shared memory from a device */
        volatile char *at = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, open("/dev/zero", O_RDWR), 0);
        for (size_t i = 0; i < size; i += 4096) { at[i] = 1; if (i % (4 * MB) == 0) usleep(1000); }
    }
    if (!strcmp(how, "tables")) { /* 4 KiB for each 2 MiB, all of them the zero page */
        size_t length = size * 512;
        volatile char *at = mmap(0, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        madvise((void *)at, length, MADV_NOHUGEPAGE);
        for (size_t i = 0; i < length; i += 2 * MB) { (void)at[i]; if (i % (2048ul * MB) == 0) usleep(1000); }
        usleep(300000);
    }
    if (!strcmp(how, "nameless")) { /* mapped, and nothing else */
        int fd = open(argv[3], O_CREAT | O_RDWR, 0600);
        if (ftruncate(fd, size)) return 4;
        char *at = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        unlink(argv[3]);
        close(fd);
        for (size_t i = 0; i < size; i += MB) { touch(at + i, MB); usleep(500); }
    }
    if (!strcmp(how, "inodes")) for (size_t i = 0; i < size / 1024; i++) {
        char name[512];
        snprintf(name, sizeof name, "%s.%zu", argv[3], i);
        close(open(name, O_CREAT | O_WRONLY, 0600));
    }
    if (!strcmp(how, "inodes")) sleep(size > 16 * MB ? 8 : 0);
    if (!strcmp(how, "bystander")) {
        pid_t idle = fork();
        if (idle == 0) { touch(map(24 * MB, MAP_PRIVATE), 24 * MB); for (;;) pause(); }
        usleep(200000);
        pid_t grower = fork();
        if (grower == 0) { for (size_t i = 0; i < size; i += MB) { touch(map(MB, MAP_PRIVATE), MB); usleep(500); } for (;;) pause(); }
        int status;
        pid_t dead = wait(&status);
        usleep(100000);
        printf("%s %d %d\n", dead == grower ? "grower" : "bystander", WTERMSIG(status), kill(idle, 0));
        fflush(stdout);
        kill(0, SIGKILL);
    }
    if (argc > 3 && !strcmp(argv[3], "stay")) sleep(20); /* however late somebody looks */
    puts("done");
    return 0;
}
