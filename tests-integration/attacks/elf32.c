/* A freestanding i386 program: getpid(2) by its 32-bit number, then exit(2) with status 42. Build: -m32 -nostdlib -static. */
void _start(void)
{
    long ignored;
    __asm__ volatile("int $0x80" : "=a"(ignored) : "0"(20));
    __asm__ volatile("int $0x80" : : "a"(1), "b"(42));
    for (;;) {
    }
}
