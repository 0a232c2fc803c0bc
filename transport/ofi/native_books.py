# SPDX-License-Identifier: Apache-2.0
"""The books of operations in C, a second module of the extension that `native_build` builds.

`_books` knows operations from the call that posts them to the entry that ends them, and does what
nearly all of them need with one call from Python: post a plain send or receive, and turn a batch of
entries of libfabric into completions. Whatever is unusual (flags, several buffers, errors, a peer
that does not take a send) is left to the Python modules beside it, which use the same books. So
what posts here does all of it or nothing, and says which.

`operation.py` says what the types are, as Python sees them. Here are tallies, operations, and
ledgers with what libfabric tells of them; posters are in `native_posters.py`.
"""

from __future__ import annotations

from typing import Final

BOOKS: Final = r"""
#include <limits.h>
#include <stddef.h>
#include <structmember.h>

#define ENTRIES 16
#define FIRST_CHUNK 64
#define CHUNKS 24              /* each is twice as large as the one before */
#define SHORT 4096             /* bytes that are moved before another thread could run */
#define LOOKS 8                /* between two looks at the clock */

typedef struct ledger ledger_t;
typedef struct poster poster_t;
typedef struct operation operation_t;

/* What libfabric is given as a context. It stays in place as long as its ledger. */
struct place {
    struct fi_context2 context;
    operation_t *operation;    /* owned */
};

struct chunk {
    struct place *places;
    size_t count;
};

/* Sends to one peer. */
typedef struct {
    PyObject_HEAD
    unsigned long long address;
    Py_ssize_t outstanding;    /* that libfabric has */
    char is_waiting;           /* some wait until it takes them, and further ones behind these */
} tally_t;

struct operation {
    PyObject_HEAD
    struct place *place;       /* of the ledger that owns the operation */
    poster_t *poster;          /* NULL: it is free */
    tally_t *tally;            /* of a send */
    PyObject *flags;
    PyObject *context;
    PyObject *held;
    PyObject *area;
    Py_buffer view;            /* the buffer, if the call that posted it is in this file */
    unsigned long long start;
    unsigned long long order;
    Py_ssize_t limit;
    char is_wanted;
    char is_special;
    char is_told;
    char is_peek;
    char claims;
    char is_long;              /* it may move more than SHORT bytes */
};

struct ledger {
    PyObject_HEAD
    struct fid_cq *cq;         /* NULL: closed */
    struct chunk chunks[CHUNKS];
    size_t used_chunks;
    operation_t **free;        /* borrowed from the places */
    size_t free_count;
    size_t count;
    size_t long_count;         /* operations under way that are long */
    unsigned long long order;
    long long idle_since_ns;
    char is_sourced;
    char is_widest;
    char has_flags;
    char holds_back;
    char is_busy;              /* with the entries below */
    PyTypeObject *operation_type;
    PyTypeObject *completion_type;
    allocfunc new_completion;
    PyObject *received_tagged; /* the flags of tagged receives */
    PyObject *no_flags;
    PyObject *anywhere;        /* FI_ADDR_UNSPEC */
    PyObject *nil;             /* 0 */
    PyObject *put;             /* takes a completion */
    PyObject *receive;         /* takes the entry of an unusual receive */
    struct fi_cq_tagged_entry entries[ENTRIES];
    fi_addr_t sources[ENTRIES];
};

struct poster {
    PyObject_HEAD
    struct fid_ep *ep;
    PyTypeObject *tally_type;
    PyTypeObject *ledger_type;
    PyObject *tallies;         /* by address */
    PyObject *kinds[4];        /* flags of operations: send, tagged send, receive, tagged receive */
    ledger_t *tx;
    ledger_t *rx;
    Py_ssize_t in_flight;
    Py_ssize_t window;
    unsigned long long most;
    Py_ssize_t posted;
    Py_ssize_t most_posted;
    struct iovec spare;
    char is_tx_open;
    char is_rx_open;
    char is_tx_wanted;
    char is_rx_wanted;
    char is_tagged;
    char takes_masks;
};

struct types {
    PyTypeObject *operation, *tally, *ledger, *poster;
};

static struct types *types_beside(PyTypeObject *type)
{
    return PyType_GetModuleState(type);
}

static void free_object(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* --- tallies ---------------------------------------------------------------------------------- */

static PyObject *tally_new(PyTypeObject *type, PyObject *args, PyObject *names)
{
    (void)names;
    unsigned long long address;
    if (!PyArg_ParseTuple(args, "K:Tally", &address))
        return NULL;
    allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    tally_t *self = (tally_t *)make(type, 0);
    if (self)
        self->address = address;
    return (PyObject *)self;
}

static PyMemberDef tally_members[] = {
    {"address", T_ULONGLONG, offsetof(tally_t, address), READONLY, NULL},
    {"outstanding", T_PYSSIZET, offsetof(tally_t, outstanding), 0, NULL},
    {"is_waiting", T_BOOL, offsetof(tally_t, is_waiting), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot tally_slots[] = {
    {Py_tp_new, tally_new},
    {Py_tp_dealloc, free_object},
    {Py_tp_members, tally_members},
    {0, NULL},
};

static PyType_Spec tally_spec = {
    "i2o.transport.ofi._books.Tally", sizeof(tally_t), 0,
    Py_TPFLAGS_DEFAULT, tally_slots,
};

/* --- operations ------------------------------------------------------------------------------- */

/* Forgets everything but the place, and lets go of the memory of the message. What is let go of may
   run anything, so it is free from the start. */
static int operation_clear(PyObject *object)
{
    operation_t *self = (operation_t *)object;
    Py_CLEAR(self->poster);
    Py_CLEAR(self->tally);
    Py_CLEAR(self->flags);
    self->limit = -1;
    self->start = 0;
    self->is_wanted = 1;
    self->is_special = self->is_told = self->is_peek = self->claims = self->is_long = 0;
    if (self->view.obj)
        PyBuffer_Release(&self->view);
    Py_CLEAR(self->held);
    Py_CLEAR(self->area);
    Py_CLEAR(self->context);
    return 0;
}

/* Not the buffer: a memoryview that the collector clears while it is exported is used again when
   that ends. */
static int operation_traverse(PyObject *object, visitproc visit, void *arg)
{
    operation_t *self = (operation_t *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->held);
    Py_VISIT(self->area);
    Py_VISIT(self->flags);
    Py_VISIT(self->tally);
    Py_VISIT(self->poster);
    Py_VISIT(self->context);
    return 0;
}

static void operation_free(PyObject *object)
{
    PyObject_GC_UnTrack(object);
    operation_clear(object);
    free_object(object);
}

static PyObject *operation_address(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromVoidPtr(((operation_t *)object)->place);
}

static PyObject *operation_poster(PyObject *object, void *unused)
{
    (void)unused;
    poster_t *poster = ((operation_t *)object)->poster;
    return Py_NewRef(poster ? (PyObject *)poster : Py_None);
}

static PyObject *operation_tally(PyObject *object, void *unused)
{
    (void)unused;
    tally_t *tally = ((operation_t *)object)->tally;
    return Py_NewRef(tally ? (PyObject *)tally : Py_None);
}

static PyMemberDef operation_members[] = {
    {"flags", T_OBJECT, offsetof(operation_t, flags), 0, NULL},
    {"context", T_OBJECT, offsetof(operation_t, context), 0, NULL},
    {"held", T_OBJECT, offsetof(operation_t, held), 0, NULL},
    {"area", T_OBJECT, offsetof(operation_t, area), 0, NULL},
    {"start", T_ULONGLONG, offsetof(operation_t, start), 0, NULL},
    {"order", T_ULONGLONG, offsetof(operation_t, order), READONLY, NULL},
    {"limit", T_PYSSIZET, offsetof(operation_t, limit), 0, NULL},
    {"is_wanted", T_BOOL, offsetof(operation_t, is_wanted), 0, NULL},
    {"is_special", T_BOOL, offsetof(operation_t, is_special), 0, NULL},
    {"is_told", T_BOOL, offsetof(operation_t, is_told), 0, NULL},
    {"is_peek", T_BOOL, offsetof(operation_t, is_peek), 0, NULL},
    {"claims", T_BOOL, offsetof(operation_t, claims), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef operation_properties[] = {
    {"address", operation_address, NULL, NULL, NULL},
    {"poster", operation_poster, NULL, NULL, NULL},
    {"tally", operation_tally, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot operation_slots[] = {
    {Py_tp_dealloc, operation_free},
    {Py_tp_traverse, operation_traverse},
    {Py_tp_clear, operation_clear},
    {Py_tp_members, operation_members},
    {Py_tp_getset, operation_properties},
    {0, NULL},
};

static PyType_Spec operation_spec = {
    "i2o.transport.ofi._books.Operation", sizeof(operation_t), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, operation_slots,
};

/* --- ledgers: places, and what libfabric tells of them ---------------------------------------- */

static int ledger_grow(ledger_t *self)
{
    size_t wanted = self->count ? self->count : FIRST_CHUNK;
    if (self->used_chunks == CHUNKS) {
        PyErr_NoMemory();
        return -1;
    }
    operation_t **free = PyMem_Realloc(self->free, (self->count + wanted) * sizeof *free);
    if (!free) {
        PyErr_NoMemory();
        return -1;
    }
    self->free = free;
    struct chunk *chunk = &self->chunks[self->used_chunks];
    chunk->places = PyMem_Calloc(wanted, sizeof *chunk->places);
    if (!chunk->places) {
        PyErr_NoMemory();
        return -1;
    }
    self->used_chunks++;
    allocfunc make = (allocfunc)PyType_GetSlot(self->operation_type, Py_tp_alloc);
    for (; chunk->count < wanted; chunk->count++) {
        struct place *place = &chunk->places[chunk->count];
        operation_t *operation = (operation_t *)make(self->operation_type, 0);
        if (!operation)
            return -1; /* what there is can be used */
        operation->place = place;
        operation->limit = -1;
        operation->is_wanted = 1;
        place->operation = operation;
        self->free[self->free_count++] = operation;
        self->count++;
    }
    return 0;
}

/* Returns a borrowed reference. */
static operation_t *ledger_pop(ledger_t *self, poster_t *poster)
{
    if (!self->free_count && ledger_grow(self) < 0) {
        if (!self->free_count)
            return NULL;
        PyErr_Clear(); /* fewer than wanted will do */
    }
    operation_t *operation = self->free[--self->free_count];
    operation->order = ++self->order;
    operation->poster = (poster_t *)Py_NewRef((PyObject *)poster);
    return operation;
}

static void ledger_lengthen(ledger_t *self, operation_t *operation)
{
    operation->is_long = 1;
    self->long_count++;
}

static void ledger_push(ledger_t *self, operation_t *operation)
{
    self->long_count -= operation->is_long;
    operation_clear((PyObject *)operation);
    /* only now, as what was let go of may have posted others */
    self->free[self->free_count++] = operation;
}

/* Returns the operation that a context belongs to, borrowed, or NULL: libfabric made it up. */
static operation_t *ledger_at(const ledger_t *self, const void *context)
{
    for (size_t number = self->used_chunks; number-- > 0;) {
        const struct chunk *chunk = &self->chunks[number];
        uintptr_t offset = (uintptr_t)context - (uintptr_t)chunk->places;
        size_t place = offset / sizeof(struct place);
        if (place < chunk->count)
            return offset % sizeof(struct place) ? NULL : chunk->places[place].operation;
    }
    return NULL;
}

static PyObject *ledger_completion(ledger_t *self, PyObject *context, PyObject *flags,
                                   PyObject *length, PyObject *tag, PyObject *source)
{
    PyObject *made = NULL;
    if (length && tag && source)
        made = self->new_completion(self->completion_type, 7);
    if (made) {
        PyTuple_SetItem(made, 0, Py_NewRef(context ? context : Py_None));
        PyTuple_SetItem(made, 1, Py_NewRef(flags));
        PyTuple_SetItem(made, 2, Py_NewRef(length));
        PyTuple_SetItem(made, 3, Py_NewRef(Py_None));
        PyTuple_SetItem(made, 4, Py_NewRef(self->nil));
        PyTuple_SetItem(made, 5, Py_NewRef(tag));
        PyTuple_SetItem(made, 6, Py_NewRef(source));
    }
    return made;
}

/* Hands a completion over; `direct` is a list that takes it, until NULL stands there. */
static int ledger_tell(ledger_t *self, PyObject *completion, PyObject *direct)
{
    if (!completion)
        return -1;
    int result = 0;
    if (direct) {
        result = PyList_Append(direct, completion);
    } else {
        PyObject *nothing = PyObject_CallFunctionObjArgs(self->put, completion, NULL);
        result = nothing ? 0 : -1;
        Py_XDECREF(nothing);
    }
    Py_DECREF(completion);
    return result;
}

/* An unusual receive is Python's, after what came before it. */
static int ledger_leave(ledger_t *self, operation_t *operation,
                        const struct fi_cq_tagged_entry *entry, fi_addr_t source, PyObject **direct)
{
    int result = 0;
    if (*direct) {
        Py_ssize_t count = PyList_Size(*direct);
        for (Py_ssize_t number = 0; number < count; number++)
            result |= ledger_tell(self, Py_NewRef(PyList_GetItem(*direct, number)), NULL);
        Py_CLEAR(*direct);
    }
    PyObject *nothing = PyObject_CallFunction(
        self->receive, "OKKKKKK", operation, (unsigned long long)entry->flags,
        (unsigned long long)entry->len, (unsigned long long)(uintptr_t)entry->buf,
        (unsigned long long)entry->data, (unsigned long long)entry->tag,
        (unsigned long long)source);
    result |= nothing ? 0 : -1;
    Py_XDECREF(nothing);
    return result;
}

static int ledger_enter(ledger_t *self, const struct fi_cq_tagged_entry *entry, fi_addr_t source,
                        PyObject **direct)
{
    operation_t *operation = ledger_at(self, entry->op_context);
    if (!operation || !operation->poster)
        return 0; /* no entry of ours: a provider that counts twice */
    if (operation->tally) {
        PyObject *completion = NULL;
        int is_wanted = operation->is_wanted;
        operation->tally->outstanding--;
        operation->poster->in_flight--;
        if (is_wanted) /* a length, data or tag would be arbitrary */
            completion = ledger_completion(self, operation->context,
                                           self->has_flags ? operation->flags : self->no_flags,
                                           self->nil, self->nil, self->anywhere);
        ledger_push(self, operation);
        return is_wanted ? ledger_tell(self, completion, *direct) : 0;
    }
    if (operation->is_special || !self->is_widest || entry->flags & FI_REMOTE_CQ_DATA ||
        (operation->limit >= 0 && (size_t)operation->limit < entry->len))
        return ledger_leave(self, operation, entry, source, direct);
    PyObject *completion = NULL;
    int is_wanted = operation->is_wanted;
    if (is_wanted) {
        int is_tagged = operation->flags == self->received_tagged;
        PyObject *length = PyLong_FromSize_t(entry->len);
        PyObject *tag =
            is_tagged ? PyLong_FromUnsignedLongLong(entry->tag) : Py_NewRef(self->nil);
        PyObject *from = source == FI_ADDR_UNSPEC ? Py_NewRef(self->anywhere)
                                                  : PyLong_FromUnsignedLongLong(source);
        completion =
            ledger_completion(self, operation->context, operation->flags, length, tag, from);
        Py_XDECREF(length);
        Py_XDECREF(tag);
        Py_XDECREF(from);
    }
    operation->poster->posted--;
    ledger_push(self, operation);
    return is_wanted ? ledger_tell(self, completion, *direct) : 0;
}

static ssize_t ledger_look(ledger_t *self, size_t room)
{
    return self->is_sourced ? fi_cq_readfrom(self->cq, self->entries, room, self->sources)
                            : fi_cq_read(self->cq, self->entries, room);
}

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Looks for at most this time, as long as there is nothing: a look from Python takes several times
   as long. Others run meanwhile, unless it is one look and nothing long can happen in it. */
static ssize_t ledger_spin(ledger_t *self, size_t room, long long spin_ns)
{
    ssize_t count = -FI_EAGAIN;
    if (!self->long_count) {
        count = ledger_look(self, room);
        if (count != -FI_EAGAIN || spin_ns <= 0)
            return count;
    }
    Py_BEGIN_ALLOW_THREADS
    long long end = spin_ns > 0 ? now_ns() + spin_ns : 0;
    do
        for (int looks = 0; count == -FI_EAGAIN && looks < (spin_ns > 0 ? LOOKS : 1); looks++)
            count = ledger_look(self, room);
    while (count == -FI_EAGAIN && end && now_ns() < end);
    Py_END_ALLOW_THREADS
    return count;
}

/* Takes what there is; returns how much, or libfabric's code. An exception may be set. */
static ssize_t ledger_harvest(ledger_t *self, size_t room, long long spin_ns, PyObject **direct)
{
    if (self->is_busy)
        return -FI_EAGAIN; /* called by what was let go of, or by what takes an entry */
    self->is_busy = 1;
    ssize_t count = ledger_spin(self, room, spin_ns);
    PyObject *type = NULL, *value = NULL, *trace = NULL;
    for (ssize_t number = 0; number < count && room; number++) {
        fi_addr_t source = self->is_sourced ? self->sources[number] : FI_ADDR_UNSPEC;
        if (ledger_enter(self, &self->entries[number], source, direct) < 0) {
            if (type)
                PyErr_Clear();
            else
                PyErr_Fetch(&type, &value, &trace); /* the others end all the same */
        }
    }
    self->is_busy = 0;
    if (type)
        PyErr_Restore(type, value, trace);
    return count;
}

static PyObject *ledger_next(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    ledger_t *self = (ledger_t *)object;
    if (given != 2)
        return PyErr_Format(PyExc_TypeError, "next(count, spin_ns)");
    Py_ssize_t room = PyLong_AsSsize_t(args[0]);
    long long spin_ns = PyLong_AsLongLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    if (!self->cq || room < 1 || (self->holds_back && self->free_count == self->count))
        Py_RETURN_NONE;
    self->idle_since_ns = 0;
    PyObject *direct = PyList_New(0);
    if (!direct)
        return NULL;
    ssize_t count =
        ledger_harvest(self, room < ENTRIES ? room : ENTRIES, spin_ns, &direct);
    if (PyErr_Occurred()) {
        Py_XDECREF(direct);
        return NULL;
    }
    if (direct && (count > 0 || count == -FI_EAGAIN))
        return direct;
    Py_XDECREF(direct);
    Py_RETURN_NONE;
}

static PyObject *ledger_fetch(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    ledger_t *self = (ledger_t *)object;
    if (given != 2)
        return PyErr_Format(PyExc_TypeError, "fetch(room, spin_ns)");
    size_t room = PyLong_AsSize_t(args[0]);
    long long spin_ns = PyLong_AsLongLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    if (!self->cq)
        return PyLong_FromLong(-FI_EAGAIN);
    PyObject *direct = NULL;
    ssize_t count = ledger_harvest(self, room < ENTRIES ? room : ENTRIES, spin_ns, &direct);
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(count);
}

static PyObject *ledger_take(PyObject *object, PyObject *args)
{
    ledger_t *self = (ledger_t *)object;
    struct types *types = types_beside(Py_TYPE(object));
    PyObject *poster, *tally = NULL;
    if (!PyArg_ParseTuple(args, "O!|O!:take", types->poster, &poster, types->tally, &tally))
        return NULL;
    operation_t *operation = ledger_pop(self, (poster_t *)poster);
    if (!operation)
        return NULL;
    operation->tally = (tally_t *)Py_XNewRef(tally);
    ledger_lengthen(self, operation); /* for all that is known here */
    return Py_NewRef((PyObject *)operation);
}

static PyObject *ledger_give_back(PyObject *object, PyObject *given)
{
    ledger_t *self = (ledger_t *)object;
    operation_t *operation = (operation_t *)given;
    if (!Py_IS_TYPE(given, self->operation_type) || !operation->poster ||
        ledger_at(self, operation->place) != operation)
        return PyErr_Format(PyExc_ValueError, "%R is not under way here", given);
    ledger_push(self, operation);
    Py_RETURN_NONE;
}

static PyObject *ledger_find(PyObject *object, PyObject *address)
{
    void *context = PyLong_AsVoidPtr(address);
    if (PyErr_Occurred())
        return NULL;
    operation_t *operation = ledger_at((ledger_t *)object, context);
    if (!operation || !operation->poster)
        Py_RETURN_NONE;
    return Py_NewRef((PyObject *)operation);
}

static PyObject *ledger_of(PyObject *object, PyObject *poster)
{
    ledger_t *self = (ledger_t *)object;
    PyObject *found = PyList_New(0);
    for (size_t number = 0; found && number < self->used_chunks; number++) {
        struct chunk *chunk = &self->chunks[number];
        for (size_t place = 0; found && place < chunk->count; place++) {
            operation_t *operation = chunk->places[place].operation;
            if ((PyObject *)operation->poster == poster &&
                PyList_Append(found, (PyObject *)operation) < 0)
                Py_CLEAR(found);
        }
    }
    return found;
}

static PyObject *ledger_shut(PyObject *object, PyObject *unused)
{
    (void)unused;
    ((ledger_t *)object)->cq = NULL;
    Py_RETURN_NONE;
}

static PyObject *ledger_under_way(PyObject *object, void *unused)
{
    (void)unused;
    ledger_t *self = (ledger_t *)object;
    return PyLong_FromSize_t(self->count - self->free_count);
}

static int ledger_traverse(PyObject *object, visitproc visit, void *arg)
{
    ledger_t *self = (ledger_t *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->operation_type);
    Py_VISIT(self->completion_type);
    Py_VISIT(self->received_tagged);
    Py_VISIT(self->no_flags);
    Py_VISIT(self->put);
    Py_VISIT(self->receive);
    for (size_t number = 0; number < self->used_chunks; number++)
        for (size_t place = 0; place < self->chunks[number].count; place++)
            Py_VISIT(self->chunks[number].places[place].operation);
    return 0;
}

static int ledger_clear(PyObject *object)
{
    ledger_t *self = (ledger_t *)object;
    /* the operations stay until the places go */
    Py_CLEAR(self->put);
    Py_CLEAR(self->receive);
    return 0;
}

static void ledger_free(PyObject *object)
{
    ledger_t *self = (ledger_t *)object;
    PyObject_GC_UnTrack(object);
    ledger_clear(object);
    for (size_t number = 0; number < self->used_chunks; number++) {
        struct chunk *chunk = &self->chunks[number];
        for (size_t place = 0; place < chunk->count; place++)
            Py_DECREF(chunk->places[place].operation);
        PyMem_Free(chunk->places);
    }
    PyMem_Free(self->free);
    Py_XDECREF((PyObject *)self->operation_type);
    Py_XDECREF((PyObject *)self->completion_type);
    Py_XDECREF(self->received_tagged);
    Py_XDECREF(self->no_flags);
    Py_XDECREF(self->anywhere);
    Py_XDECREF(self->nil);
    free_object(object);
}

static PyObject *ledger_new(PyTypeObject *type, PyObject *args, PyObject *names)
{
    static char *words[] = {"cq", "completion", "received_tagged", "no_flags", "anywhere", "put",
                            "receive", "is_sourced", "has_flags", "is_widest", "holds_back", NULL};
    unsigned long long cq;
    PyObject *completion, *received_tagged, *no_flags, *anywhere, *put, *receive;
    int is_sourced, has_flags, is_widest, holds_back;
    if (!PyArg_ParseTupleAndKeywords(args, names, "KO!OOOOO$pppp:Ledger", words, &cq, &PyType_Type,
                                     &completion, &received_tagged, &no_flags, &anywhere, &put,
                                     &receive, &is_sourced, &has_flags, &is_widest, &holds_back))
        return NULL;
    if (!PyType_IsSubtype((PyTypeObject *)completion, &PyTuple_Type))
        return PyErr_Format(PyExc_TypeError, "%R is no class of tuples", completion);
    allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    ledger_t *self = (ledger_t *)make(type, 0);
    if (!self)
        return NULL;
    self->cq = (struct fid_cq *)(uintptr_t)cq;
    self->operation_type =
        (PyTypeObject *)Py_NewRef((PyObject *)types_beside(type)->operation);
    self->completion_type = (PyTypeObject *)Py_NewRef(completion);
    self->new_completion = (allocfunc)PyType_GetSlot(self->completion_type, Py_tp_alloc);
    self->received_tagged = Py_NewRef(received_tagged);
    self->no_flags = Py_NewRef(no_flags);
    self->anywhere = Py_NewRef(anywhere);
    self->put = Py_NewRef(put);
    self->receive = Py_NewRef(receive);
    self->is_sourced = is_sourced;
    self->has_flags = has_flags;
    self->is_widest = is_widest;
    self->holds_back = holds_back;
    self->nil = PyLong_FromLong(0);
    if (!self->nil || ledger_grow(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyMemberDef ledger_members[] = {
    {"idle_since_ns", T_LONGLONG, offsetof(ledger_t, idle_since_ns), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef ledger_properties[] = {
    {"under_way", ledger_under_way, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef ledger_methods[] = {
    {"next", (PyCFunction)(void (*)(void))ledger_next, METH_FASTCALL, NULL},
    {"fetch", (PyCFunction)(void (*)(void))ledger_fetch, METH_FASTCALL, NULL},
    {"take", ledger_take, METH_VARARGS, NULL},
    {"give_back", ledger_give_back, METH_O, NULL},
    {"find", ledger_find, METH_O, NULL},
    {"of", ledger_of, METH_O, NULL},
    {"shut", ledger_shut, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot ledger_slots[] = {
    {Py_tp_new, ledger_new},
    {Py_tp_dealloc, ledger_free},
    {Py_tp_traverse, ledger_traverse},
    {Py_tp_clear, ledger_clear},
    {Py_tp_members, ledger_members},
    {Py_tp_getset, ledger_properties},
    {Py_tp_methods, ledger_methods},
    {0, NULL},
};

static PyType_Spec ledger_spec = {
    "i2o.transport.ofi._books.Ledger", sizeof(ledger_t), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, ledger_slots,
};
"""

MODULE: Final = r"""
/* --- the module ------------------------------------------------------------------------------- */

static int books_fill(PyObject *module)
{
    struct types *types = PyModule_GetState(module);
    struct {
        PyType_Spec *spec;
        PyTypeObject **type;
    } all[] = {
        {&operation_spec, &types->operation},
        {&tally_spec, &types->tally},
        {&ledger_spec, &types->ledger},
        {&poster_spec, &types->poster},
    };
    for (size_t number = 0; number < sizeof all / sizeof *all; number++) {
        *all[number].type =
            (PyTypeObject *)PyType_FromModuleAndSpec(module, all[number].spec, NULL);
        if (!*all[number].type || PyModule_AddType(module, *all[number].type) < 0)
            return -1;
    }
    return 0;
}

static int books_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct types *types = PyModule_GetState(module);
    Py_VISIT(types->operation);
    Py_VISIT(types->tally);
    Py_VISIT(types->ledger);
    Py_VISIT(types->poster);
    return 0;
}

static int books_clear(PyObject *module)
{
    struct types *types = PyModule_GetState(module);
    Py_CLEAR(types->operation);
    Py_CLEAR(types->tally);
    Py_CLEAR(types->ledger);
    Py_CLEAR(types->poster);
    return 0;
}

static PyModuleDef_Slot books_slots[] = {{Py_mod_exec, books_fill}, {0, NULL}};

static struct PyModuleDef books = {
    PyModuleDef_HEAD_INIT, "_books",    NULL,           sizeof(struct types), NULL,
    books_slots,           books_traverse, books_clear, NULL,
};

PyMODINIT_FUNC PyInit__books(void)
{
    return PyModuleDef_Init(&books);
}
"""
