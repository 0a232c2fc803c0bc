# SPDX-License-Identifier: Apache-2.0
"""The host's frame table in C: `alloc`, `write`, `post`, `reap`, `release` of a port.

A part of what `native_tables.py` begins.
"""

from __future__ import annotations

from typing import Final

SOURCE: Final = r"""
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
    long long now_ns = now_in_ns();
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
"""
