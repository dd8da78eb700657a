#ifndef SANDLOCK_PROBE_H
#define SANDLOCK_PROBE_H

#include <stdint.h>

#include "landlock.h"

/* What a result holds when it is neither a value nor -errno. */
#define SL_PROBE_UNTRIED (-100000) /* what it needs was not there */
#define SL_PROBE_KILLED (-100001)  /* the call killed the probing process: an outer seccomp filter */

enum sl_probe_feature {
    SL_PROBE_CLOSE_RANGE,
    SL_PROBE_CLOSE_RANGE_CLOEXEC,
    SL_PROBE_OPENAT2,
    SL_PROBE_MEMFD_SEALS,
    SL_PROBE_MEMFD_NOEXEC_SEAL,
    SL_PROBE_USERFAULTFD,
    SL_PROBE_PAGEMAP_SCAN,
    SL_PROBE_CLONE3,
    SL_PROBE_PIDFD_OPEN,
    SL_PROBE_PIDFD_THREAD,
    SL_PROBE_PIDFD_GETFD,
    SL_PROBE_PROCESS_VM_READV,
    SL_PROBE_PTRACE_SEIZE,
    SL_PROBE_USER_NAMESPACE,
    SL_PROBE_MOUNT_NAMESPACE,
    SL_PROBE_MOUNT_SETATTR,
    SL_PROBE_PID_NAMESPACE,
    SL_PROBE_PROC_MOUNT,
    SL_PROBE_OVERLAY,
    SL_PROBE_NO_NEW_PRIVS,
    SL_PROBE_SECCOMP_FILTER,
    SL_PROBE_SECCOMP_NEW_LISTENER,
    SL_PROBE_SECCOMP_WAIT_KILLABLE_RECV,
    SL_PROBE_SECCOMP_SYNC_WAKE_UP,
    SL_PROBE_SECCOMP_ADDFD_SEND,
    SL_PROBE_LANDLOCK_RESTRICT_SELF,
    SL_PROBE_FEATURES
};

/* One slot for each bit of a mask, one for each feature. */
struct sl_probe_results {
    int32_t landlock_abi;
    int32_t landlock_errata;
    int32_t landlock_fs[SL_LANDLOCK_FS_BITS];
    int32_t landlock_net[SL_LANDLOCK_NET_BITS];
    int32_t landlock_scope[SL_LANDLOCK_SCOPE_BITS];
    int32_t landlock_restrict[4];
    int32_t feature[SL_PROBE_FEATURES];
};

long sl_probe(struct sl_probe_results *results);
unsigned long sl_vdso_address(void);

#endif
