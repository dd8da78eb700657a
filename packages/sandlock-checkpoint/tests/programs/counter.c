/* Counts, with a token made at the start; ends with 7. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
    char *token = malloc(64);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(token, 64, "%ld", now.tv_nsec);
    for (int number = 0; number < 40; number++) {
        printf("%d %s\n", number, token);
        fflush(stdout);
        usleep(20000);
    }
    return 7;
}
