/* Threads and processes of every kind that count in the file argv[1]. */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
static volatile uint64_t *counts;
static void *count(void *at) { for (;;) counts[(intptr_t)at]++; return 0; }
int main(int argc, char **argv)
{
    int fd = open(argv[1], O_RDWR);
    counts = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    pthread_t id;
    for (intptr_t i = 1; i < 4; i++) pthread_create(&id, 0, count, (void *)i);
    if (fork() == 0) { setsid(); count((void *)4); }
    if (fork() == 0) for (;;) { if (fork() == 0) { counts[5]++; _exit(0); } wait(0); }
    if (fork() == 0) for (;;) { counts[6]++; if (vfork() == 0) { execl("/bin/true", "true", (char *)0); _exit(1); } wait(0); }
    if (fork() == 0) for (;;) { counts[8]++; getppid(); }
    while (!counts[7]) usleep(1000);
    kill(0, 9);
}
