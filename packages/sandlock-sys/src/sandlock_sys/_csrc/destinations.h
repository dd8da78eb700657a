#ifndef SANDLOCK_DESTINATIONS_H
#define SANDLOCK_DESTINATIONS_H

#include <stdint.h>

#include "notif.h"

enum {
    SL_DESTINATION_NAME = 28,    /* struct sockaddr_in6, linux/in6.h */
    SL_DESTINATION_GROUPS = 32,  /* found by the bytes of a name */
    SL_DESTINATION_GROUP = 4,
    SL_DESTINATION_THREADS = 16,
    SL_DESTINATION_DATA = 16384, /* bytes of one datagram that is sent here */
};

/* A socket address that a program wrote, and what it means where it is allowed for good. */
struct sl_destination {
    uint64_t cookie;    /* of the datagram socket that sends; 0: any TCP socket of `domain` that connects */
    int32_t domain;     /* SO_DOMAIN */
    uint32_t name_size; /* 0: the entry is free */
    uint32_t packed_size;
    uint8_t name[SL_DESTINATION_NAME];   /* as it was written */
    uint8_t packed[SL_DESTINATION_NAME]; /* as it is given to the kernel */
};

/* Only the thread that takes notifications works with it. All zero it knows nothing. */
struct sl_destinations {
    struct sl_destination entries[SL_DESTINATION_GROUPS][SL_DESTINATION_GROUP];
    uint8_t next[SL_DESTINATION_GROUPS];      /* the entry of a group that makes room */
    int32_t tids[SL_DESTINATION_THREADS];     /* 0: the place is free */
    int32_t pidfds[SL_DESTINATION_THREADS];
};

void sl_destinations_add(struct sl_destinations *known, uint64_t cookie, int domain, const void *name,
                         uint32_t name_size, const void *packed, uint32_t packed_size);
void sl_destinations_clear(struct sl_destinations *known);
void sl_destinations_close(struct sl_destinations *known);

/* 1: the request was answered. 0: nothing was done that a second look from the beginning would not find as it was. */
int sl_destinations_connect(struct sl_destinations *known, int listener, const struct sl_notif_request *request);
int sl_destinations_send(struct sl_destinations *known, int listener, const struct sl_notif_request *request);

#endif
