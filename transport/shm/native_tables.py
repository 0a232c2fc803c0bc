# SPDX-License-Identifier: Apache-2.0
"""The frame tables of both ends in C, a second module of the extension that `native_build` builds.

Every message passes through them several times on each side, so what nearly all messages need is
done with one call from Python each time: see `native_host_table.py` and `native_device_table.py`.
Whatever is unusual is left to the Python that was given for it, before anything was done. Of the
records that come in, those which belong to every request are understood here; the first other one
ends that, and Python takes it and all behind it.

The interpreter's lock is held throughout, but not while a ring is looked at again and again.
`tables.py` says what the types are, as Python sees them, and does the same without a compiler.
Here is what both tables have: FIFOs, sets, and the memory and rings that are shared.
"""

from __future__ import annotations

from typing import Final

COMMON: Final = r"""
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

static long long now_in_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
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
"""

MODULE: Final = r"""
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
