"""Every encoder gives the bytes the GNU assembler (2.40) gives for the same instruction."""

from __future__ import annotations

from types import ModuleType

import pytest

from sandlock_arch.aarch64 import encode as a64
from sandlock_arch.riscv64 import encode as rv64
from sandlock_arch.x86_64 import encode as x86

# Assembler text, what we encode, and what `as` made of the text (riscv64: -march=rv64i; aarch64: -march=armv8.5-a).
X86_64: list[tuple[str, bytes, str]] = [
    ("syscall", x86.syscall(), "0f05"),
    ("int3", x86.trap(), "cc"),
    ("ret", x86.ret(), "c3"),
    ("endbr64", x86.endbr64(), "f30f1efa"),
    ("jmp . + 0x1000", x86.jump(0x400, 0x1400), "e9fb0f0000"),
    ("{disp32} jmp . - 0x10", x86.jump(0x400, 0x3F0), "e9ebffffff"),
    ("je . + 0x20", x86.branch_if(x86.EQUAL, 0x20), "741e"),
    ("jne . - 0x20", x86.branch_if(x86.NOT_EQUAL, -0x20), "75de"),
    ("jl . + 4", x86.branch_if(x86.LESS, 4), "7c02"),
    ("jae . + 0x81", x86.branch_if(x86.ABOVE_OR_EQUAL, 0x81), "737f"),
    ("mov $0x12345678, %eax", x86.load_immediate("rax", 0x12345678), "b878563412"),
    ("mov $0xffffffff, %r15d", x86.load_immediate("r15", 0xFFFFFFFF), "41bfffffffff"),
    ("mov $-1, %rdi", x86.load_immediate("rdi", -1), "48c7c7ffffffff"),
    ("mov $-0x80000000, %r9", x86.load_immediate("r9", -0x80000000), "49c7c100000080"),
    ("movabs $0x123456789abcdef0, %r10", x86.load_immediate("r10", 0x123456789ABCDEF0), "49baf0debc9a78563412"),
    ("movabs $-0x80000001, %rbx", x86.load_immediate("rbx", -0x80000001), "48bbffffff7fffffffff"),
    ("{disp8} mov 0(%rsi), %r11", x86.load("r11", "rsi"), "4c8b5e00"),
    ("mov 8(%r12), %rdx", x86.load("rdx", "r12", 8), "498b542408"),
    ("mov -128(%rsp), %r8", x86.load("r8", "rsp", -128), "4c8b442480"),
    ("mov 127(%r13), %rbp", x86.load("rbp", "r13", 127), "498b6d7f"),
    ("mov %rcx, 8(%rdi)", x86.store("rdi", 8, "rcx"), "48894f08"),
    ("mov %r14, 16(%rsp)", x86.store("rsp", 16, "r14"), "4c89742410"),
    ("{disp8} mov %r9, 0(%rbp)", x86.store("rbp", 0, "r9"), "4c894d00"),
    ("add %r11, %rcx", x86.add("rcx", "r11"), "4c01d9"),
    ("add %rcx, %r8", x86.add("r8", "rcx"), "4901c8"),
    ("test %rax, %rax", x86.test("rax", "rax"), "4885c0"),
    ("test %rdi, %r15", x86.test("r15", "rdi"), "4985ff"),
    ("add $0x3b9ac9ff, %rdx", x86.add_immediate("rdx", 999_999_999), "4881c2ffc99a3b"),
    ("add $-1000000000, %r9", x86.add_immediate("r9", -1_000_000_000), "4981c1003665c4"),
    ("cmp $0x3b9aca00, %rdx", x86.compare_immediate("rdx", 1_000_000_000), "4881fa00ca9a3b"),
    ("cmp $-4095, %r10", x86.compare_immediate("r10", -4095), "4981fa01f0ffff"),
    ("cmp $11, %edi", x86.compare_immediate32("rdi", 11), "83ff0b"),
    ("cmp $-1, %r8d", x86.compare_immediate32("r8", -1), "4183f8ff"),
]

AARCH64: list[tuple[str, bytes, str]] = [
    ("svc #0", a64.syscall(), "010000d4"),
    ("brk #0", a64.trap(), "000020d4"),
    ("ret", a64.ret(), "c0035fd6"),
    ("hint #34", a64.bti_c(), "5f2403d5"),
    ("b . + 0x1000", a64.jump(0x400, 0x1400), "00040014"),
    ("b . - 0x8000000", a64.branch(-0x8000000), "00000016"),
    ("b.eq . + 0x20", a64.branch_if(a64.EQUAL, 0x20), "00010054"),
    ("b.ne . - 0x20", a64.branch_if(a64.NOT_EQUAL, -0x20), "01ffff54"),
    ("b.lt . + 0xffffc", a64.branch_if(a64.LESS, 0xFFFFC), "ebff7f54"),
    ("cbz x9, . + 8", a64.branch_if_zero("x9", 8), "490000b4"),
    ("cbnz x30, . - 8", a64.branch_if_not_zero("x30", -8), "deffffb5"),
    ("movz x8, #113", a64.load_immediate("x8", 113), "280e80d2"),
    ("movz x1, #0", a64.load_immediate("x1", 0), "010080d2"),
    ("movn x2, #0", a64.load_immediate("x2", -1), "02008092"),
    ("movz x3, #0xca00; movk x3, #0x3b9a, lsl #16", a64.load_immediate("x3", 1_000_000_000), "034099d24373a7f2"),
    ("movn x4, #0x1234", a64.load_immediate("x4", ~0x1234), "84468292"),
    ("movz x5, #1, lsl #48", a64.load_immediate("x5", 1 << 48), "2500e0d2"),
    (
        "movz x6, #0xdef0; movk x6, #0x9abc, lsl #16; movk x6, #0x5678, lsl #32; movk x6, #0x1234, lsl #48",
        a64.load_immediate("x6", 0x123456789ABCDEF0),
        "06de9bd28657b3f206cfcaf28646e2f2",
    ),
    (
        "movn x7, #0x1234, lsl #16; movk x7, #0x5678, lsl #48",
        a64.load_immediate("x7", 0x5678FFFFEDCBFFFF),
        "8746a29207cfeaf2",
    ),
    ("mov x9, x0", a64.move("x9", "x0"), "e90300aa"),
    ("mvn x9, x4", a64.move_not("x9", "x4"), "e90324aa"),
    ("add x10, x11, x12", a64.add("x10", "x11", "x12"), "6a010c8b"),
    ("sub x11, x11, x12", a64.subtract("x11", "x11", "x12"), "6b010ccb"),
    ("add x10, x10, #1", a64.increment("x10", 1), "4a050091"),
    ("add x30, x30, #4095", a64.increment("x30", 4095), "deff3f91"),
    ("cmp x11, x12", a64.compare("x11", "x12"), "7f010ceb"),
    ("cmp w9, #11", a64.compare_immediate32("x9", 11), "3f2d0071"),
    ("ldp x10, x11, [x1]", a64.load_pair("x10", "x11", "x1"), "2a2c40a9"),
    ("ldp x0, x30, [sp, #-512]", a64.load_pair("x0", "x30", "sp", -512), "e07b60a9"),
    ("stp x10, x11, [x9]", a64.store_pair("x10", "x11", "x9"), "2a2d00a9"),
    ("stp x1, x2, [sp, #504]", a64.store_pair("x1", "x2", "sp", 504), "e18b1fa9"),
]

RISCV64: list[tuple[str, bytes, str]] = [
    ("ecall", rv64.syscall(), "73000000"),
    ("ebreak", rv64.trap(), "73001000"),
    ("ret", rv64.ret(), "67800000"),
    ("auipc t2, 1; jalr zero, 0(t2)", rv64.jump(0x400, 0x1400), "9713000067800300"),
    ("auipc t2, 0; jalr zero, -16(t2)", rv64.jump(0x400, 0x3F0), "97030000678003ff"),
    ("auipc t2, 1; jalr zero, -2048(t2)", rv64.jump(0, 0x800), "9713000067800380"),
    ("auipc t2, 0x7ffff; jalr zero, 2046(t2)", rv64.jump(0, 0x7FFFF7FE), "97f3ff7f6780e37f"),
    ("li a7, 113", rv64.load_immediate("a7", 113), "93081007"),
    ("li t1, -1", rv64.load_immediate("t1", -1), "1303f0ff"),
    ("li t1, 1000000000", rv64.load_immediate("t1", 1_000_000_000), "37d39a3b1b0303a0"),
    ("lui t6, 0x80000", rv64.load_immediate("t6", -0x80000000), "b70f0080"),
    ("lui s1, 0x80000; addiw s1, s1, -1", rv64.load_immediate("s1", 0x7FFFFFFF), "b70400809b84f4ff"),
    (
        "li s2, 0x123456789abcdef0",
        rv64.load_immediate("s2", 0x123456789ABCDEF0),
        "377924001b09d98a1319e9001309d9c41319c9001309795e1319d900130909ef",
    ),
    ("addi s3, zero, -1; slli s3, s3, 63", rv64.load_immediate("s3", 1 << 63), "9309f0ff9399f903"),
    ("mv t0, a0", rv64.move("t0", "a0"), "93020500"),
    ("sext.w t0, a0", rv64.sign_extend32("t0", "a0"), "9b020500"),
    ("addi t3, t4, -2048", rv64.add_immediate("t3", "t4", -2048), "138e0e80"),
    ("slli a1, a2, 63", rv64.shift_left("a1", "a2", 63), "9315f603"),
    ("add t3, t4, t1", rv64.add("t3", "t4", "t1"), "338e6e00"),
    ("sub t4, t5, t1", rv64.subtract("t4", "t5", "t1"), "b30e6f40"),
    ("ld t4, 8(a1)", rv64.load("t4", "a1", 8), "83be8500"),
    ("ld s11, -2048(sp)", rv64.load("s11", "sp", -2048), "833d0180"),
    ("sd t4, 8(a1)", rv64.store("a1", 8, "t4"), "23b4d501"),
    ("sd s11, -2047(gp)", rv64.store("gp", -2047, "s11"), "a3b0b181"),
    ("beq t0, zero, . + 0x20", rv64.branch_if_equal("t0", "zero", 0x20), "63800202"),
    ("bne a0, t1, . - 0x1000", rv64.branch_if_not_equal("a0", "t1", -0x1000), "63106580"),
    ("blt t4, t1, . + 0xffe", rv64.branch_if_less("t4", "t1", 0xFFE), "e3cf6e7e"),
]


@pytest.mark.parametrize(("text", "code", "assembled"), [*X86_64, *AARCH64, *RISCV64])
def test_encoder_agrees_with_the_assembler(text: str, code: bytes, assembled: str) -> None:
    assert code.hex() == assembled, text


@pytest.mark.parametrize(("module", "alias"), [(x86, "x86"), (a64, "a64"), (rv64, "rv64")])
def test_no_encoder_is_left_out(module: ModuleType, alias: str) -> None:
    with open(__file__, encoding="utf-8") as file:
        source = file.read()
    encoders = {name for name in module.__all__ if callable(getattr(module, name))}
    assert {name for name in encoders if f"{alias}.{name}(" not in source} == set()
