/* Times network calls from inside. `connect PORT N`: N times socket, connect, close; prints nanoseconds per connect.
 * `udp PORT N`: N datagrams by sendto with a name. `send PORT N`: one connection, N times 100 bytes there and back. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    struct linger hard = {1, 0};
    long count = atol(argv[3]);
    char data[100] = {0};
    double spent = 0, start;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (strcmp(argv[1], "connect") == 0) {
        for (long i = 0; i < count; i++) {
            int s = socket(AF_INET, SOCK_STREAM, 0);
            setsockopt(s, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
            start = now();
            if (connect(s, (void *)&to, sizeof to) < 0) {
                perror("connect");
                return 1;
            }
            spent += now() - start;
            close(s);
        }
    } else {
        int stream = strcmp(argv[1], "send") == 0;
        int s = socket(AF_INET, stream ? SOCK_STREAM : SOCK_DGRAM, 0);
        if (stream && connect(s, (void *)&to, sizeof to) < 0)
            return 1;
        start = now();
        for (long i = 0; i < count; i++) {
            if (stream ? write(s, data, sizeof data) < 0 || read(s, data, sizeof data) < 0
                       : sendto(s, data, sizeof data, 0, (void *)&to, sizeof to) < 0) {
                perror(argv[1]);
                return 1;
            }
        }
        spent = now() - start;
    }
    printf("%.1f\n", spent / count);
    return 0;
}
