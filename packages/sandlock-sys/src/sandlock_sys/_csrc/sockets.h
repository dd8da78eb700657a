#ifndef SANDLOCK_SOCKETS_H
#define SANDLOCK_SOCKETS_H

#include <stddef.h>
#include <stdint.h>

enum { SL_SO_PROTOCOL = 38, SL_SO_DOMAIN = 39, SL_SO_COOKIE = 57 }; /* asm-generic/socket.h, 2.6.32; cookie 4.12 */

struct sl_socket {
    int fd;
    int domain;
    int type;
    int protocol;
    int nonblocking;
    int pidfd;
    uint64_t cookie;
};

long sl_socket_thread(int tid);
long sl_socket_copy(int pidfd, int remote);
long sl_socket_take(int tid, int remote, struct sl_socket *taken);
long sl_socket_take_with(int listener, uint64_t id, int tid, int remote, struct sl_socket *taken, uint64_t name_at,
                         void *name, size_t name_size, uint64_t data_at, void *data, size_t data_size);
long sl_socket_connect(int fd, const void *address, uint32_t length);
long sl_socket_start(int fd, const void *address, uint32_t length);
long sl_socket_begin(int fd, const void *address, uint32_t length);
long sl_socket_bind(int fd, const void *address, uint32_t length);
long sl_socket_listen(int fd, int backlog);
long sl_socket_send(int fd, const void *data, size_t size, const void *name, uint32_t name_size,
                    const void *control, size_t control_size, uint32_t flags);
long sl_socket_name(int fd, int peer, void *address, uint32_t length);
long sl_socket_get(int fd, int level, int option, void *value, uint32_t length);
long sl_socket_set(int fd, int level, int option, const void *value, uint32_t length);

#endif
