//! A kernel for one process: enough of Linux for a static test binary that runs alone, on an emulated processor.
//!
//! Processors with AVX-512 are not at hand everywhere; Bochs emulates one. A whole Linux takes it longer to
//! start than anybody waits, and a test binary needs little of it: memory, a place to write to, and an
//! end. So this starts from the reset vector, turns the vector registers on, loads the binary and answers its
//! system calls. The binary is the crate's own, unchanged, so what is tested is what ships.
//!
//! ```text
//! physical memory (all of it mapped one to one, everything may be read, written and executed)
//!   0000_F000  page tables          000F_0000  ROM: reset to 64-bit mode (`.rom`)
//!   0010_0000  this kernel          0040_0000  the binary's segments, then its heap (brk)
//!   0FFF_0000  its arguments, each ended by a zero byte, an empty one behind the last
//!   1000_0000  the binary's file    1F00_0000  its stack, below 2000_0000
//!   2000_0000  maps (mmap), up to `MAPS_END`
//! ```
//!
//! The process runs with the kernel's rights: nothing is protected from it, and a fault ends everything with a
//! line that says where. There are no threads (`clone` says that there are too many), no files, no signals.
//! What it writes goes to port 0xE9, which Bochs prints. The last line is `emulated: exit N`.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::ptr::{addr_of, addr_of_mut};

const ARGUMENTS: usize = 0x0FFF_0000;
const FILE: usize = 0x1000_0000;
const STACK_END: usize = 0x2000_0000;
const HEAP_END: usize = 0x0FF0_0000;
const MAPS: usize = 0x2000_0000;
const MAPS_END: usize = 0x7000_0000;
const PAGE: usize = 4096;

// The reset vector is the last 16 bytes of the ROM, in 16-bit mode; from there to 32 and to 64 bits.
global_asm!(
    r#"
    .section .rom, "ax"
    .code16
rom_begin:
begin16:
    cli
    inb $0x92, %al
    orb $2, %al
    outb %al, $0x92
    lgdtl %cs:(gdt_register - rom_begin)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $0x08, $begin32
    .code32
begin32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    # Bochs puts an image into its own memory in one piece, but gives the guest 128 KiB of that at a time, as
    # they are touched: the binary's are touched first, in order, before anything takes those behind its first.
    movl $0x10000000, %esi
    movl $512, %ecx
1:  movb (%esi), %al
    addl $0x20000, %esi
    loop 1b
    # Page tables: one of level 4, one of level 3, four of level 2 with pages of 2 MiB.
    movl $0x10000, %edi
    xorl %eax, %eax
    movl $0x1800, %ecx
    rep stosl
    movl $0x11003, 0x10000
    movl $0x12003, 0x11000
    movl $0x13003, 0x11008
    movl $0x14003, 0x11010
    movl $0x15003, 0x11018
    movl $0x12000, %edi
    movl $0x83, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b
    movl $0x10000, %eax
    movl %eax, %cr3
    # PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
    movl $0x40620, %eax
    movl %eax, %cr4
    # EFER: system calls, long mode
    movl $0xC0000080, %ecx
    rdmsr
    orl $0x101, %eax
    wrmsr
    # PG, NE, MP, PE
    movl $0x80000023, %eax
    movl %eax, %cr0
    ljmpl $0x18, $begin64
    .code64
begin64:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    # XCR0: x87, SSE, AVX, the three of AVX-512
    xorl %ecx, %ecx
    xorl %edx, %edx
    movl $0xE7, %eax
    xsetbv
    leaq kernel_stack_end(%rip), %rsp
    movabsq $kernel, %rax
    callq *%rax
2:  hlt
    jmp 2b
    .balign 8
gdt:
    .quad 0
    .quad 0x00CF9A000000FFFF
    .quad 0x00CF92000000FFFF
    .quad 0x00AF9A000000FFFF
    .quad 0x00CF92000000FFFF
gdt_register:
    .word 39
    .long gdt
    .org rom_begin + 0xFFF0
    .code16
    ljmpw $0xF000, $(begin16 - rom_begin)
    .org rom_begin + 0x10000
    .code64

    .section .bss
    .balign 64
vector_state:
    .skip 8192
    .skip 65536
kernel_stack_end:
    .skip 65536
call_stack_end:
user_stack:
    .quad 0

    .text
    # A system call: arguments in rdi, rsi, rdx, r10, r8, r9, number in rax, return address in rcx, flags in
    # r11. All other registers stay, the vector ones too, and so do the 128 bytes below the stack pointer.
system_call:
    movq %rsp, user_stack
    movq $call_stack_end, %rsp
    pushq %rcx
    pushq %r11
    pushq %r9
    pushq %r8
    pushq %r10
    pushq %rdx
    pushq %rsi
    pushq %rdi
    pushq %rax
    movl $-1, %eax
    movl $-1, %edx
    xsave64 vector_state
    movq %rsp, %rdi
    subq $8, %rsp
    cld
    callq answer
    addq $8, %rsp
    movq %rax, (%rsp)
    movl $-1, %eax
    movl $-1, %edx
    xrstor64 vector_state
    popq %rax
    popq %rdi
    popq %rsi
    popq %rdx
    popq %r10
    popq %r8
    popq %r9
    popfq
    popq %rcx
    movq user_stack, %rsp
    jmpq *%rcx

    # Faults: the number is put on the stack, with a zero where the processor puts no error code.
    .macro fault number, has_code
fault_\number:
    .if !\has_code
    pushq $0
    .endif
    pushq $\number
    jmp fault_any
    .endm
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 9, 15, 16, 18, 19
    fault \number, 0
    .endr
    .irp number, 8, 10, 11, 12, 13, 14, 17
    fault \number, 1
    .endr
fault_any:
    movq %rsp, %rdi
    movq %cr2, %rsi
    movq $kernel_stack_end, %rsp
    callq faulted
    .globl memcpy, memset, memcmp
memcpy:
    movq %rdi, %rax
    movq %rdx, %rcx
    rep movsb
    ret
memset:
    movq %rdi, %r8
    movl %esi, %eax
    movq %rdx, %rcx
    rep stosb
    movq %r8, %rax
    ret
memcmp:
    xorl %eax, %eax
    movq %rdx, %rcx
    cmpq %rax, %rax
    repe cmpsb
    seta %al
    sbbl $0, %eax
    ret
    .data
    .balign 8
fault_table:
    .irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19
    .quad fault_\number
    .endr
    .text
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    static fault_table: [u64; 20];
    fn system_call();
}

/// Where the heap ends, and the next map begins.
static mut HEAP: (usize, usize) = (0, 0);
static mut NEXT_MAP: usize = MAPS;
/// Maps that were given back: address and length.
static mut FREE: [(usize, usize); 4096] = [(0, 0); 4096];

fn print(text: &[u8]) {
    for &byte in text {
        // SAFETY: port 0xE9 prints.
        unsafe { asm!("out 0xE9, al", in("al") byte, options(nomem, nostack)) };
    }
}

fn print_number(mut number: u64, base: u64) {
    let (mut digits, mut at) = ([0; 20], 20);
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(number % base) as usize];
        number /= base;
        if number == 0 {
            break;
        }
    }
    print(&digits[at..]);
}

fn exit(code: u64) -> ! {
    print(b"\nemulated: exit ");
    print_number(code, 10);
    print(b"\n");
    loop {
        // SAFETY: nothing wakes a processor without interrupts; whoever reads the line ends the emulator.
        unsafe { asm!("hlt", options(nomem, nostack)) };
    }
}

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    print(b"\nemulated: the kernel panicked");
    exit(255)
}

#[unsafe(no_mangle)]
extern "C" fn faulted(frame: *const [u64; 6], address: u64) -> ! {
    // SAFETY: the frame was just pushed: number, error code, rip, cs, flags, rsp.
    let frame = unsafe { *frame };
    for (name, value) in
        [("\nemulated: fault ", frame[0]), (" code ", frame[1]), (" at ", frame[2]), (" address ", address)]
    {
        print(name.as_bytes());
        print_number(value, 16);
    }
    print(b" bytes");
    for at in 0..8 {
        print(b" ");
        // SAFETY: a faulting instruction was fetched from there, so it is mapped.
        print_number(u64::from(unsafe { ((frame[2] + at) as *const u8).read() }), 16);
    }
    exit(255)
}

/// SAFETY of what follows: one thread of one process, and memory as the module header has it.
unsafe fn write_msr(number: u32, value: u64) {
    unsafe {
        asm!("wrmsr", in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32);
    }
}

unsafe fn read<T: Copy>(address: usize) -> T {
    unsafe { (address as *const T).read_unaligned() }
}

#[unsafe(no_mangle)]
extern "C" fn kernel() -> ! {
    unsafe {
        // Interrupt gates for the faults.
        static mut GATES: [[u64; 2]; 20] = [[0; 2]; 20];
        for (number, &handler) in (*addr_of!(fault_table)).iter().enumerate() {
            let low = handler & 0xFFFF | 0x18 << 16 | 0x8E00 << 32 | (handler >> 16 & 0xFFFF) << 48;
            (*addr_of_mut!(GATES))[number] = [low, handler >> 32];
        }
        let mut register = [0_u8; 10];
        register[..2].copy_from_slice(&(16 * 20 - 1_u16).to_le_bytes());
        register[2..].copy_from_slice(&(addr_of!(GATES) as u64).to_le_bytes());
        asm!("lidt [{}]", in(reg) register.as_ptr());
        // STAR (the segments of a system call), LSTAR (its entry), and the flags that it clears.
        write_msr(0xC000_0081, 0x18 << 32);
        write_msr(0xC000_0082, system_call as *const () as u64);
        write_msr(0xC000_0084, 0x400);
        let (entry, headers, n_headers) = load();
        start(entry, headers, n_headers)
    }
}

/// Puts the segments of the binary in their places.
unsafe fn load() -> (usize, usize, usize) {
    unsafe {
        let entry: usize = read(FILE + 24);
        let headers = FILE + read::<usize>(FILE + 32);
        let n_headers = usize::from(read::<u16>(FILE + 56));
        let mut end = 0;
        for header in (0..n_headers).map(|number| headers + 56 * number) {
            if read::<u32>(header) != 1 {
                continue;
            }
            let [offset, address, _, in_file, in_memory]: [usize; 5] = read(header + 8);
            core::ptr::copy_nonoverlapping((FILE + offset) as *const u8, address as *mut u8, in_file);
            end = end.max(address + in_memory);
        }
        HEAP = (end.next_multiple_of(PAGE), end.next_multiple_of(PAGE));
        (entry, headers, n_headers)
    }
}

/// Jumps to the binary with what a process finds on its stack: arguments, environment, and the vector of
/// what the kernel says.
unsafe fn start(entry: usize, headers: usize, n_headers: usize) -> ! {
    let mut words = [0_usize; 64];
    let mut n = 1;
    let mut at = ARGUMENTS;
    unsafe {
        while read::<u8>(at) != 0 && n < 32 {
            words[n] = at;
            n += 1;
            while read::<u8>(at) != 0 {
                at += 1;
            }
            at += 1;
        }
    }
    words[0] = n - 1;
    static ENVIRONMENT: &[u8] = b"TOKEND_EMULATED=1\0";
    static RANDOM: [u8; 16] = *b"\x17\x8a\x33\xc1\x05\xee\x92\x4b\x70\x29\xd6\x1f\x88\x5c\xa3\x64";
    words[n + 1] = ENVIRONMENT.as_ptr() as usize;
    n += 3;
    // AT_PHDR, AT_PHENT, AT_PHNUM, AT_PAGESZ, AT_ENTRY, AT_RANDOM, AT_NULL
    let said = [(3, headers), (4, 56), (5, n_headers), (6, PAGE), (9, entry), (25, RANDOM.as_ptr() as usize), (0, 0)];
    for (key, value) in said {
        words[n] = key;
        words[n + 1] = value;
        n += 2;
    }
    let stack = STACK_END - 4096;
    unsafe {
        core::ptr::copy_nonoverlapping(words.as_ptr(), stack as *mut usize, n);
        asm!("mov rsp, {stack}", "xor edx, edx", "xor ebp, ebp", "jmp {entry}",
            stack = in(reg) stack, entry = in(reg) entry, options(noreturn));
    }
}

/// Answers a system call: its number and six arguments. Negative numbers are errors.
#[unsafe(no_mangle)]
unsafe extern "C" fn answer(call: *const [usize; 7]) -> isize {
    const ENOENT: isize = -2;
    const EAGAIN: isize = -11;
    const ENOTTY: isize = -25;
    const ENOSYS: isize = -38;
    unsafe {
        let [number, a, b, c, d, ..] = *call;
        match number {
            // read: the end of the file
            0 => 0,
            // write, writev
            1 => {
                print(core::slice::from_raw_parts(b as *const u8, c));
                c as isize
            }
            20 => {
                let parts = core::slice::from_raw_parts(b as *const [usize; 2], c);
                parts.iter().for_each(|&[at, len]| print(core::slice::from_raw_parts(at as *const u8, len)));
                parts.iter().map(|part| part[1] as isize).sum()
            }
            // mmap, of nothing but memory
            9 => if d & 0x20 != 0 { map(b) as isize } else { ENOSYS },
            11 => {
                give_back(a, b);
                0
            }
            12 => {
                if a >= HEAP.0 && a < HEAP_END {
                    if a > HEAP.1 {
                        core::ptr::write_bytes(HEAP.1 as *mut u8, 0, a - HEAP.1);
                    }
                    HEAP.1 = a;
                }
                HEAP.1 as isize
            }
            // mremap: always moves
            25 => {
                let to = map(c);
                core::ptr::copy_nonoverlapping(a as *const u8, to as *mut u8, b.min(c));
                give_back(a, b);
                to as isize
            }
            // madvise: MADV_DONTNEED empties
            28 => {
                if c == 4 {
                    core::ptr::write_bytes(a as *mut u8, 0, b);
                }
                0
            }
            // clone, fork, vfork, clone3
            56..=58 | 435 => EAGAIN,
            // exit, exit_group
            60 | 231 => exit(a as u64 & 0xFF),
            // kill, tgkill: by itself, to end
            62 | 234 => exit(255),
            158 => {
                if a != 0x1002 {
                    return ENOSYS;
                }
                write_msr(0xC000_0100, b as u64);
                0
            }
            // sched_getaffinity: one processor
            204 => {
                *(c as *mut u64) = 1;
                8
            }
            // clock_gettime: of a processor of 1 GHz
            228 => {
                let ticks = core::arch::x86_64::_rdtsc();
                *(b as *mut [u64; 2]) = [1_700_000_000 + ticks / 1_000_000_000, ticks % 1_000_000_000];
                0
            }
            // prlimit64: eight megabytes of everything
            302 => {
                if d != 0 {
                    *(d as *mut [u64; 2]) = [8 << 20; 2];
                }
                0
            }
            // getrandom: any numbers
            318 => {
                for at in 0..b {
                    *((a + at) as *mut u8) = (at as u8).wrapping_mul(167) ^ 0x5A;
                }
                b as isize
            }
            // poll, mprotect, rt_sigaction, rt_sigprocmask, sched_yield, getpid, sigaltstack, set_tid_address, futex,
            // set_robust_list, close
            3 | 7 | 10 | 13 | 14 | 24 | 39 | 131 | 186 | 202 | 218 | 273 => 0,
            // ioctl
            16 => ENOTTY,
            // open, openat, readlink, readlinkat, stat and its kin, access
            2 | 4 | 5 | 6 | 21 | 79 | 89 | 257 | 262 | 267 | 332 | 439 => ENOENT,
            // rseq
            334 => ENOSYS,
            _ => {
                print(b"\nemulated: no system call ");
                print_number(number as u64, 10);
                print(b"\n");
                ENOSYS
            }
        }
    }
}

/// Zeroed memory.
unsafe fn map(len: usize) -> usize {
    let len = len.next_multiple_of(PAGE);
    unsafe {
        for free in &mut *addr_of_mut!(FREE) {
            if free.1 >= len {
                let at = free.0;
                *free = (at + len, free.1 - len);
                core::ptr::write_bytes(at as *mut u8, 0, len);
                return at;
            }
        }
        let at = NEXT_MAP;
        NEXT_MAP += len;
        if NEXT_MAP > MAPS_END {
            print(b"\nemulated: out of memory");
            exit(255);
        }
        at
    }
}

unsafe fn give_back(at: usize, len: usize) {
    let len = len.next_multiple_of(PAGE);
    unsafe {
        let all = &mut *addr_of_mut!(FREE);
        let beside = |free: &&mut (usize, usize)| free.1 > 0 && (free.0 + free.1 == at || at + len == free.0);
        if let Some(free) = all.iter_mut().find(beside) {
            *free = (free.0.min(at), free.1 + len);
        } else if let Some(free) = all.iter_mut().find(|free| free.1 == 0) {
            *free = (at, len);
        }
    }
}
