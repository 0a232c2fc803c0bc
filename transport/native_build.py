# SPDX-License-Identifier: Apache-2.0
"""Builds `i2o.transport._native`: register accesses, and rings in memory that processes share.

A pointer store through cffi is two stores, a ctypes store reads first, a slice of a memoryview
touches twice: on the port of a FIFO each of these loses or doubles a frame. Only compiled code
with volatile accesses keeps the promise. Rings need atomic accesses and fences, which Python has
not, either. The extension is optional; `setup.py` names this module.

A ring carries packets one way, from one producer to one consumer. `docs/shared-memory.md` has its
layout and says why no wake-up is lost. What the other side has written is only ever read once into
a local variable, checked, and then used.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from runpy import run_path

import cffi

_DECLARATIONS = """
uint32_t i2o_read32(void *base, size_t offset);
void i2o_write32(void *base, size_t offset, uint32_t value);
void i2o_write_words(void *base, size_t offset, const char *data, size_t words);
void i2o_read_words(void *base, size_t offset, char *data, size_t words);
void i2o_to_device(void);
void i2o_from_device(void);

typedef struct i2o_ring { uint32_t place; uint32_t seen; uint32_t limit; ...; } i2o_ring;
int i2o_ring_open(i2o_ring *ring, char *control, char *data, uint32_t size, int wake_fd);
void i2o_ring_close(i2o_ring *ring);
int i2o_ring_push(i2o_ring *ring, const char *packet, uint32_t length);
int i2o_ring_push_record(i2o_ring *ring, uint32_t word, uint32_t value, uint32_t more);
int i2o_ring_push_two(i2o_ring *ring, const char *head, uint32_t head_length, const char *rest,
                      uint32_t rest_length);
int i2o_ring_pop(i2o_ring *ring, char *into, uint32_t room, int64_t nanoseconds);
int i2o_ring_take(i2o_ring *ring, char *into, uint32_t room, uint32_t grain);
int i2o_ring_pending(i2o_ring *ring);
int i2o_ring_arm(i2o_ring *ring);
void i2o_ring_disarm(i2o_ring *ring);
int i2o_ring_spin(i2o_ring *ring, int64_t nanoseconds);
int i2o_is_quiet(int descriptor);
"""

_SOURCE = r"""
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

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

/* ---- rings ---------------------------------------------------------------------------------- */

/* Four words, each on a cache line of its own: who writes one does not disturb the others. */
#if defined(__x86_64__) || defined(__i386__)
#define FENCE_BEHIND_EXCHANGE __ATOMIC_ACQ_REL /* it was one, for the compiler only */
#else
#define FENCE_BEHIND_EXCHANGE __ATOMIC_SEQ_CST
#endif

enum { TAIL = 0, HEAD = 64, SLEEPS = 128, WAITS = 192 };
enum { EMPTY_RING = -1, BROKEN_RING = -2, NO_FIT = -3, NO_SPACE = 0, PUSHED = 1 };
#define SKIP 0xFFFFFFFFu
#define MOST_TAKEN 8192
#define ALIGNED(length) (((length) + 7u) & ~7u)

typedef struct i2o_ring {
    uint32_t place;      /* ours: tail of a producer, head of a consumer */
    uint32_t seen;       /* the other side's, as it was read and checked last */
    uint32_t size, limit;
    int wake_fd, busy, closed;
    unsigned char *data;
    uint32_t *tail, *head, *sleeps, *waits;
} i2o_ring;

static int i2o_ring_open(i2o_ring *ring, char *control, char *data, uint32_t size, int wake_fd)
{
    if (size < 64 || (size & (size - 1)) || size > 0x40000000u)
        return -1;
    memset(ring, 0, sizeof *ring);
    ring->size = size;
    ring->limit = size / 4;
    ring->wake_fd = wake_fd;
    ring->data = (unsigned char *)data;
    ring->tail = (uint32_t *)(control + TAIL);
    ring->head = (uint32_t *)(control + HEAD);
    ring->sleeps = (uint32_t *)(control + SLEEPS);
    ring->waits = (uint32_t *)(control + WAITS);
    return 0;
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __asm__ __volatile__("pause");
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Threads of one process share an end, and one of them may close it: shared memory is touched with
   the lock only. What is locked is short, so waiting for it spins. */
static void lock(i2o_ring *ring)
{
    int rounds = 0;
    while (__atomic_exchange_n(&ring->busy, 1, __ATOMIC_ACQUIRE)) {
        relax();
        if (++rounds % 1024 == 0)
            sched_yield();
    }
}

static void unlock(i2o_ring *ring) { __atomic_store_n(&ring->busy, 0, __ATOMIC_RELEASE); }

/* Afterwards the memory is not touched, which may soon be gone, nor the eventfd, whose number may
   soon be another file's. */
static void i2o_ring_close(i2o_ring *ring)
{
    lock(ring);
    ring->wake_fd = -1;
    ring->closed = 1;
    unlock(ring);
}

/* The other side said that it sleeps, or is going to: wake it, once for each time it said so. The
   write never waits: an eventfd that is full is readable already. */
static void wake(i2o_ring *ring, uint32_t *flag)
{
    if (__atomic_load_n(flag, __ATOMIC_RELAXED) && __atomic_exchange_n(flag, 0, __ATOMIC_SEQ_CST)) {
        uint64_t one = 1;
        struct pollfd full = {.fd = ring->wake_fd, .events = POLLOUT};
        int saved = errno;
        if (ring->wake_fd >= 0 && poll(&full, 1, 0) == 1)
            while (write(ring->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
                ;
        errno = saved;
    }
}

/* Let the other side see how far we are, and only then look whether it sleeps. An exchange is a
   store with a full fence, and costs less than the two. */
static void publish(uint32_t *word, uint32_t place)
{
    (void)__atomic_exchange_n(word, place, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(FENCE_BEHIND_EXCHANGE);
}

/* Return how many bytes are free, or BROKEN_RING. */
static int64_t room_of(i2o_ring *ring)
{
    uint32_t head = __atomic_load_n(ring->head, __ATOMIC_ACQUIRE);
    uint32_t used = ring->place - head;
    if (used > ring->size || (used & 7))
        return BROKEN_RING;
    ring->seen = head;
    return ring->size - used;
}

static int push(i2o_ring *ring, const void *head, uint32_t head_length, const void *rest,
                uint32_t rest_length)
{
    uint32_t length = head_length + rest_length;
    uint32_t need, at, to_end, total;
    if (length < head_length || length > ring->limit)
        return BROKEN_RING;
    need = ALIGNED(length + 4);
    at = ring->place & (ring->size - 1);
    to_end = ring->size - at;
    total = need > to_end ? to_end + need : need;
    if (ring->size - (ring->place - ring->seen) < total) {
        int64_t room = room_of(ring);
        if (room >= 0 && room < total) {
            /* say that we wait, and look again: one of the two sides sees what the other did */
            __atomic_store_n(ring->waits, 1, __ATOMIC_RELAXED);
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
            room = room_of(ring);
            if (room >= 0 && room < total)
                return NO_SPACE;
            __atomic_store_n(ring->waits, 0, __ATOMIC_RELAXED);
        }
        if (room < 0)
            return BROKEN_RING;
    }
    if (need > to_end) {
        uint32_t skip = SKIP;
        memcpy(ring->data + at, &skip, 4);
        at = 0;
    }
    memcpy(ring->data + at, &length, 4);
    memcpy(ring->data + at + 4, head, head_length);
    if (rest_length)
        memcpy(ring->data + at + 4 + head_length, rest, rest_length);
    ring->place += total;
    publish(ring->tail, ring->place);
    wake(ring, ring->sleeps);
    return PUSHED;
}

static int i2o_ring_push_two(i2o_ring *ring, const char *head, uint32_t head_length,
                             const char *rest, uint32_t rest_length)
{
    int outcome;
    lock(ring);
    outcome = ring->closed ? BROKEN_RING : push(ring, head, head_length, rest, rest_length);
    unlock(ring);
    return outcome;
}

static int i2o_ring_push(i2o_ring *ring, const char *packet, uint32_t length)
{
    return i2o_ring_push_two(ring, packet, length, NULL, 0);
}

static int i2o_ring_push_record(i2o_ring *ring, uint32_t word, uint32_t value, uint32_t more)
{
    uint32_t record[3];
    record[0] = LITTLE(word);
    record[1] = LITTLE(value);
    record[2] = LITTLE(more);
    return i2o_ring_push_two(ring, (const char *)record, sizeof record, NULL, 0);
}

/* Copy the next packet and go past it, without telling the producer yet. Returns its length; NO_FIT
   if it is within the limit of the ring, but larger than the room that is left. */
static int copy_next(i2o_ring *ring, char *into, uint32_t room)
{
    uint32_t used = ring->seen - ring->place, at, length, skipped = 0, need;
    if (!used) {
        uint32_t tail = __atomic_load_n(ring->tail, __ATOMIC_ACQUIRE);
        used = tail - ring->place;
        if (used > ring->size || (used & 7))
            return BROKEN_RING;
        if (!used)
            return EMPTY_RING;
        ring->seen = tail;
    }
    at = ring->place & (ring->size - 1);
    length = *(volatile uint32_t *)(ring->data + at);
    if (length == SKIP) {
        skipped = ring->size - at;
        if (skipped >= used)
            return BROKEN_RING;
        at = 0;
        length = *(volatile uint32_t *)ring->data;
    }
    if (length > ring->limit)
        return BROKEN_RING;
    need = ALIGNED(length + 4);
    if (need > used - skipped || need > ring->size - at)
        return BROKEN_RING;
    if (length > room)
        return NO_FIT;
    memcpy(into, ring->data + at + 4, length);
    ring->place += skipped + need;
    return (int)length;
}

static int pop(i2o_ring *ring, char *into, uint32_t room)
{
    int length = copy_next(ring, into, room);
    if (length < 0)
        return length == NO_FIT ? BROKEN_RING : length;
    publish(ring->head, ring->place);
    wake(ring, ring->waits);
    return length;
}

/* Take packets, one behind another, until there is none or no room; of each only whole grains. */
static int take(i2o_ring *ring, char *into, uint32_t room, uint32_t grain)
{
    uint32_t taken = 0;
    int length, packets = 0;
    /* not for ever, if there are empty ones */
    while (packets < MOST_TAKEN
           && (length = copy_next(ring, into + taken, room - taken)) >= 0) {
        packets++;
        taken += (uint32_t)length - (uint32_t)length % grain;
    }
    if (!packets) /* what is wrong, or does not fit now, will be so the next time */
        return length == NO_FIT ? BROKEN_RING : length;
    publish(ring->head, ring->place);
    wake(ring, ring->waits);
    return (int)taken;
}

/* A ring that is closed has something to tell: that it is. */
static int pending(i2o_ring *ring)
{
    return ring->closed || __atomic_load_n(ring->tail, __ATOMIC_ACQUIRE) != ring->place;
}

static int i2o_ring_pending(i2o_ring *ring)
{
    int found;
    lock(ring);
    found = pending(ring);
    unlock(ring);
    return found;
}

static int i2o_ring_arm(i2o_ring *ring)
{
    int sleeps = 0;
    lock(ring);
    if (!ring->closed) {
        __atomic_store_n(ring->sleeps, 1, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        sleeps = !pending(ring);
        if (!sleeps)
            __atomic_store_n(ring->sleeps, 0, __ATOMIC_RELAXED);
    }
    unlock(ring);
    return sleeps;
}

static void i2o_ring_disarm(i2o_ring *ring)
{
    lock(ring);
    if (!ring->closed)
        __atomic_store_n(ring->sleeps, 0, __ATOMIC_RELAXED);
    unlock(ring);
}

static int i2o_ring_spin(i2o_ring *ring, int64_t nanoseconds)
{
    struct timespec now;
    int64_t end = 0, time;
    for (;;) {
        int found = 0;
        lock(ring);
        for (int round = 0; round < 64 && !found; round++) {
            found = pending(ring);
            if (!found)
                relax();
        }
        unlock(ring);
        if (found || !nanoseconds)
            return found;
        clock_gettime(CLOCK_MONOTONIC, &now);
        time = now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
        if (!end)
            end = time + nanoseconds;
        else if (time >= end)
            return 0;
    }
}

static int i2o_ring_pop(i2o_ring *ring, char *into, uint32_t room, int64_t nanoseconds)
{
    int outcome;
    if (nanoseconds > 0 && !i2o_ring_spin(ring, nanoseconds))
        return EMPTY_RING;
    lock(ring);
    outcome = ring->closed ? BROKEN_RING : pop(ring, into, room);
    unlock(ring);
    return outcome;
}

static int i2o_ring_take(i2o_ring *ring, char *into, uint32_t room, uint32_t grain)
{
    int outcome;
    lock(ring);
    outcome = ring->closed ? BROKEN_RING : take(ring, into, room, grain);
    unlock(ring);
    return outcome;
}

/* Return whether there is nothing to be read from a socket, not even its end. */
static int i2o_is_quiet(int descriptor)
{
    struct pollfd look = {.fd = descriptor, .events = POLLIN};
    return descriptor >= 0 && !poll(&look, 1, 0);
}
"""

builder = cffi.FFI()
builder.cdef(_DECLARATIONS)


def _second_module() -> str:
    """Return it; a build script is in no package, so it cannot import the parts."""
    folder = Path(__file__).with_name("shm")
    frame, *types = (
        run_path(str(folder / f"native_{name}.py"))
        for name in ("tables", "host_table", "device_table", "fast_path")
    )
    return "".join((frame["COMMON"], *(part["SOURCE"] for part in types), frame["MODULE"]))


_HAS_STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")
builder.set_source(
    "i2o.transport._native",
    _SOURCE + _second_module(),
    # the oldest Python that is supported: buffers are in its stable ABI, and not in older ones
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if _HAS_STABLE_ABI else [],
    optional=True,
)
