# SPDX-License-Identifier: Apache-2.0
"""Builds `i2o.transport._native`: register accesses that are exactly one bus access each.

A pointer store through cffi is two stores, a ctypes store reads first, a slice of a memoryview
touches twice: on the port of a FIFO each of these loses or doubles a frame. Only compiled code
with volatile accesses keeps the promise. The extension is optional; `setup.py` names this module.
"""

from __future__ import annotations

import cffi

_DECLARATIONS = """
uint32_t i2o_read32(void *base, size_t offset);
void i2o_write32(void *base, size_t offset, uint32_t value);
void i2o_write_words(void *base, size_t offset, const char *data, size_t words);
void i2o_read_words(void *base, size_t offset, char *data, size_t words);
void i2o_to_device(void);
void i2o_from_device(void);
"""

_SOURCE = r"""
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Barriers by what they are for. A fence for threads is too weak on ARM, where a device is in
   another shareability domain than the other cores. */
#if defined(__x86_64__) || defined(__i386__)
#define TO_DEVICE() __asm__ __volatile__("" ::: "memory")
#define FROM_DEVICE() __asm__ __volatile__("" ::: "memory")
#elif defined(__aarch64__)
#define TO_DEVICE() __asm__ __volatile__("dmb oshst" ::: "memory")
#define FROM_DEVICE() __asm__ __volatile__("dmb oshld" ::: "memory")
#else
#define TO_DEVICE() __sync_synchronize()
#define FROM_DEVICE() __sync_synchronize()
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define LITTLE(value) __builtin_bswap32(value)
#else
#define LITTLE(value) (value)
#endif

static volatile uint32_t *word_at(void *base, size_t offset)
{
    return (volatile uint32_t *)((char *)base + offset);
}

static uint32_t i2o_read32(void *base, size_t offset)
{
    uint32_t value = *word_at(base, offset);
    FROM_DEVICE();
    return LITTLE(value);
}

static void i2o_write32(void *base, size_t offset, uint32_t value)
{
    TO_DEVICE();
    *word_at(base, offset) = LITTLE(value);
}

static void i2o_write_words(void *base, size_t offset, const char *data, size_t words)
{
    volatile uint32_t *target = word_at(base, offset);
    for (size_t place = 0; place < words; place++) {
        uint32_t value;
        memcpy(&value, data + 4 * place, 4);
        target[place] = value;
    }
}

static void i2o_read_words(void *base, size_t offset, char *data, size_t words)
{
    volatile uint32_t *source = word_at(base, offset);
    for (size_t place = 0; place < words; place++) {
        uint32_t value = source[place];
        memcpy(data + 4 * place, &value, 4);
    }
    FROM_DEVICE();
}

static void i2o_to_device(void) { TO_DEVICE(); }
static void i2o_from_device(void) { FROM_DEVICE(); }
"""

builder = cffi.FFI()
builder.cdef(_DECLARATIONS)
builder.set_source("i2o.transport._native", _SOURCE, optional=True)
