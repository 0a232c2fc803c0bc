# SPDX-License-Identifier: Apache-2.0
"""Counts what the CPU does to a page: every load and store, with its direction and width.

The page cannot be touched. Whatever does faults; the handler notes the address, whether it was a
write, and how wide the instruction is, opens the page for this one instruction (single step), and
closes it again. x86-64 Linux, and a C compiler.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import cffi

SIZE = 8192

_DECLARATIONS = """
typedef struct { uint32_t offset; uint8_t is_write; uint8_t width; } access_t;
void *tracer_open(void);
void tracer_close(void);
void tracer_start(void);
int tracer_stop(void);
access_t tracer_access(int index);
void store_twice(void *base, size_t offset, uint32_t value);
void store_16(void *base, size_t offset, uint16_t value);
void store_64(void *base, size_t offset, uint64_t value);
void copy_by_bytes(void *base, size_t offset, const char *data, size_t size);
void copy_by_vectors(void *base, size_t offset, const char *data);
"""

_SOURCE = r"""
#define _GNU_SOURCE
#include <immintrin.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define SIZE 8192
#define MOST 4096
#define TRAP_FLAG 0x100

typedef struct { uint32_t offset; uint8_t is_write; uint8_t width; } access_t;

static unsigned char *page;
static access_t seen[MOST];
static volatile int count;
static struct sigaction old_segv, old_trap;

/* How many bytes the instruction moves to or from memory; 0 when it is none of those below. */
static uint8_t width_of(const unsigned char *code)
{
    int has_66 = 0, has_f3 = 0, wide = 0;
    for (;; code++) {
        if (*code == 0x66) has_66 = 1;
        else if (*code == 0xF3 || *code == 0xF2) has_f3 = 1;
        else if ((*code & 0xF0) == 0x40) { wide = *code & 8; code++; break; }
        else break;
    }
    if (*code == 0xC5 || *code == 0xC4) { /* VEX: 256 or 128 bits by its L bit */
        int bits = *code == 0xC5 ? code[1] : code[2];
        return bits & 4 ? 32 : 16;
    }
    if (*code == 0x62) return 64;
    if (*code == 0x0F) {
        switch (code[1]) {
        case 0xB6: case 0xBE: return 1;
        case 0xB7: case 0xBF: return 2;
        case 0x10: case 0x11: case 0x28: case 0x29: case 0x6F: case 0x7F: case 0xE7: return 16;
        case 0x6E: case 0x7E: return has_f3 ? 8 : wide ? 8 : 4;
        case 0xD6: return 8;
        case 0xB0: case 0xC0: return 1;
        case 0xB1: case 0xC1: return wide ? 8 : has_66 ? 2 : 4;
        default: return 0;
        }
    }
    switch (*code) {
    case 0x88: case 0x8A: case 0xC6: case 0xA4: case 0xAA: case 0x00: case 0x02: case 0x38:
    case 0x3A: case 0x80: case 0x84: case 0x86: case 0xF6:
        return 1;
    case 0x89: case 0x8B: case 0xC7: case 0xA5: case 0xAB: case 0x01: case 0x03: case 0x39:
    case 0x3B: case 0x81: case 0x83: case 0x85: case 0x87: case 0xF7: case 0x09: case 0x0B:
    case 0x21: case 0x23: case 0x31: case 0x33:
        return wide ? 8 : has_66 ? 2 : 4;
    case 0x63:
        return 4;
    default:
        return 0;
    }
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    ucontext_t *state = context;
    unsigned char *address = info->si_addr;
    if (address < page || address >= page + SIZE) { /* somebody else's: let it happen */
        sigaction(SIGSEGV, &old_segv, 0);
        return;
    }
    if (count < MOST) {
        seen[count].offset = (uint32_t)(address - page);
        seen[count].is_write = (state->uc_mcontext.gregs[REG_ERR] & 2) != 0;
        seen[count].width = width_of((unsigned char *)state->uc_mcontext.gregs[REG_RIP]);
        count++;
    }
    mprotect(page, SIZE, PROT_READ | PROT_WRITE);
    state->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void on_step(int number, siginfo_t *info, void *context)
{
    ucontext_t *state = context;
    mprotect(page, SIZE, PROT_NONE);
    state->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
}

static void *tracer_open(void)
{
    page = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? 0 : page;
}

static void tracer_close(void) { munmap(page, SIZE); }

static void tracer_start(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    action.sa_sigaction = on_fault;
    sigaction(SIGSEGV, &action, &old_segv);
    action.sa_sigaction = on_step;
    sigaction(SIGTRAP, &action, &old_trap);
    count = 0;
    mprotect(page, SIZE, PROT_NONE);
}

static int tracer_stop(void)
{
    mprotect(page, SIZE, PROT_READ | PROT_WRITE);
    sigaction(SIGSEGV, &old_segv, 0);
    sigaction(SIGTRAP, &old_trap, 0);
    return count;
}

static access_t tracer_access(int index) { return seen[index]; }

/* What must not be done, for the tracer to catch. */
static void store_twice(void *base, size_t offset, uint32_t value)
{
    volatile uint32_t *word = (volatile uint32_t *)((char *)base + offset);
    *word = value;
    *word = value;
}

static void store_16(void *base, size_t offset, uint16_t value)
{
    *(volatile uint16_t *)((char *)base + offset) = value;
}

static void store_64(void *base, size_t offset, uint64_t value)
{
    *(volatile uint64_t *)((char *)base + offset) = value;
}

static void copy_by_bytes(void *base, size_t offset, const char *data, size_t size)
{
    volatile char *target = (char *)base + offset;
    for (size_t place = 0; place < size; place++) target[place] = data[place];
}

static void copy_by_vectors(void *base, size_t offset, const char *data)
{
    _mm_storeu_si128((__m128i *)((char *)base + offset), _mm_loadu_si128((const __m128i *)data));
}
"""


class Access(NamedTuple):
    """One access: `r` or `w`, where in the page, how many bytes."""

    direction: str
    offset: int
    width: int


def missing() -> str:
    """Return why there can be no tracer here, or an empty string."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        return "accesses are traced on x86-64 Linux only"
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        return "there is no C compiler"
    return ""


def build(folder: Path) -> Any:
    """Compile the tracer and return its module."""
    builder = cffi.FFI()
    builder.cdef(_DECLARATIONS)
    builder.set_source("access_tracer_native", _SOURCE, extra_compile_args=["-O1"])
    path = builder.compile(tmpdir=str(folder))
    spec = importlib.util.spec_from_file_location("access_tracer_native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class AccessTracer:
    """A page whose accesses are noted while a `with` statement runs.

    Args:
        module: what `build` returned.

    Attributes:
        ffi, lib: the tracer's own module, which also has stores that must be caught.
        base: the page.
        accesses: what was done to it.
    """

    def __init__(self, module: Any) -> None:
        self.ffi, self.lib = module.ffi, module.lib
        self.base = self.lib.tracer_open()
        self.accesses: list[Access] = []

    @property
    def buffer(self) -> Any:
        """The page as a buffer."""
        return self.ffi.buffer(self.base, SIZE)

    def __enter__(self) -> AccessTracer:
        self.accesses.clear()
        self.lib.tracer_start()
        return self

    def __exit__(self, *_: object) -> None:
        count = self.lib.tracer_stop()
        for number in range(count):
            seen = self.lib.tracer_access(number)
            self.accesses.append(Access("rw"[seen.is_write], seen.offset, seen.width))

    def close(self) -> None:
        """Give the page back."""
        self.lib.tracer_close()
