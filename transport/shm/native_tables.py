# SPDX-License-Identifier: Apache-2.0
"""The frame tables of both ends in C, a second module of the extension that `native_build` builds.

Every message passes through them several times on each side, so what nearly all messages need is
done with one call from Python each time: `alloc`, `write`, `post`, `reap` and `release` of a port,
`fetch`, `recycle`, `take_reply_frame`, `post_reply` and `flush` of a unit. Whatever is unusual is
left to the Python that was given for it, before anything was done. Of the records that come in,
those which belong to every request are understood here; the first other one ends that, and Python
takes it and all behind it.

The interpreter's lock is held throughout. `tables.py` says what the types are, as Python sees them,
and does the same without a compiler.
"""

from __future__ import annotations

from typing import Final

SOURCE: Final = r"""
#include <limits.h>
#include <structmember.h>

#define RECORD 12
#define PACKET (1024 * RECORD)
#define MOST_REPLIES (1u << 20)
#define NO_FRAME 0xFFFFFFFFu
#define HEADER 16

enum { WITH_DEVICE, IS_FREE, WITH_HOST, IS_STATIC };
enum { WORD_POST = 1, WORD_RELEASE = 2, WORD_FREE = 6, WORD_REPLY = 8 };
enum { TOOK = 1, LEFT_MORE = 2, HAS_REST = 4 };

/* --- numbers in the order in which they came -------------------------------------------------- */

struct fifo {
    uint32_t *items;
    uint32_t room, head, used;
};

static uint32_t fifo_at(const struct fifo *fifo, uint32_t number)
{
    return fifo->items[(fifo->head + number) & (fifo->room - 1)];
}

static int fifo_put(struct fifo *fifo, uint32_t item)
{
    if (fifo->used == fifo->room) {
        uint32_t room = fifo->room ? 2 * fifo->room : 64;
        uint32_t *items = PyMem_Malloc(room * sizeof *items);
        if (!items) {
            PyErr_NoMemory();
            return -1;
        }
        for (uint32_t number = 0; number < fifo->used; number++)
            items[number] = fifo_at(fifo, number);
        PyMem_Free(fifo->items);
        *fifo = (struct fifo){items, room, 0, fifo->used};
    }
    fifo->items[(fifo->head + fifo->used++) & (fifo->room - 1)] = item;
    return 0;
}

static uint32_t fifo_take(struct fifo *fifo)
{
    uint32_t item = fifo_at(fifo, 0);
    fifo->head = (fifo->head + 1) & (fifo->room - 1);
    fifo->used--;
    return item;
}

static void fifo_clear(struct fifo *fifo)
{
    PyMem_Free(fifo->items);
    *fifo = (struct fifo){0};
}

/* --- a set of numbers, none of which is NO_FRAME ---------------------------------------------- */

struct set {
    uint32_t *items; /* NO_FRAME where there is none */
    uint32_t room, used;
    uint32_t salt;   /* so that nobody knows which numbers are in each other's way */
};

static uint32_t set_place(const struct set *set, uint32_t item)
{
    item ^= set->salt;
    item = (item ^ item >> 16) * 0x85EBCA6Bu;
    item = (item ^ item >> 13) * 0xC2B2AE35u;
    return (item ^ item >> 16) & (set->room - 1);
}

static int set_has(const struct set *set, uint32_t item)
{
    if (!set->room || item == NO_FRAME)
        return 0;
    for (uint32_t at = set_place(set, item);; at = (at + 1) & (set->room - 1)) {
        if (set->items[at] == item)
            return 1;
        if (set->items[at] == NO_FRAME)
            return 0;
    }
}

static void set_insert(struct set *set, uint32_t item)
{
    uint32_t at = set_place(set, item);
    while (set->items[at] != NO_FRAME)
        at = (at + 1) & (set->room - 1);
    set->items[at] = item;
    set->used++;
}

static int set_add(struct set *set, uint32_t item)
{
    if (2 * set->used >= set->room) { /* one half stays empty, so that a search ends soon */
        struct set larger = {NULL, set->room ? 2 * set->room : 128, 0, set->salt};
        larger.items = PyMem_Malloc(larger.room * sizeof *larger.items);
        if (!larger.items) {
            PyErr_NoMemory();
            return -1;
        }
        memset(larger.items, 0xFF, larger.room * sizeof *larger.items);
        for (uint32_t at = 0; at < set->room; at++)
            if (set->items[at] != NO_FRAME)
                set_insert(&larger, set->items[at]);
        PyMem_Free(set->items);
        *set = larger;
    }
    set_insert(set, item);
    return 0;
}

/* Take an item out, and move those behind it that would not be found across the gap. */
static void set_drop(struct set *set, uint32_t item)
{
    uint32_t mask = set->room - 1, gap, at;
    if (!set_has(set, item))
        return;
    for (gap = set_place(set, item); set->items[gap] != item; gap = (gap + 1) & mask)
        ;
    for (at = (gap + 1) & mask; set->items[at] != NO_FRAME; at = (at + 1) & mask) {
        uint32_t home = set_place(set, set->items[at]);
        if (((at - home) & mask) >= ((at - gap) & mask)) {
            set->items[gap] = set->items[at];
            gap = at;
        }
    }
    set->items[gap] = NO_FRAME;
    set->used--;
}

static void set_clear(struct set *set)
{
    PyMem_Free(set->items);
    *set = (struct set){.salt = set->salt};
}

/* --- what both tables have -------------------------------------------------------------------- */

struct table {
    i2o_ring *in, *out;        /* NULL: there are none, or not any more */
    PyObject *keeper;          /* keeps them */
    Py_buffer memory;          /* frames, and buffers of the host */
    uint32_t first, step, count;
    unsigned char *places;     /* where each frame is */
    unsigned char *taken;      /* records that came */
    Py_ssize_t rest, end;      /* those of them that Python has to take */
    uint32_t generation;
};

/* Call what does the unusual, which whoever is called may replace meanwhile. */
static PyObject *call_way(PyObject *way, PyObject *first, PyObject *second)
{
    PyObject *result;
    Py_INCREF(way);
    result = PyObject_CallFunctionObjArgs(way, first, second, NULL);
    Py_DECREF(way);
    return result;
}

static PyObject *number_of(uint32_t value) { return PyLong_FromUnsignedLong(value); }

/* Return 1 and the number, or 0 for whatever is no number of 32 bits. */
static int read_number(PyObject *object, uint32_t *number)
{
    unsigned long value = PyLong_AsUnsignedLong(object);
    if ((value == (unsigned long)-1 && PyErr_Occurred()) || value > 0xFFFFFFFFu) {
        PyErr_Clear();
        return 0;
    }
    *number = (uint32_t)value;
    return 1;
}

/* Return the place of a frame, or NULL. */
static unsigned char *place_of(struct table *table, uint32_t mfa)
{
    uint32_t at = mfa - table->first;
    if (mfa < table->first || at % table->step || at / table->step >= table->count)
        return NULL;
    return table->places + at / table->step;
}

static uint32_t mfa_of(const struct table *table, uint32_t index)
{
    return table->first + index * table->step;
}

static int table_open(struct table *table, uint32_t first, uint32_t step, uint32_t count)
{
    table->first = first;
    table->step = step ? step : 1;
    table->count = count;
    table->places = PyMem_Calloc(count ? count : 1, 1);
    table->taken = PyMem_Malloc(2 * PACKET);
    if (!table->places || !table->taken) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static void table_detach(struct table *table)
{
    table->in = table->out = NULL;
    table->rest = table->end = 0;
    if (table->memory.obj) {
        Py_buffer memory = table->memory;
        table->memory = (Py_buffer){0}; /* nobody finds it any more, whatever its end runs */
        PyBuffer_Release(&memory);
    }
    Py_CLEAR(table->keeper);
}

/* Frames that are not in the memory would be written behind it. */
static int table_attach(struct table *table, PyObject *memory)
{
    if (PyObject_GetBuffer(memory, &table->memory, PyBUF_WRITABLE))
        return -1;
    if ((uint64_t)table->memory.len < table->first + (uint64_t)table->step * table->count) {
        table_detach(table);
        PyErr_SetString(PyExc_ValueError, "the memory is too small for the frames");
        return -1;
    }
    return 0;
}

static void table_close(struct table *table)
{
    table_detach(table);
    PyMem_Free(table->places);
    PyMem_Free(table->taken);
    table->places = table->taken = NULL;
}

static uint32_t word_of(const unsigned char *record, int number)
{
    uint32_t word;
    memcpy(&word, record + 4 * number, 4);
    return LITTLE(word);
}

/* Whether a look is worth it. A ring that was closed has something to tell. */
static int has_news(i2o_ring *ring)
{
    return __atomic_load_n(&ring->closed, __ATOMIC_ACQUIRE) || pending(ring);
}

typedef int (*sift_t)(void *self, const unsigned char *records, int size);

/* Take packets out of the ring, and in what is understood of them. Returns what `tables.py` says;
   -3 with an exception. */
static int table_take_in(struct table *table, sift_t sift, void *self)
{
    int size, done;
    if (table->rest < table->end)
        return TOOK | HAS_REST;
    if (!table->in)
        return BROKEN_RING;
    size = i2o_ring_take(table->in, (char *)table->taken, 2 * PACKET, RECORD);
    if (size < 0)
        return size;
    done = sift(self, table->taken, size);
    if (done < 0)
        return -3;
    table->rest = done;
    table->end = size;
    return TOOK | (size > PACKET ? LEFT_MORE : 0) | (done < size ? HAS_REST : 0);
}

static PyObject *table_rest(struct table *table)
{
    PyObject *rest =
        PyBytes_FromStringAndSize((char *)table->taken + table->rest, table->end - table->rest);
    if (rest)
        table->rest = table->end = 0;
    return rest;
}

static PyObject *table_sift(sift_t sift, void *self, PyObject *records)
{
    Py_buffer view;
    int done;
    if (PyObject_GetBuffer(records, &view, PyBUF_SIMPLE))
        return NULL;
    done = sift(self, view.buf, view.len > INT_MAX ? INT_MAX : (int)view.len);
    PyBuffer_Release(&view);
    return done < 0 ? NULL : PyLong_FromLong(done);
}

static void free_object(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* --- the host's table ------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct table table;
    struct fifo free, replies;
    long long trusted_until_ns, trust_ns, news;
    int socket;                /* stays its owner's */
    char is_gone, is_starved, is_busy, is_slow; /* busy: Python takes a rest */
    uint64_t near_start, near_end; /* bus addresses that `arena` surely has */
    uint64_t arena_base;
    PyObject *arena;           /* the buffers of the host, a memoryview */
    PyObject *alloc, *write, *post, *reap, *release, *outbound; /* what does the unusual */
    PyObject *after;           /* called when something was taken, or None */
} host_table;

static int host_sift(void *object, const unsigned char *records, int size)
{
    host_table *self = object;
    int at = 0;
    for (; at + RECORD <= size; at += RECORD) {
        uint32_t word = word_of(records + at, 0), value = word_of(records + at, 1);
        if (word == WORD_REPLY && self->replies.used < MOST_REPLIES) {
            if (fifo_put(&self->replies, value) < 0)
                return -1;
        } else if (word == WORD_FREE) {
            unsigned char *place = place_of(&self->table, value);
            if (!place || (*place != WITH_DEVICE && *place != WITH_HOST))
                break;
            if (fifo_put(&self->free, value) < 0)
                return -1;
            *place = IS_FREE;
        } else {
            break;
        }
    }
    return at;
}

static int host_look(host_table *self)
{
    int code = table_take_in(&self->table, host_sift, self);
    if (code > 0)
        self->news++;
    return code;
}

/* Whether there is something that Python has to take, or has not taken in full. */
static int is_held(const host_table *self)
{
    return self->is_busy || self->table.rest < self->table.end;
}

static int is_unusual(const host_table *self)
{
    return self->is_gone || self->is_starved || self->is_slow || is_held(self) || !self->table.in;
}

/* Whether the other process is there: a look at the socket counts for a while. What is found there
   is for Python. The socket is ours as long as the rings are not closed, which comes before. */
static int is_trusted(host_table *self)
{
    struct timespec now;
    long long now_ns;
    clock_gettime(CLOCK_MONOTONIC, &now);
    now_ns = now.tv_sec * 1000000000LL + now.tv_nsec;
    if (now_ns < self->trusted_until_ns)
        return 1;
    if (__atomic_load_n(&self->table.in->closed, __ATOMIC_ACQUIRE) || !i2o_is_quiet(self->socket))
        return 0;
    self->trusted_until_ns = now_ns + self->trust_ns;
    return 1;
}

/* Pass on a number that was taken, or NULL, and say that something may have changed. */
static PyObject *host_passed(host_table *self, PyObject *number)
{
    if (number && self->after && self->after != Py_None) {
        PyObject *done = call_way(self->after, NULL, NULL);
        if (!done) {
            Py_DECREF(number);
            return NULL;
        }
        Py_DECREF(done);
    }
    return number;
}

static uint32_t host_take_free(host_table *self)
{
    uint32_t mfa;
    if (!self->free.used)
        return NO_FRAME;
    mfa = fifo_take(&self->free);
    *place_of(&self->table, mfa) = WITH_HOST;
    return mfa;
}

static PyObject *host_alloc(PyObject *object, PyObject *unused)
{
    host_table *self = (host_table *)object;
    (void)unused;
    if (!is_unusual(self)) {
        int code = has_news(self->table.in) ? host_look(self) : EMPTY_RING;
        if (code == -3)
            return NULL;
        if ((code == EMPTY_RING || code > 0) && !is_held(self) && self->free.used)
            return host_passed(self, number_of(host_take_free(self)));
    }
    return host_passed(self, call_way(self->alloc, NULL, NULL));
}

static PyObject *host_write(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    host_table *self = (host_table *)object;
    uint32_t mfa;
    unsigned char *place;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "write takes an MFA and a frame");
        return NULL;
    }
    if (!self->is_gone && self->table.memory.buf && read_number(args[0], &mfa)
        && (place = place_of(&self->table, mfa)) && *place == WITH_HOST) {
        Py_buffer frame;
        if (PyObject_GetBuffer(args[1], &frame, PyBUF_SIMPLE)) {
            PyErr_Clear();
        } else {
            int fits = frame.len <= (Py_ssize_t)self->table.step;
            /* getting a buffer may have run anything */
            if (fits && self->table.memory.buf && *place == WITH_HOST)
                memmove((char *)self->table.memory.buf + mfa, frame.buf, (size_t)frame.len);
            else
                fits = 0;
            PyBuffer_Release(&frame);
            if (fits)
                Py_RETURN_NONE;
        }
    }
    return call_way(self->write, args[0], args[1]);
}

static PyObject *host_post(PyObject *object, PyObject *argument)
{
    host_table *self = (host_table *)object;
    uint32_t mfa;
    unsigned char *place;
    if (!is_unusual(self) && read_number(argument, &mfa) && (place = place_of(&self->table, mfa))
        && *place == WITH_HOST && is_trusted(self)
        && i2o_ring_push_record(self->table.out, WORD_POST, mfa, self->table.generation)
               == PUSHED) {
        *place = WITH_DEVICE;
        Py_RETURN_NONE;
    }
    return call_way(self->post, argument, NULL);
}

static PyObject *host_reap(PyObject *object, PyObject *unused)
{
    host_table *self = (host_table *)object;
    (void)unused;
    if (!self->replies.used && !is_unusual(self)) {
        if (has_news(self->table.in)) {
            int code = host_look(self);
            if (code == -3)
                return NULL;
            if (code > 0 && !is_held(self) && !self->replies.used)
                return host_passed(self, number_of(NO_FRAME));
        } else if (is_trusted(self)) {
            return host_passed(self, number_of(NO_FRAME));
        }
    }
    if (self->replies.used && !is_held(self)) /* else what follows may take it back */
        return host_passed(self, number_of(fifo_take(&self->replies)));
    return host_passed(self, call_way(self->reap, NULL, NULL));
}

static PyObject *host_release(PyObject *object, PyObject *argument)
{
    host_table *self = (host_table *)object;
    uint32_t mfa;
    if (!is_unusual(self) && read_number(argument, &mfa) && mfa != NO_FRAME && mfa % 4 == 0
        && is_trusted(self)
        && i2o_ring_push_record(self->table.out, WORD_RELEASE, mfa, 0) == PUSHED)
        Py_RETURN_NONE;
    return call_way(self->release, argument, NULL);
}

static PyObject *host_outbound(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    host_table *self = (host_table *)object;
    uint32_t mfa, size;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "outbound takes an address and a number of bytes");
        return NULL;
    }
    if (read_number(args[0], &mfa) && read_number(args[1], &size) && mfa >= self->near_start
        && mfa < self->near_end && size <= self->near_end - mfa) {
        Py_ssize_t at = (Py_ssize_t)(mfa - self->arena_base);
        PyObject *arena = Py_NewRef(self->arena), *view;
        view = PySequence_GetSlice(arena, at, at + (Py_ssize_t)size);
        Py_DECREF(arena);
        return view;
    }
    return call_way(self->outbound, args[0], args[1]);
}

static PyObject *host_set_near(PyObject *object, PyObject *args)
{
    host_table *self = (host_table *)object;
    unsigned long long start, end;
    if (!PyArg_ParseTuple(args, "KK:set_near", &start, &end))
        return NULL;
    self->near_start = self->near_end = 0;
    if (self->arena && start >= self->arena_base && start < end) {
        self->near_start = start;
        self->near_end = end;
    }
    Py_RETURN_NONE;
}

static PyObject *host_call_take_in(PyObject *object, PyObject *unused)
{
    int code = host_look((host_table *)object);
    (void)unused;
    return code == -3 ? NULL : PyLong_FromLong(code);
}

static PyObject *host_rest(PyObject *object, PyObject *unused)
{
    host_table *self = (host_table *)object;
    PyObject *rest = table_rest(&self->table);
    (void)unused;
    self->is_busy = rest != NULL;
    return rest;
}

static PyObject *host_resume(PyObject *object, PyObject *unused)
{
    (void)unused;
    ((host_table *)object)->is_busy = 0;
    Py_RETURN_NONE;
}

static PyObject *host_call_is_held(PyObject *object, void *unused)
{
    (void)unused;
    return PyBool_FromLong(is_held((host_table *)object));
}

static PyObject *host_call_sift(PyObject *object, PyObject *records)
{
    return table_sift(host_sift, object, records);
}

static PyObject *host_call_take_free(PyObject *object, PyObject *unused)
{
    (void)unused;
    return number_of(host_take_free((host_table *)object));
}

/* Move a frame from one of the places to another; return whether it was there. */
static PyObject *move_frame(struct table *table, PyObject *argument, unsigned from, int to)
{
    uint32_t mfa;
    unsigned char *place = read_number(argument, &mfa) ? place_of(table, mfa) : NULL;
    if (!place || !(from >> *place & 1))
        Py_RETURN_FALSE;
    *place = (unsigned char)to;
    Py_RETURN_TRUE;
}

static PyObject *host_let_go(PyObject *object, PyObject *mfa)
{
    return move_frame(&((host_table *)object)->table, mfa, 1u << WITH_HOST, WITH_DEVICE);
}

static PyObject *host_hold(PyObject *object, PyObject *mfa)
{
    return move_frame(&((host_table *)object)->table, mfa,
                      1u << WITH_DEVICE | 1u << WITH_HOST | 1u << IS_STATIC, WITH_HOST);
}

/* A frame that is free as well stays so: the next to become free is one too many. */
static PyObject *host_fix(PyObject *object, PyObject *mfa)
{
    struct table *table = &((host_table *)object)->table;
    PyObject *is_free = move_frame(table, mfa, 1u << IS_FREE, IS_FREE);
    if (is_free == Py_True)
        return is_free;
    Py_XDECREF(is_free);
    return move_frame(table, mfa, ~(1u << IS_FREE), IS_STATIC);
}

static PyObject *host_is_held(PyObject *object, PyObject *argument)
{
    return move_frame(&((host_table *)object)->table, argument, 1u << WITH_HOST, WITH_HOST);
}

static PyObject *host_put_free(PyObject *object, PyObject *argument)
{
    host_table *self = (host_table *)object;
    uint32_t mfa;
    unsigned char *place = read_number(argument, &mfa) ? place_of(&self->table, mfa) : NULL;
    if (!place || *place == IS_FREE)
        Py_RETURN_FALSE;
    if (fifo_put(&self->free, mfa) < 0)
        return NULL;
    *place = IS_FREE;
    Py_RETURN_TRUE;
}

static PyObject *host_put_reply(PyObject *object, PyObject *argument)
{
    host_table *self = (host_table *)object;
    uint32_t mfa;
    if (self->replies.used >= MOST_REPLIES || !read_number(argument, &mfa))
        Py_RETURN_FALSE;
    if (fifo_put(&self->replies, mfa) < 0)
        return NULL;
    Py_RETURN_TRUE;
}

static PyObject *host_take_reply(PyObject *object, PyObject *unused)
{
    host_table *self = (host_table *)object;
    (void)unused;
    return number_of(self->replies.used ? fifo_take(&self->replies) : NO_FRAME);
}

static PyObject *host_drop_replies(PyObject *object, PyObject *unused)
{
    (void)unused;
    fifo_clear(&((host_table *)object)->replies);
    Py_RETURN_NONE;
}

static PyObject *host_refill(PyObject *object, PyObject *argument)
{
    host_table *self = (host_table *)object;
    uint32_t generation;
    if (!read_number(argument, &generation)) {
        PyErr_SetString(PyExc_ValueError, "a generation has 32 bits");
        return NULL;
    }
    fifo_clear(&self->free);
    for (uint32_t index = 0; index < self->table.count; index++) {
        if (fifo_put(&self->free, mfa_of(&self->table, index)) < 0)
            return NULL;
        self->table.places[index] = IS_FREE;
    }
    self->table.generation = generation;
    Py_RETURN_NONE;
}

static PyObject *host_detach(PyObject *object, PyObject *unused)
{
    host_table *self = (host_table *)object;
    (void)unused;
    self->near_start = self->near_end = 0;
    Py_CLEAR(self->arena);
    table_detach(&self->table);
    Py_RETURN_NONE;
}

static PyObject *host_free_count(PyObject *object, void *unused)
{
    (void)unused;
    return number_of(((host_table *)object)->free.used);
}

static PyObject *host_reply_count(PyObject *object, void *unused)
{
    (void)unused;
    return number_of(((host_table *)object)->replies.used);
}

/* Where what is kept of Python is, the ways first. */
#define HOST_WAYS 6
#define HOST_KEPT 7

static PyObject **host_kept(host_table *self, int number)
{
    PyObject **kept[HOST_KEPT] = {&self->alloc,   &self->write,    &self->post, &self->reap,
                                  &self->release, &self->outbound, &self->after};
    return kept[number];
}

static PyObject *host_new(PyTypeObject *type, PyObject *args, PyObject *names)
{
    static char *words[] = {"first", "step", "count", "memory", "arena", "arena_base", "rings",
                            "socket", "trust_ns", "ways", NULL};
    unsigned int first, step, count;
    int socket;
    long long trust_ns;
    unsigned long long arena_base, in, out;
    PyObject *memory, *arena, *keeper, *ways[HOST_WAYS];
    if (!PyArg_ParseTupleAndKeywords(args, names, "IIIOOK(OKK)iL(OOOOOO):HostTable", words, &first,
                                     &step, &count, &memory, &arena, &arena_base, &keeper, &in,
                                     &out, &socket, &trust_ns, &ways[0], &ways[1], &ways[2],
                                     &ways[3], &ways[4], &ways[5]))
        return NULL;
    allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    host_table *self = (host_table *)make(type, 0);
    if (!self)
        return NULL;
    for (int number = 0; number < HOST_WAYS; number++)
        *host_kept(self, number) = Py_NewRef(ways[number]);
    if (table_open(&self->table, first, step, count) < 0
        || table_attach(&self->table, memory) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->socket = socket;
    self->trust_ns = trust_ns;
    self->arena = Py_NewRef(arena);
    self->arena_base = arena_base;
    self->table.keeper = Py_NewRef(keeper);
    self->table.in = (i2o_ring *)(uintptr_t)in;
    self->table.out = (i2o_ring *)(uintptr_t)out;
    return (PyObject *)self;
}

/* Not the memory: a memoryview that the collector clears while it is exported is used again when
   that ends. It leads back to nobody. */
static int host_traverse(PyObject *object, visitproc visit, void *arg)
{
    host_table *self = (host_table *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->table.keeper);
    for (int number = 0; number < HOST_KEPT; number++)
        Py_VISIT(*host_kept(self, number));
    return 0;
}

/* What breaks a circle leaves every method callable. */
static int host_clear(PyObject *object)
{
    host_table *self = (host_table *)object;
    self->near_start = self->near_end = 0;
    Py_CLEAR(self->arena);
    table_detach(&self->table);
    for (int number = 0; number < HOST_KEPT; number++) {
        PyObject *old = *host_kept(self, number);
        *host_kept(self, number) = Py_NewRef(Py_None);
        Py_XDECREF(old);
    }
    return 0;
}

static void host_dealloc(PyObject *object)
{
    host_table *self = (host_table *)object;
    PyObject_GC_UnTrack(object);
    host_clear(object);
    for (int number = 0; number < HOST_KEPT; number++)
        Py_CLEAR(*host_kept(self, number));
    table_close(&self->table);
    fifo_clear(&self->free);
    fifo_clear(&self->replies);
    free_object(object);
}

static PyMemberDef host_members[] = {
    {"generation", T_UINT, offsetof(host_table, table.generation), READONLY, NULL},
    {"trusted_until_ns", T_LONGLONG, offsetof(host_table, trusted_until_ns), 0, NULL},
    {"news", T_LONGLONG, offsetof(host_table, news), 0, NULL},
    {"is_gone", T_BOOL, offsetof(host_table, is_gone), 0, NULL},
    {"is_starved", T_BOOL, offsetof(host_table, is_starved), 0, NULL},
    {"is_slow", T_BOOL, offsetof(host_table, is_slow), 0, NULL},
    {"after", T_OBJECT, offsetof(host_table, after), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef host_properties[] = {
    {"is_held", host_call_is_held, NULL, NULL, NULL},
    {"free_count", host_free_count, NULL, NULL, NULL},
    {"reply_count", host_reply_count, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef host_methods[] = {
    {"alloc", host_alloc, METH_NOARGS, NULL},
    {"write", (PyCFunction)(void (*)(void))host_write, METH_FASTCALL, NULL},
    {"post", host_post, METH_O, NULL},
    {"reap", host_reap, METH_NOARGS, NULL},
    {"release", host_release, METH_O, NULL},
    {"outbound", (PyCFunction)(void (*)(void))host_outbound, METH_FASTCALL, NULL},
    {"set_near", host_set_near, METH_VARARGS, NULL},
    {"take_in", host_call_take_in, METH_NOARGS, NULL},
    {"rest", host_rest, METH_NOARGS, NULL},
    {"resume", host_resume, METH_NOARGS, NULL},
    {"sift", host_call_sift, METH_O, NULL},
    {"take_free", host_call_take_free, METH_NOARGS, NULL},
    {"let_go", host_let_go, METH_O, NULL},
    {"hold", host_hold, METH_O, NULL},
    {"fix", host_fix, METH_O, NULL},
    {"holds", host_is_held, METH_O, NULL},
    {"put_free", host_put_free, METH_O, NULL},
    {"put_reply", host_put_reply, METH_O, NULL},
    {"take_reply", host_take_reply, METH_NOARGS, NULL},
    {"drop_replies", host_drop_replies, METH_NOARGS, NULL},
    {"refill", host_refill, METH_O, NULL},
    {"detach", host_detach, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot host_slots[] = {
    {Py_tp_new, host_new},           {Py_tp_dealloc, host_dealloc},
    {Py_tp_traverse, host_traverse}, {Py_tp_clear, host_clear},
    {Py_tp_members, host_members},   {Py_tp_getset, host_properties},
    {Py_tp_methods, host_methods},   {0, NULL},
};

static PyType_Spec host_spec = {
    "i2o.transport.shm._tables.HostTable", sizeof(host_table), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, host_slots,
};

/* --- the device's table ----------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    struct table table;
    struct fifo posted, replies;
    struct set idle;           /* those in replies */
    unsigned int most_replies;
    unsigned int held;         /* frames that the host has */
    char *outbox;
    size_t outbox_size, outbox_room;
    uint64_t near_start, near_end, arena_base; /* bus addresses */
    size_t arena_at;
    PyTypeObject *posted_frame;
    newfunc new_tuple;
    size_t most_outbox;        /* a host that does not listen is not listened to */
    PyObject *post_reply, *flush, *drain; /* what does the unusual */
} device_table;

static int device_sift(void *object, const unsigned char *records, int size)
{
    device_table *self = object;
    int at = 0;
    for (; at + RECORD <= size; at += RECORD) {
        uint32_t word = word_of(records + at, 0), value = word_of(records + at, 1);
        if (word == WORD_POST) {
            unsigned char *place = place_of(&self->table, value);
            if (!place || *place != WITH_HOST
                || word_of(records + at, 2) != self->table.generation)
                break;
            if (fifo_put(&self->posted, value) < 0)
                return -1;
            *place = WITH_DEVICE;
            self->held--;
        } else if (word == WORD_RELEASE) {
            if (value == NO_FRAME || self->replies.used >= self->most_replies
                || set_has(&self->idle, value))
                break;
            if (set_add(&self->idle, value) < 0)
                return -1;
            if (fifo_put(&self->replies, value) < 0) {
                set_drop(&self->idle, value);
                return -1;
            }
        } else {
            break;
        }
    }
    return at;
}

static PyObject *device_take_in(PyObject *object, PyObject *unused)
{
    device_table *self = (device_table *)object;
    int code = table_take_in(&self->table, device_sift, self);
    (void)unused;
    return code == -3 ? NULL : PyLong_FromLong(code);
}

static PyObject *device_drain(PyObject *object, PyObject *unused)
{
    device_table *self = (device_table *)object;
    (void)unused;
    if (self->table.in && self->table.rest == self->table.end
        && self->outbox_size <= self->most_outbox) {
        int code = has_news(self->table.in) ? table_take_in(&self->table, device_sift, self)
                                            : EMPTY_RING;
        if (code == -3)
            return NULL;
        if (code == EMPTY_RING || (code > 0 && !(code & HAS_REST)))
            return PyBool_FromLong(code > 0 && code & LEFT_MORE);
    }
    return call_way(self->drain, NULL, NULL);
}

static PyObject *device_rest(PyObject *object, PyObject *unused)
{
    (void)unused;
    return table_rest(&((device_table *)object)->table);
}

static PyObject *device_call_sift(PyObject *object, PyObject *records)
{
    return table_sift(device_sift, object, records);
}

static PyObject *device_fetch(PyObject *object, PyObject *unused)
{
    device_table *self = (device_table *)object;
    const unsigned char *frame;
    uint32_t mfa, size;
    PyObject *number, *data, *fields, *arguments, *found;
    (void)unused;
    if (!self->posted.used || !self->table.memory.buf)
        Py_RETURN_NONE;
    mfa = fifo_at(&self->posted, 0);
    frame = (unsigned char *)self->table.memory.buf + mfa;
    size = 4u * (*(const volatile unsigned char *)(frame + 2)
                 | (uint32_t)*(const volatile unsigned char *)(frame + 3) << 8);
    if (size < HEADER)
        size = HEADER;
    if (size > self->table.step)
        size = self->table.step;
    number = number_of(mfa);
    data = PyBytes_FromStringAndSize((const char *)frame, (Py_ssize_t)size);
    fields = number && data ? PyTuple_Pack(2, number, data) : NULL;
    Py_XDECREF(number);
    Py_XDECREF(data);
    arguments = fields ? PyTuple_Pack(1, fields) : NULL;
    Py_XDECREF(fields);
    if (!arguments)
        return NULL;
    found = self->new_tuple(self->posted_frame, arguments, NULL);
    Py_DECREF(arguments);
    if (found)
        (void)fifo_take(&self->posted);
    return found;
}

static int device_tell(device_table *self, uint32_t word, uint32_t value, uint32_t more)
{
    uint32_t record[3] = {LITTLE(word), LITTLE(value), LITTLE(more)};
    if (self->outbox_size + RECORD > self->outbox_room) {
        size_t room = self->outbox_room ? 2 * self->outbox_room : 64 * RECORD;
        char *outbox = PyMem_Realloc(self->outbox, room);
        if (!outbox) {
            PyErr_NoMemory();
            return -1;
        }
        self->outbox = outbox;
        self->outbox_room = room;
    }
    memcpy(self->outbox + self->outbox_size, record, RECORD);
    self->outbox_size += RECORD;
    return 0;
}

static PyObject *device_call_tell(PyObject *object, PyObject *args)
{
    unsigned int word, value, more;
    if (!PyArg_ParseTuple(args, "III:tell", &word, &value, &more)
        || device_tell((device_table *)object, word, value, more) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static void device_give(device_table *self, uint32_t mfa)
{
    unsigned char *place = place_of(&self->table, mfa);
    if (place && *place != WITH_HOST) {
        *place = WITH_HOST;
        self->held++;
    }
}

static PyObject *device_call_give(PyObject *object, PyObject *argument)
{
    uint32_t mfa;
    if (read_number(argument, &mfa))
        device_give((device_table *)object, mfa);
    Py_RETURN_NONE;
}

static PyObject *device_recycle(PyObject *object, PyObject *argument)
{
    device_table *self = (device_table *)object;
    uint32_t mfa;
    if (!read_number(argument, &mfa)) {
        PyErr_SetString(PyExc_ValueError, "an MFA has 32 bits");
        return NULL;
    }
    device_give(self, mfa);
    if (device_tell(self, WORD_FREE, mfa, 0) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *device_take_reply_frame(PyObject *object, PyObject *unused)
{
    device_table *self = (device_table *)object;
    uint32_t mfa;
    (void)unused;
    if (!self->replies.used)
        return number_of(NO_FRAME);
    mfa = fifo_take(&self->replies);
    set_drop(&self->idle, mfa);
    return number_of(mfa);
}

static PyObject *device_post_reply(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    device_table *self = (device_table *)object;
    uint32_t mfa;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "post_reply takes an address and a reply");
        return NULL;
    }
    if (PyBytes_Check(args[1]) && read_number(args[0], &mfa)) {
        uint64_t size = (uint64_t)PyBytes_Size(args[1]);
        if (mfa >= self->near_start && mfa < self->near_end && size <= self->near_end - mfa
            && self->table.memory.buf) {
            memcpy((char *)self->table.memory.buf + self->arena_at + (mfa - self->arena_base),
                   PyBytes_AsString(args[1]), size);
            if (device_tell(self, WORD_REPLY, mfa, 0) < 0)
                return NULL;
            Py_RETURN_NONE;
        }
    }
    return call_way(self->post_reply, args[0], args[1]);
}

static PyObject *device_flush(PyObject *object, PyObject *unused)
{
    device_table *self = (device_table *)object;
    (void)unused;
    if (self->table.out) {
        if (!self->outbox_size)
            Py_RETURN_TRUE;
        if (self->outbox_size <= PACKET
            && i2o_ring_push(self->table.out, self->outbox, (uint32_t)self->outbox_size)
                   == PUSHED) {
            self->outbox_size = 0;
            Py_RETURN_TRUE;
        }
    }
    return call_way(self->flush, NULL, NULL);
}

static PyObject *device_packet(PyObject *object, PyObject *unused)
{
    device_table *self = (device_table *)object;
    size_t size = self->outbox_size < PACKET ? self->outbox_size : PACKET;
    (void)unused;
    return PyBytes_FromStringAndSize(self->outbox, (Py_ssize_t)size);
}

static PyObject *device_told(PyObject *object, PyObject *argument)
{
    device_table *self = (device_table *)object;
    uint32_t size;
    if (!read_number(argument, &size) || size > self->outbox_size)
        size = (uint32_t)self->outbox_size;
    self->outbox_size -= size;
    if (self->outbox_size)
        memmove(self->outbox, self->outbox + size, self->outbox_size);
    Py_RETURN_NONE;
}

static PyObject *device_add_post(PyObject *object, PyObject *argument)
{
    device_table *self = (device_table *)object;
    uint32_t mfa;
    if (!read_number(argument, &mfa) || !place_of(&self->table, mfa))
        Py_RETURN_FALSE;
    if (fifo_put(&self->posted, mfa) < 0)
        return NULL;
    Py_RETURN_TRUE;
}

static PyObject *device_drop_posts(PyObject *object, PyObject *argument)
{
    device_table *self = (device_table *)object;
    uint32_t mfa = 0, count = self->posted.used, dropped = 0;
    int is_number = read_number(argument, &mfa);
    for (uint32_t number = 0; number < count; number++) {
        uint32_t posted = fifo_take(&self->posted);
        if (is_number && posted == mfa)
            dropped++;
        else
            (void)fifo_put(&self->posted, posted); /* there is room: one was taken out */
    }
    return number_of(dropped);
}

static PyObject *device_has_reply_frame(PyObject *object, PyObject *argument)
{
    uint32_t mfa;
    int has = read_number(argument, &mfa) && set_has(&((device_table *)object)->idle, mfa);
    return PyBool_FromLong(has);
}

static PyObject *device_drop_reply_frames(PyObject *object, PyObject *unused)
{
    device_table *self = (device_table *)object;
    (void)unused;
    fifo_clear(&self->replies);
    set_clear(&self->idle);
    Py_RETURN_NONE;
}

static PyObject *device_refill(PyObject *object, PyObject *argument)
{
    device_table *self = (device_table *)object;
    uint32_t generation;
    if (!read_number(argument, &generation)) {
        PyErr_SetString(PyExc_ValueError, "a generation has 32 bits");
        return NULL;
    }
    fifo_clear(&self->posted);
    self->held = self->table.memory.buf ? self->table.count : 0; /* nobody has them otherwise */
    memset(self->table.places, self->held ? WITH_HOST : WITH_DEVICE, self->table.count);
    self->table.generation = generation;
    Py_RETURN_NONE;
}

static PyObject *device_set_near(PyObject *object, PyObject *args)
{
    device_table *self = (device_table *)object;
    unsigned long long start, end;
    if (!PyArg_ParseTuple(args, "KK:set_near", &start, &end))
        return NULL;
    self->near_start = self->near_end = 0;
    if (self->table.memory.buf && start >= self->arena_base && start < end
        && end - self->arena_base <= (uint64_t)self->table.memory.len - self->arena_at) {
        self->near_start = start;
        self->near_end = end;
    }
    Py_RETURN_NONE;
}

static PyObject *device_attach(PyObject *object, PyObject *args)
{
    device_table *self = (device_table *)object;
    PyObject *memory, *keeper;
    unsigned long long in, out, arena_base;
    Py_ssize_t arena_at;
    if (!PyArg_ParseTuple(args, "OnKOKK:attach", &memory, &arena_at, &arena_base, &keeper, &in,
                          &out))
        return NULL;
    if (self->table.memory.buf) {
        PyErr_SetString(PyExc_ValueError, "there is a host already");
        return NULL;
    }
    if (table_attach(&self->table, memory) < 0)
        return NULL;
    if (arena_at < 0 || arena_at > self->table.memory.len) {
        table_detach(&self->table);
        PyErr_SetString(PyExc_ValueError, "buffers lie behind the memory");
        return NULL;
    }
    self->arena_at = (size_t)arena_at;
    self->arena_base = arena_base;
    self->table.keeper = Py_NewRef(keeper);
    self->table.in = (i2o_ring *)(uintptr_t)in;
    self->table.out = (i2o_ring *)(uintptr_t)out;
    Py_RETURN_NONE;
}

static PyObject *device_detach(PyObject *object, PyObject *unused)
{
    device_table *self = (device_table *)object;
    (void)unused;
    fifo_clear(&self->posted);
    fifo_clear(&self->replies);
    set_clear(&self->idle);
    memset(self->table.places, WITH_DEVICE, self->table.count);
    self->held = 0;
    self->outbox_size = 0;
    self->near_start = self->near_end = 0;
    table_detach(&self->table);
    Py_RETURN_NONE;
}

static PyObject *device_posted_inbound(PyObject *object, PyObject *unused)
{
    (void)unused;
    return number_of(((device_table *)object)->posted.used);
}

static PyObject *device_idle_inbound(PyObject *object, PyObject *unused)
{
    (void)unused;
    return number_of(((device_table *)object)->held);
}

static PyObject *device_idle_outbound(PyObject *object, PyObject *unused)
{
    (void)unused;
    return number_of(((device_table *)object)->replies.used);
}

static PyObject *device_outbox_size(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromSize_t(((device_table *)object)->outbox_size);
}

static PyObject *device_new(PyTypeObject *type, PyObject *args, PyObject *names)
{
    static char *words[] = {"first", "step", "count", "most_replies", "most_outbox", "salt",
                            "posted_frame", "post_reply", "flush", "drain", NULL};
    unsigned int first, step, count, most_replies, most_outbox, salt;
    PyObject *posted_frame, *post_reply, *flush, *drain;
    if (!PyArg_ParseTupleAndKeywords(args, names, "IIIIIIO!OOO:DeviceTable", words, &first, &step,
                                     &count, &most_replies, &most_outbox, &salt,
                                     &PyType_Type, &posted_frame, &post_reply, &flush, &drain))
        return NULL;
    if (!PyType_IsSubtype((PyTypeObject *)posted_frame, &PyTuple_Type)) {
        PyErr_SetString(PyExc_TypeError, "what is posted is a tuple");
        return NULL;
    }
    allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    device_table *self = (device_table *)make(type, 0);
    if (!self)
        return NULL;
    self->most_replies = most_replies;
    self->new_tuple = (newfunc)PyType_GetSlot(&PyTuple_Type, Py_tp_new);
    self->posted_frame = (PyTypeObject *)Py_NewRef(posted_frame);
    self->post_reply = Py_NewRef(post_reply);
    self->flush = Py_NewRef(flush);
    self->drain = Py_NewRef(drain);
    self->most_outbox = most_outbox;
    self->idle.salt = salt;
    if (table_open(&self->table, first, step, count) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int device_traverse(PyObject *object, visitproc visit, void *arg)
{
    device_table *self = (device_table *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->table.keeper);
    Py_VISIT(self->posted_frame);
    Py_VISIT(self->post_reply);
    Py_VISIT(self->flush);
    Py_VISIT(self->drain);
    return 0;
}

static int device_clear(PyObject *object)
{
    device_table *self = (device_table *)object;
    table_detach(&self->table);
    PyObject **ways[] = {&self->post_reply, &self->flush, &self->drain};
    for (size_t number = 0; number < sizeof ways / sizeof *ways; number++) {
        PyObject *old = *ways[number];
        *ways[number] = Py_NewRef(Py_None);
        Py_XDECREF(old);
    }
    return 0;
}

static void device_dealloc(PyObject *object)
{
    device_table *self = (device_table *)object;
    PyObject_GC_UnTrack(object);
    device_clear(object);
    Py_CLEAR(self->post_reply);
    Py_CLEAR(self->flush);
    Py_CLEAR(self->drain);
    Py_XDECREF((PyObject *)self->posted_frame);
    table_close(&self->table);
    fifo_clear(&self->posted);
    fifo_clear(&self->replies);
    set_clear(&self->idle);
    PyMem_Free(self->outbox);
    free_object(object);
}

static PyMemberDef device_members[] = {
    {"generation", T_UINT, offsetof(device_table, table.generation), READONLY, NULL},
    {"most_replies", T_UINT, offsetof(device_table, most_replies), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef device_properties[] = {
    {"outbox_size", device_outbox_size, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef device_methods[] = {
    {"fetch", device_fetch, METH_NOARGS, NULL},
    {"recycle", device_recycle, METH_O, NULL},
    {"take_reply_frame", device_take_reply_frame, METH_NOARGS, NULL},
    {"post_reply", (PyCFunction)(void (*)(void))device_post_reply, METH_FASTCALL, NULL},
    {"flush", device_flush, METH_NOARGS, NULL},
    {"drain", device_drain, METH_NOARGS, NULL},
    {"take_in", device_take_in, METH_NOARGS, NULL},
    {"rest", device_rest, METH_NOARGS, NULL},
    {"sift", device_call_sift, METH_O, NULL},
    {"tell", device_call_tell, METH_VARARGS, NULL},
    {"give", device_call_give, METH_O, NULL},
    {"packet", device_packet, METH_NOARGS, NULL},
    {"told", device_told, METH_O, NULL},
    {"add_post", device_add_post, METH_O, NULL},
    {"drop_posts", device_drop_posts, METH_O, NULL},
    {"has_reply_frame", device_has_reply_frame, METH_O, NULL},
    {"drop_reply_frames", device_drop_reply_frames, METH_NOARGS, NULL},
    {"refill", device_refill, METH_O, NULL},
    {"set_near", device_set_near, METH_VARARGS, NULL},
    {"attach", device_attach, METH_VARARGS, NULL},
    {"detach", device_detach, METH_NOARGS, NULL},
    {"posted_inbound", device_posted_inbound, METH_NOARGS, NULL},
    {"idle_inbound", device_idle_inbound, METH_NOARGS, NULL},
    {"idle_outbound", device_idle_outbound, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot device_slots[] = {
    {Py_tp_new, device_new},           {Py_tp_dealloc, device_dealloc},
    {Py_tp_traverse, device_traverse}, {Py_tp_clear, device_clear},
    {Py_tp_members, device_members},   {Py_tp_getset, device_properties},
    {Py_tp_methods, device_methods},   {0, NULL},
};

static PyType_Spec device_spec = {
    "i2o.transport.shm._tables.DeviceTable", sizeof(device_table), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, device_slots,
};

/* --- the module ------------------------------------------------------------------------------- */

static int tables_fill(PyObject *module)
{
    PyType_Spec *specs[] = {&host_spec, &device_spec};
    for (size_t number = 0; number < sizeof specs / sizeof *specs; number++) {
        PyObject *type = PyType_FromModuleAndSpec(module, specs[number], NULL);
        int code = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
        Py_XDECREF(type);
        if (code < 0)
            return -1;
    }
    return 0;
}

static PyModuleDef_Slot tables_slots[] = {{Py_mod_exec, tables_fill}, {0, NULL}};

static struct PyModuleDef tables = {
    PyModuleDef_HEAD_INIT, "_tables", NULL, 0, NULL, tables_slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__tables(void)
{
    return PyModuleDef_Init(&tables);
}
"""
