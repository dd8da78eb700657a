/* Ways to the network and to other processes' sockets.
 *
 *   sockets tcp HOST PORT        every way to send a byte over TCP to HOST:PORT (IPv4)
 *   sockets tcp6 HOST PORT       the same over IPv6, HOST is an IPv6 spelling
 *   sockets udp HOST PORT        UDP, UDP-Lite, ICMP
 *   sockets listen               ways to get a listening port
 *   sockets families             socket() for every family, type and odd protocol
 *   sockets netlink              a dump of the interface addresses
 *   sockets unix PATH            stream, datagram and seqpacket connections to PATH
 *   sockets abstract NAME        the same to an abstract name
 *   sockets pairs                socketpair() of every type, and what can be made of them
 *   sockets fd N HOST PORT       use of an inherited socket N (UDP or TCP, not connected)
 */
#define _GNU_SOURCE
#include "report.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#define MPTCP 262
#define TCP_REPAIR_OPTION 19
#define TCP_ULP_OPTION 31
#define TCP_FASTOPEN_CONNECT_OPTION 30

static struct sockaddr_storage peer;
static socklen_t peer_size;
static int family;

static void aim(const char *host, const char *port)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&peer;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&peer;
    memset(&peer, 0, sizeof peer);
    if (strchr(host, ':') != NULL) {
        family = AF_INET6;
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((unsigned short)atoi(port));
        inet_pton(AF_INET6, host, &v6->sin6_addr);
        peer_size = sizeof *v6;
    } else {
        family = AF_INET;
        v4->sin_family = AF_INET;
        v4->sin_port = htons((unsigned short)atoi(port));
        inet_pton(AF_INET, host, &v4->sin_addr);
        peer_size = sizeof *v4;
    }
}

static long connect_and_write(int fd, const void *to, socklen_t size, const char *name)
{
    long result = fd < 0 ? -1 : connect(fd, to, size);
    if (result == 0)
        result = write(fd, name, strlen(name));
    return result;
}

static void stream(const char *name, int protocol)
{
    int fd = socket(family, SOCK_STREAM, protocol);
    report(name, connect_and_write(fd, &peer, peer_size, name));
    if (fd >= 0)
        close(fd);
}

/* An AF_UNSPEC first, to make any state go away; then the address with its high family half set. */
static void dissolve(void)
{
    struct sockaddr nothing = {.sa_family = AF_UNSPEC};
    int fd = socket(family, SOCK_STREAM, 0);
    if (fd >= 0 && connect(fd, &nothing, sizeof nothing) != 0)
        report("unspec", -1);
    report("after_unspec", connect_and_write(fd, &peer, peer_size, "after_unspec"));
    if (fd >= 0)
        close(fd);
}

static void fast_open(void)
{
    struct iovec part = {"fast", 4};
    struct mmsghdr many = {.msg_hdr = {.msg_name = &peer, .msg_namelen = peer_size, .msg_iov = &part, .msg_iovlen = 1}};
    int one = 1, fd = socket(family, SOCK_STREAM, 0);
    report("fastopen_sendto", fd < 0 ? fd : sendto(fd, "fast", 4, MSG_FASTOPEN, (struct sockaddr *)&peer, peer_size));
    close(fd);
    fd = socket(family, SOCK_STREAM, 0);
    report("fastopen_sendmsg", fd < 0 ? fd : sendmsg(fd, &many.msg_hdr, MSG_FASTOPEN));
    close(fd);
    fd = socket(family, SOCK_STREAM, 0);
    report("fastopen_sendmmsg", fd < 0 ? fd : sendmmsg(fd, &many, 1, MSG_FASTOPEN));
    close(fd);
    fd = socket(family, SOCK_STREAM, 0);
    report("fastopen_high", fd < 0 ? fd : syscall(SYS_sendto, fd, "fast", 4L, MSG_FASTOPEN | 1L << 32, &peer, peer_size));
    close(fd);
    fd = socket(family, SOCK_STREAM, 0);
    long set = fd < 0 ? fd : setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT_OPTION, &one, sizeof one);
    report("fastopen_option", set);
    report("fastopen_connect", connect_and_write(fd, &peer, peer_size, "fastopen_connect"));
    close(fd);
}

static void options(void)
{
    int one = 1, fd = socket(family, SOCK_STREAM, 0);
    report("tcp_repair", fd < 0 ? fd : setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTION, &one, sizeof one));
    report("tcp_ulp", fd < 0 ? fd : setsockopt(fd, IPPROTO_TCP, TCP_ULP_OPTION, "tls", 3));
    report("tcp_ulp_espintcp", fd < 0 ? fd : setsockopt(fd, IPPROTO_TCP, TCP_ULP_OPTION, "smc", 3));
    close(fd);
}

static void datagrams(void)
{
    static const struct { const char *name; int type, protocol; } kinds[] = {
        {"udp", SOCK_DGRAM, 0}, {"udp_named", SOCK_DGRAM, IPPROTO_UDP}, {"udp_cloexec", SOCK_DGRAM | SOCK_CLOEXEC, 0},
        {"udplite", SOCK_DGRAM, 136}, {"ping", SOCK_DGRAM, IPPROTO_ICMP}, {"raw", SOCK_RAW, IPPROTO_ICMP},
        {"raw_ip", SOCK_RAW, IPPROTO_RAW}, {"dccp", SOCK_DCCP, 0}, {"packet_type", SOCK_PACKET, 0},
    };
    char name[64];
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        int fd = socket(family, kinds[i].type, kinds[i].protocol);
        report(kinds[i].name, fd);
        if (fd < 0)
            continue;
        snprintf(name, sizeof name, "%s_send", kinds[i].name);
        report(name, sendto(fd, name, strlen(name), MSG_DONTWAIT, (struct sockaddr *)&peer, peer_size));
        close(fd);
    }
}

static void listeners(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    report("listen_unbound", fd < 0 ? fd : listen(fd, 1));
    close(fd);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    report("bind_zero", fd < 0 ? fd : bind(fd, (struct sockaddr *)&any, sizeof any));
    report("listen_bound", fd < 0 ? fd : listen(fd, 1));
    close(fd);
    fd = socket(AF_INET, SOCK_STREAM, MPTCP);
    report("mptcp_bind", fd < 0 ? fd : bind(fd, (struct sockaddr *)&any, sizeof any));
    report("mptcp_listen", fd < 0 ? fd : listen(fd, 1));
    close(fd);
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    report("udp_bind", fd < 0 ? fd : bind(fd, (struct sockaddr *)&any, sizeof any));
    close(fd);
}

static void families(void)
{
    static const int protocols[] = {0, 6, 17, 58, 132, 136, 255, 256, 262};
    char name[64];
    for (int domain = 0; domain < 48; domain++)
        for (int type = 1; type <= 10; type++)
            for (unsigned i = 0; i < sizeof protocols / sizeof *protocols; i++) {
                int fd = socket(domain, type, protocols[i]);
                if (fd < 0)
                    continue;
                snprintf(name, sizeof name, "family_%d_%d_%d", domain, type, protocols[i]);
                report(name, fd);
                close(fd);
            }
    report("high_word", syscall(SYS_socket, 16L | 1L << 32, 3L, 0L));
    report("high_type", syscall(SYS_socket, 2L, 2L | 1L << 32, 0L));
    report("high_protocol", syscall(SYS_socket, 2L, 1L, 262L | 1L << 32));
}

static void netlink(void)
{
    struct { unsigned length; unsigned short type, flags; unsigned sequence, port; unsigned char body[16]; } ask = {
        .length = 32, .type = 22 /* RTM_GETADDR */, .flags = 0x301 /* REQUEST|DUMP */};
    char answer[8192];
    int fd = socket(AF_NETLINK, SOCK_RAW, 0);
    long result = fd < 0 ? fd : send(fd, &ask, sizeof ask, 0);
    report("netlink_addresses", result < 0 ? result : recv(fd, answer, sizeof answer, 0));
}

static void local(const char *path, int abstract)
{
    static const struct { const char *name; int type; } kinds[] = {
        {"stream", SOCK_STREAM}, {"dgram", SOCK_DGRAM}, {"seqpacket", SOCK_SEQPACKET}, {"raw", SOCK_RAW}};
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    snprintf(to.sun_path + abstract, sizeof to.sun_path - 1, "%s", path);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + abstract + strlen(path) + !abstract);
    char name[64];
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        int fd = socket(AF_UNIX, kinds[i].type, 0);
        snprintf(name, sizeof name, "unix_%s", kinds[i].name);
        report(name, connect_and_write(fd, &to, size, name));
        if (fd >= 0)
            close(fd);
        fd = socket(AF_UNIX, kinds[i].type, 0);
        snprintf(name, sizeof name, "unix_%s_sendto", kinds[i].name);
        report(name, fd < 0 ? fd : sendto(fd, name, strlen(name), 0, (struct sockaddr *)&to, size));
        if (fd >= 0)
            close(fd);
        int pair[2];
        snprintf(name, sizeof name, "pair_%s_sendto", kinds[i].name);
        if (socketpair(AF_UNIX, kinds[i].type, 0, pair) != 0) {
            report(name, -1);
            continue;
        }
        close(pair[1]);
        /* Linux lets a datagram socket of a pair turn to another address; a connected stream does not. */
        report(name, sendto(pair[0], name, strlen(name), MSG_NOSIGNAL, (struct sockaddr *)&to, size));
        struct sockaddr nothing = {.sa_family = AF_UNSPEC};
        snprintf(name, sizeof name, "pair_%s_again", kinds[i].name);
        if (connect(pair[0], &nothing, sizeof nothing) != 0)
            errno = 0;
        long again = connect(pair[0], (struct sockaddr *)&to, size);
        report(name, again < 0 ? again : send(pair[0], name, strlen(name), MSG_NOSIGNAL));
        close(pair[0]);
    }
}

static void pairs(void)
{
    char name[64];
    for (int domain = 1; domain < 48; domain++)
        for (int type = 1; type <= 6; type++) {
            int pair[2];
            if (socketpair(domain, type, 0, pair) != 0)
                continue;
            snprintf(name, sizeof name, "pair_%d_%d", domain, type);
            report(name, 0);
            snprintf(name, sizeof name, "pair_%d_%d_listen", domain, type);
            report(name, listen(pair[0], 1));
        }
    int pair[2];
    report("pair_dgram_high", syscall(SYS_socketpair, 1L | 1L << 32, 2L | 1L << 32, 0L, pair));
}

static void inherited(int fd)
{
    report("inherited_sendto", sendto(fd, "inherited", 9, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&peer, peer_size));
    report("inherited_connect", connect_and_write(fd, &peer, peer_size, "inherited"));
}

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    if (argc > 3)
        aim(argv[argc - 2], argv[argc - 1]);
    if (strncmp(verb, "tcp", 3) == 0) {
        stream("tcp", 0);
        stream("tcp_named", IPPROTO_TCP);
        stream("mptcp", MPTCP);
        stream("sctp", 132);
        stream("smc", 256);
        dissolve();
        fast_open();
        options();
    } else if (strcmp(verb, "udp") == 0)
        datagrams();
    else if (strcmp(verb, "listen") == 0)
        listeners();
    else if (strcmp(verb, "families") == 0)
        families();
    else if (strcmp(verb, "netlink") == 0)
        netlink();
    else if (strcmp(verb, "unix") == 0)
        local(argv[2], 0);
    else if (strcmp(verb, "abstract") == 0)
        local(argv[2], 1);
    else if (strcmp(verb, "pairs") == 0)
        pairs();
    else if (strcmp(verb, "fd") == 0)
        inherited(atoi(argv[2]));
    else
        return 2;
    return 0;
}
