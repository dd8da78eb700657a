/* Makes any system calls, as told by its arguments, and reports each result.
 *
 *   invoke [--thread] -- NAME NR ARG... -- NAME NR ARG... ...
 *
 * ARG: 12 or 0x1f  a number        =text  pointer to a string      %0a1b  pointer to these bytes
 *      #64         zeroed buffer   @NAME  result of an earlier call
 * A NAME that starts with '-' is made and not reported. --thread makes the calls from a second thread.
 */
#define _GNU_SOURCE
#include "report.h"
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>

static struct { const char *name; long result; } done[512];
static int done_count;
static char **words;
static int word_count;

static long value_of(char *word)
{
    switch (word[0]) {
    case '=':
        return (long)(word + 1);
    case '#':
        return (long)calloc(1, (size_t)atol(word + 1) + 1);
    case '%': {
        size_t n = strlen(word + 1) / 2;
        unsigned char *bytes = calloc(1, n + 1);
        for (size_t i = 0; i < n; i++) {
            char pair[3] = {word[1 + 2 * i], word[2 + 2 * i], 0};
            bytes[i] = (unsigned char)strtoul(pair, NULL, 16);
        }
        return (long)bytes;
    }
    case '@':
        for (int i = done_count - 1; i >= 0; i--)
            if (strcmp(done[i].name, word + 1) == 0)
                return done[i].result;
        return -1;
    default:
        return word[0] == '-' ? strtol(word, NULL, 0) : (long)strtoul(word, NULL, 0);
    }
}

static void *make_all(void *unused)
{
    for (int i = 0; i < word_count;) {
        if (strcmp(words[i], "--") == 0)
            i++;
        char *name = words[i++];
        long nr = strtol(words[i++], NULL, 0), a[6] = {0};
        for (int n = 0; i < word_count && strcmp(words[i], "--") != 0; i++)
            if (n < 6)
                a[n++] = value_of(words[i]);
        errno = 0;
        long result = syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
        if (name[0] != '-')
            report(name, result);
        done[done_count].name = name;
        done[done_count++].result = result;
    }
    return unused;
}

int main(int argc, char **argv)
{
    int threaded = argc > 1 && strcmp(argv[1], "--thread") == 0;
    words = argv + 1 + threaded;
    word_count = argc - 1 - threaded;
    if (!threaded) {
        make_all(NULL);
        return 0;
    }
    pthread_t thread;
    if (pthread_create(&thread, NULL, make_all, NULL) != 0)
        return 121;
    pthread_join(thread, NULL);
    return 0;
}
