#ifndef SANDLOCK_SPAWN_H
#define SANDLOCK_SPAWN_H

#include <stdint.h>

/* One resource limit, as prlimit64(2) takes it. */
struct sl_limit {
    uint64_t resource;
    uint64_t soft;
    uint64_t hard;
};

/* A tree of the host's at another path of the sandbox's view. */
struct sl_bind {
    const char *source;
    const char *target;
    uint64_t read_only;             /* SL_BIND_* */
};

enum { SL_BIND_WRITABLE, SL_BIND_READ_ONLY, SL_BIND_NO_DEVICES }; /* the last is read-only too */

/* A generated file over one that is there. */
struct sl_overlay {
    const char *target;
    const char *content;
    uint64_t bytes;
    uint64_t live;                  /* SL_LIVE_* + 1: who writes it anew while the sandbox runs; 0: nobody */
};

enum { SL_MAX_OVERLAYS = 64 };

enum { SL_LIVE_LOAD, SL_LIVE_STAT, SL_LIVE_HOST, SL_LIVES }; /* the first two are init's, guard_machine.h */

/* What the child is to be, and what became of it. One value a launch; it lives until the guard has ended or executed. */
struct sl_spawn {
    /* wanted: set by the caller, read between clone and exec */
    const char *const *candidates; /* absolute or relative paths, tried in order as execvp(3) would; NULL ends */
    char *const *argv;
    char *const *envp;
    const char *cwd;                /* NULL: the caller's */
    const char *uid_map;            /* one line; with SL_SPAWN_USER_NS */
    const char *gid_map;
    const char *network_uid_map;    /* of the user namespace that a new network namespace belongs to; with both flags */
    const char *network_gid_map;
    const char *const *writable;    /* with SL_SPAWN_MOUNT_NS: all else becomes read-only; NULL ends */
    const char *const *devices;     /* with `writable`: no device is opened but these and what is below; NULL ends, or all */
    const char *hostname;           /* NULL: the host's; otherwise in a UTS namespace */
    const char *root;               /* NULL, or the folder that becomes the root; with SL_SPAWN_MOUNT_NS */
    const struct sl_bind *binds;    /* with SL_SPAWN_MOUNT_NS */
    const char *branch;             /* NULL, or the folder that an overlay mount covers; with SL_SPAWN_MOUNT_NS */
    const char *branch_options;     /* overlayfs's mount data */
    const struct sl_overlay *overlays; /* with SL_SPAWN_MOUNT_NS */
    const char *rules;              /* strings, one after the other: paths for Landlock, looked up in the finished view */
    const uint64_t *rule_accesses;  /* as sl_landlock_add_paths takes them */
    const int32_t *keep;            /* fds that stay open at their numbers, ascending, each > 2 */
    const struct sl_limit *limits;
    const uint64_t *affinity;       /* cpu mask */
    const void *filter;             /* struct sock_filter[] */
    uint32_t n_binds;
    uint32_t n_overlays;
    uint32_t n_rules;
    uint32_t hostname_bytes;
    uint32_t n_keep;
    uint32_t n_limits;
    uint32_t affinity_bytes;
    uint32_t n_filter;              /* instructions; 0: no filter */
    uint32_t filter_flags;          /* SECCOMP_FILTER_FLAG_* */
    uint32_t flags;                 /* SL_SPAWN_* */
    int32_t stdio[3];               /* fds to become 0, 1 and 2; SL_SPAWN_NULL_DEVICE: /dev/null, opened by the child */
    int32_t ruleset;                /* Landlock, the child's own; -1: none */
    int32_t guard_ruleset;          /* Landlock, the guard's and so everybody's; -1: none */
    int32_t control;                /* the guard's end of the control socket */
    int32_t guard_program;          /* sealed copy of the guard program: its file may be below a write grant */
    int32_t network;                /* -1, or the network namespace that is lent; with SL_SPAWN_NET_NS */
    int32_t network_owner;          /* its user namespace, with SL_SPAWN_USER_NS */
    int32_t host_pid;               /* set by sl_spawn: whom the guard watches */
    int32_t relay;                  /* socket, one of `keep`, to pass the listener over; -1: the host takes it itself */

    /* told: written by the kernel, the guard and the child */
    int32_t guard_tid;              /* cleared by the kernel when the guard has executed or ended */
    int32_t child_tid;              /* cleared, or marked FUTEX_OWNER_DIED, when the child has executed or died */
    int32_t init_tid;               /* cleared by the kernel when the init has executed or ended */
    int32_t guard_pid;
    int32_t guard_pidfd;
    int32_t child_pid;
    int32_t place;                  /* of /proc in another root, for the child's view; -1 */
    int32_t overlays_made[SL_MAX_OVERLAYS]; /* mounts, attached nowhere yet */
    int32_t live[SL_LIVES];         /* writable fds of live overlays, above 2; -1. The host's is open until the exec */
    int32_t init_pid;               /* of the pid namespace's first process, or 0 */
    int32_t listener;               /* the listener's number in the child, or -1 */
    int32_t relay_tid;              /* cleared by the kernel when the thread that passes it has ended */
    int32_t relayed;                /* 0, or -errno of passing it */
    uint32_t network_taken;         /* the one that was lent is in use; otherwise it is a new one */
    uint32_t network_sent;          /* the new one is on its way to the host */
    uint32_t phase;                 /* futex: SL_PHASE_* */
    uint32_t go;                    /* futex: SL_VERDICT_* for a parked child */
    uint32_t failed;                /* somebody tells the three below */
    uint32_t step;                  /* SL_STEP_* that failed in the child, or the guard */
    int32_t error;                  /* errno of the step that failed, or 0 */
    uint32_t detail;                /* which of several: limit, candidate, writable path */
};

enum {
    SL_SPAWN_PARK = 1 << 0,         /* stop, fully confined, before exec until sl_spawn_go */
    SL_SPAWN_OWN_MEMORY = 1 << 1,   /* copy the memory (fork) instead of sharing it until exec */
    SL_SPAWN_USER_NS = 1 << 2,
    SL_SPAWN_MOUNT_NS = 1 << 3,
    SL_SPAWN_NO_ASLR = 1 << 4,
    SL_SPAWN_NO_THP = 1 << 5,       /* needs SL_SPAWN_OWN_MEMORY: the flag belongs to the memory, not to the task */
    SL_SPAWN_UNSCOPED = 1 << 6,     /* no signal scope: the guard finds its tree by walking /proc */
    SL_SPAWN_PID_NS = 1 << 7,       /* needs SL_SPAWN_MOUNT_NS: /proc is the namespace's own, and the time since boot */
    SL_SPAWN_TERMINAL = 1 << 8,     /* stdin is a terminal nobody else has: it becomes the one of the child's session */
    SL_SPAWN_NET_NS = 1 << 9,       /* nobody else's sockets are in /proc */
    SL_SPAWN_KEEP_NET = 1 << 10,    /* the host is to have that namespace */
    SL_SPAWN_HOST_CLOCK = 1 << 11,  /* no time namespace with SL_SPAWN_PID_NS: the time since boot is the host's */
};

enum { SL_SPAWN_NULL_DEVICE = -1 }; /* in stdio */

enum { SL_PHASE_STARTING, SL_PHASE_PARKED };
enum { SL_VERDICT_GO = 1, SL_VERDICT_END = 2 };

enum {
    SL_STEP_GUARD = 1, /* the guard's own set-up: session, subreaper, no_new_privs */
    SL_STEP_GUARD_LANDLOCK,
    SL_STEP_CLONE,
    SL_STEP_GUARD_EXEC,
    SL_STEP_SESSION,
    SL_STEP_STDIO,
    SL_STEP_KEEP,
    SL_STEP_NAMESPACE,
    SL_STEP_ID_MAP,
    SL_STEP_CLOCK,
    SL_STEP_BRANCH,
    SL_STEP_MOUNT,
    SL_STEP_HOSTNAME,
    SL_STEP_ROOT,
    SL_STEP_BIND,
    SL_STEP_INIT,
    SL_STEP_PROC,
    SL_STEP_OVERLAY,
    SL_STEP_RULE,
    SL_STEP_CWD,
    SL_STEP_LIMIT,
    SL_STEP_AFFINITY,
    SL_STEP_PERSONALITY,
    SL_STEP_THP,
    SL_STEP_CAPABILITIES,
    SL_STEP_NO_NEW_PRIVS,
    SL_STEP_LANDLOCK,
    SL_STEP_CLOSE,
    SL_STEP_SECCOMP,
    SL_STEP_LISTENER,
    SL_STEP_EXEC,
};

/* Memory for one launch: the struct, shared with every process of it, and two stacks. NULL when there is none. */
struct sl_spawn *sl_spawn_new(void);

/* Make the memory ready for another launch; waits as sl_spawn_free does. */
void sl_spawn_reuse(struct sl_spawn *spawn);

/* Give the memory back; waits until the guard has left it, so end the guard first. */
void sl_spawn_free(struct sl_spawn *spawn);

/* Launch; returns 0 once the child has executed (or is parked), or -errno when not even the guard could be cloned.
 * A failure after that is in `error` and `step`. Blocks for as long as that takes, with every signal blocked. */
long sl_spawn(struct sl_spawn *spawn);

/* Let a parked child go on to exec or end, as the SL_VERDICT_* says; returns when it has. */
long sl_spawn_go(struct sl_spawn *spawn, uint32_t verdict);

/* A close-on-exec, non-blocking SOCK_SEQPACKET pair: pair[0] for the caller, pair[1] for the guard. */
long sl_control_pair(int32_t *pair);

#endif
