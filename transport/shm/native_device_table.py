# SPDX-License-Identifier: Apache-2.0
"""The device's frame table in C: `fetch`, `recycle`, `post_reply`, `flush` and more of a unit.

A part of what `native_tables.py` begins.
"""

from __future__ import annotations

from typing import Final

SOURCE: Final = r"""
/* --- the device's table ----------------------------------------------------------------------- */

enum { HANDLERS, MAKE_REQUEST, REPLIES, ON_ERROR, PENDING, FAST_PATH_PARTS };

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
    PyObject *fast_path[FAST_PATH_PARTS]; /* NULL if there is none */
    unsigned long long answered, replied; /* that way, and not told yet */
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

/* Return a private copy of a posted frame, as long as it says that it is, within bounds. */
static PyObject *device_frame(const device_table *self, uint32_t mfa)
{
    const unsigned char *frame = (unsigned char *)self->table.memory.buf + mfa;
    uint32_t size = 4u * (*(const volatile unsigned char *)(frame + 2)
                          | (uint32_t)*(const volatile unsigned char *)(frame + 3) << 8);
    if (size < HEADER)
        size = HEADER;
    if (size > self->table.step)
        size = self->table.step;
    return PyBytes_FromStringAndSize((const char *)frame, (Py_ssize_t)size);
}

static PyObject *device_fetch(PyObject *object, PyObject *unused)
{
    device_table *self = (device_table *)object;
    uint32_t mfa;
    PyObject *number, *data, *fields, *arguments, *found;
    (void)unused;
    if (!self->posted.used || !self->table.memory.buf)
        Py_RETURN_NONE;
    mfa = fifo_at(&self->posted, 0);
    number = number_of(mfa);
    data = device_frame(self, mfa);
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

/* Write a reply to host memory, if that is where replies may be written; return whether it was. */
static int device_place_reply(const device_table *self, uint32_t mfa, PyObject *reply)
{
    uint64_t size = (uint64_t)PyBytes_Size(reply);
    if (mfa < self->near_start || mfa >= self->near_end || size > self->near_end - mfa
        || !self->table.memory.buf)
        return 0;
    memcpy((char *)self->table.memory.buf + self->arena_at + (mfa - self->arena_base),
           PyBytes_AsString(reply), size);
    return 1;
}

static PyObject *device_post_reply(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    device_table *self = (device_table *)object;
    uint32_t mfa;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "post_reply takes an address and a reply");
        return NULL;
    }
    if (PyBytes_Check(args[1]) && read_number(args[0], &mfa)
        && device_place_reply(self, mfa, args[1])) {
        if (device_tell(self, WORD_REPLY, mfa, 0) < 0)
            return NULL;
        Py_RETURN_NONE;
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
    for (int number = 0; number < FAST_PATH_PARTS; number++)
        Py_VISIT(self->fast_path[number]);
    return 0;
}

static int device_clear(PyObject *object)
{
    device_table *self = (device_table *)object;
    table_detach(&self->table);
    for (int number = 0; number < FAST_PATH_PARTS; number++)
        Py_CLEAR(self->fast_path[number]);
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

static PyObject *device_use(PyObject *object, PyObject *args);
static PyObject *device_answer(PyObject *object, PyObject *now);
static PyObject *device_spin(PyObject *object, PyObject *const *args, Py_ssize_t count);
static PyObject *device_take_counts(PyObject *object, PyObject *unused);

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
    {"use", device_use, METH_VARARGS, NULL},
    {"answer", device_answer, METH_O, NULL},
    {"spin", (PyCFunction)(void (*)(void))device_spin, METH_FASTCALL, NULL},
    {"take_counts", device_take_counts, METH_NOARGS, NULL},
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
"""
