/* Every door to randomness. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

static void show(const char *name, const void *data) { printf("%s ", name); for (int i = 0; i < 16; i++) printf("%02x", ((const uint8_t *)data)[i]); puts(""); }
static void from(const char *name, int fd) { char data[64] = {0}; if (fd < 0 || read(fd, data, 36) < 16) printf("%s failed %d\n", name, errno); else show(name, data); close(fd); }

int main(void)
{
    char data[64];
    show("auxv", (void *)getauxval(AT_RANDOM));
    getrandom(data, 16, 0); show("libc", data);
    syscall(SYS_getrandom, data, 16, 1); show("call", data);
    getentropy(data, 16); show("entropy", data);
    from("urandom", open("/dev/urandom", O_RDONLY));
    from("random", open("/dev/random", O_RDONLY | O_CLOEXEC));
    from("again", syscall(SYS_openat, -100, "/dev/../dev//urandom", O_RDONLY));
    from("below", openat(open("/dev", O_RDONLY), "urandom", O_RDWR));
    from("root", open("/proc/self/root/dev/urandom", O_RDONLY));
    struct { uint64_t flags, mode, resolve; } how = {0};
    from("openat2", syscall(SYS_openat2, -100, "/dev/urandom", &how, sizeof how));
    from("uuid", open("/proc/sys/kernel/random/uuid", O_RDONLY));
    from("uuid2", open("/proc/sys/kernel/random/uuid", O_RDONLY));
    from("boot", open("/proc/sys/kernel/random/boot_id", O_RDONLY));
    long results[4], errors[4];
    for (int i = 0; i < 4; i++) {
        errno = 0;
        results[i] = syscall(SYS_getrandom, i == 2 ? (void *)8 : i == 3 ? 0 : data, i == 3 ? 0 : 8, i == 0 ? 6 : i == 1 ? 8 : 0);
        errors[i] = errno;
    }
    printf("bad");
    for (int i = 0; i < 4; i++) printf(" %ld %ld", results[i], errors[i]);
    puts("");
    return 0;
}
