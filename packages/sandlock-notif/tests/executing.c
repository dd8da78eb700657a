/* Ways to execute: argv[1] says how, argv[2] how often. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char *word;
static int rounds;

static void *flip(void *unused)
{
    for (volatile int i = 0;; i = 0) {
        memcpy(word, "evil", 5);
        __asm__ volatile("" : : : "memory");
        for (; i < 300; i++) {}
        memcpy(word, "good", 5);
        __asm__ volatile("" : : : "memory");
        for (; i < 600; i++) {}
    }
    return unused;
}

static void *execute(void *unused)
{
    char *words[] = {"echo", "-n", "x", 0};
    execv("/bin/echo", words);
    return unused;
}

static void *spawner(void *unused)
{
    char *words[] = {"true", 0};
    for (int i = 0; i < rounds; i++) {
        pid_t child;
        int status = -1;
        if (posix_spawn(&child, "/bin/true", 0, 0, words, environ)) return "spawn";
        if (waitpid(child, &status, 0) != child || status) return "status";
    }
    return 0;
}

int main(int argc, char **argv)
{
    char *how = argv[1];
    rounds = argc > 2 ? atoi(argv[2]) : 0;
    if (!strcmp(how, "thread") || !strcmp(how, "shared")) {
        word = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        memcpy(word, "good", 5);
        pthread_t id;
        if (!strcmp(how, "shared") && fork() == 0) flip(0);
        for (int i = 0; i < rounds; i++) {
            if (fork() == 0) {
                char *words[] = {"echo", word, 0};
                if (!strcmp(how, "thread")) pthread_create(&id, 0, flip, 0);
                usleep(1000);
                execv("/bin/echo", words);
                printf("%d\n", errno);
                fflush(stdout);
                _exit(1);
            }
            int status;
            while (wait(&status) < 0) {}
        }
        kill(0, SIGKILL);
    }
    if (!strcmp(how, "spawners")) {
        pthread_t ids[50];
        void *result;
        for (int i = 0; i < 50; i++) pthread_create(&ids[i], 0, spawner, 0);
        for (int i = 0; i < 50; i++) { pthread_join(ids[i], &result); if (result) printf("%s\n", (char *)result); }
        puts("done");
    }
    if (!strcmp(how, "racing")) { /* threads that execute at once: one wins, the others die with the old image */
        for (int i = 0; i < rounds; i++) {
            if (fork() == 0) {
                pthread_t ids[8];
                char *words[] = {"echo", "-n", "x", 0};
                for (int j = 0; j < 8; j++) pthread_create(&ids[j], 0, execute, 0);
                execv("/bin/echo", words);
            }
            wait(0);
        }
        puts("");
    }
    if (!strcmp(how, "failing")) {
        char *words[] = {"x", 0};
        for (int i = 0; i < rounds; i++) {
            execv("/nowhere", words);
            if (errno != ENOENT) printf("%d\n", errno);
            execv("/etc", words);
            if (errno != EACCES) printf("%d\n", errno);
        }
        execv((char *)8, words);
        printf("%d\n", errno);
    }
    return 0;
}
