"""Classic BPF as seccomp speaks it: instruction codes, struct seccomp_data, return values. LEAN: plain ints."""

__all__ = [
    "ALU_AND_K",
    "ARGUMENTS",
    "ARGUMENT_OFFSET",
    "ARGUMENT_STRIDE",
    "DATA_ARCH",
    "DATA_NR",
    "DATA_SIZE",
    "JMP_JA",
    "JMP_JEQ_K",
    "JMP_JGE_K",
    "JMP_JGT_K",
    "JMP_JSET_K",
    "LD_W_ABS",
    "MAX_INSTRUCTIONS",
    "MAX_JUMP",
    "RET_ALLOW",
    "RET_ERRNO",
    "RET_K",
    "RET_KILL_PROCESS",
    "RET_KILL_THREAD",
    "RET_LOG",
    "RET_TRACE",
    "RET_TRAP",
    "RET_USER_NOTIF",
]

# Instruction codes: class | size or operation | mode or source, linux/bpf_common.h.
LD_W_ABS = 0x20  # BPF_LD | BPF_W | BPF_ABS: A = the 32-bit word of seccomp_data at k
ALU_AND_K = 0x54  # BPF_ALU | BPF_AND | BPF_K: A &= k
JMP_JA = 0x05  # BPF_JMP | BPF_JA: go k instructions on
JMP_JEQ_K = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JMP_JGT_K = 0x25  # BPF_JMP | BPF_JGT | BPF_K, unsigned
JMP_JGE_K = 0x35  # BPF_JMP | BPF_JGE | BPF_K, unsigned
JMP_JSET_K = 0x45  # BPF_JMP | BPF_JSET | BPF_K: A & k is not zero
RET_K = 0x06  # BPF_RET | BPF_K

MAX_JUMP = 255  # jt and jf of struct sock_filter are __u8
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS, linux/bpf_common.h

# struct seccomp_data { int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6]; }, linux/seccomp.h, 3.5.
DATA_NR = 0
DATA_ARCH = 4
ARGUMENT_OFFSET = 16  # the low word of args[0]: all three architectures are little endian
ARGUMENT_STRIDE = 8
ARGUMENTS = 6
DATA_SIZE = 64

# What a filter returns, linux/seccomp.h. Where several filters are installed the one earliest in this list wins.
RET_KILL_PROCESS = 0x80000000  # 4.14
RET_KILL_THREAD = 0x00000000  # 3.5
RET_TRAP = 0x00030000  # 3.5
RET_ERRNO = 0x00050000  # 3.5; the errno, at most 4095, in the low 16 bits
RET_USER_NOTIF = 0x7FC00000  # 5.0
RET_TRACE = 0x7FF00000  # 3.5
RET_LOG = 0x7FFC0000  # 4.14
RET_ALLOW = 0x7FFF0000  # 3.5
