# SPDX-License-Identifier: Apache-2.0
"""Posters in C: plain sends and receives, each with one call from Python.

A part of what `native_books.py` begins.
"""

from __future__ import annotations

from typing import Final

SOURCE: Final = r"""
/* --- posters: plain sends and receives -------------------------------------------------------- */

static int give_up(ledger_t *ledger, operation_t *operation)
{
    ledger_push(ledger, operation);
    return 0;
}

/* Taking a buffer may run anything, also a call of this poster or its end: it comes before all that
   is looked at, and nothing runs from there until libfabric is called. */
static int take_buffer(PyObject *buffer, Py_buffer *view, int flags)
{
    if (PyObject_GetBuffer(buffer, view, flags) == 0)
        return 1;
    PyErr_Clear(); /* said by who does it instead */
    return 0;
}

static operation_t *begin(ledger_t *ledger, poster_t *poster, Py_buffer *view)
{
    operation_t *operation = ledger_pop(ledger, poster);
    if (operation)
        operation->view = *view;
    else
        PyErr_Clear();
    return operation;
}

/* Returns 1 if libfabric has the send, 0 if nothing was done. */
static int poster_send(poster_t *self, PyObject *buffer, PyObject *to, PyObject *context,
                       int is_tagged, uint64_t tag)
{
    Py_buffer view;
    if (!PyLong_CheckExact(to) || !take_buffer(buffer, &view, PyBUF_SIMPLE))
        return 0;
    PyObject *found = NULL;
    tally_t *tally = NULL;
    if (self->is_tx_open && self->in_flight < self->window && self->is_tagged >= is_tagged &&
        (unsigned long long)view.len <= self->most) {
        found = PyDict_GetItemWithError(self->tallies, to);
        tally = (tally_t *)found;
    }
    operation_t *operation = NULL;
    ledger_t *ledger = self->tx;
    if (found && Py_IS_TYPE(found, self->tally_type) && !tally->is_waiting)
        operation = begin(ledger, self, &view);
    if (!operation) {
        PyErr_Clear();
        PyBuffer_Release(&view);
        return 0;
    }
    operation->tally = (tally_t *)Py_NewRef(found);
    operation->flags = Py_NewRef(self->kinds[is_tagged]);
    operation->context = Py_NewRef(context);
    operation->is_wanted = self->is_tx_wanted;
    void *place = operation->place;
    ssize_t code;
    if (view.len > SHORT)
        ledger_lengthen(ledger, operation);
    PyThreadState *state = operation->is_long ? PyEval_SaveThread() : NULL;
    if (is_tagged)
        code = fi_tsend(self->ep, view.buf, view.len, NULL, tally->address, tag, place);
    else
        code = fi_send(self->ep, view.buf, view.len, NULL, tally->address, place);
    if (state)
        PyEval_RestoreThread(state);
    if (code)
        return give_up(ledger, operation);
    tally->outstanding++;
    self->in_flight++;
    return 1;
}

/* Returns 1 if libfabric has the receive, 0 if nothing was done. */
static int poster_receive(poster_t *self, PyObject *buffer, PyObject *context, int is_tagged,
                          uint64_t tag, uint64_t ignore)
{
    Py_buffer view;
    if (!take_buffer(buffer, &view, PyBUF_WRITABLE))
        return 0;
    operation_t *operation = NULL;
    ledger_t *ledger = self->rx;
    if (self->is_rx_open && self->posted < self->most_posted && self->is_tagged >= is_tagged &&
        (!ignore || self->takes_masks))
        operation = begin(ledger, self, &view);
    if (!operation) {
        PyBuffer_Release(&view);
        return 0;
    }
    operation->flags = Py_NewRef(self->kinds[2 + is_tagged]);
    operation->context = Py_NewRef(context);
    operation->is_wanted = self->is_rx_wanted;
    operation->limit = view.len;
    /* what does not fit goes into the spare buffer */
    struct iovec places[] = {{view.buf, (size_t)view.len}, self->spare};
    void *place = operation->place;
    ssize_t code;
    if (view.len > SHORT)
        ledger_lengthen(ledger, operation);
    PyThreadState *state = operation->is_long ? PyEval_SaveThread() : NULL;
    if (is_tagged)
        code = fi_trecvv(self->ep, places, NULL, 2, FI_ADDR_UNSPEC, tag, ignore, place);
    else
        code = fi_recvv(self->ep, places, NULL, 2, FI_ADDR_UNSPEC, place);
    if (state)
        PyEval_RestoreThread(state);
    if (code)
        return give_up(ledger, operation);
    self->posted++;
    return 1;
}

static int tag_of(PyObject *number, uint64_t *tag)
{
    *tag = PyLong_AsUnsignedLongLong(number);
    if (!PyErr_Occurred())
        return 1;
    PyErr_Clear(); /* said by who does it instead */
    return 0;
}

static PyObject *poster_call_send(PyObject *self, PyObject *const *args, Py_ssize_t given)
{
    if (given != 3)
        return PyErr_Format(PyExc_TypeError, "send(buffer, to, context)");
    return PyBool_FromLong(poster_send((poster_t *)self, args[0], args[1], args[2], 0, 0));
}

static PyObject *poster_call_tsend(PyObject *self, PyObject *const *args, Py_ssize_t given)
{
    uint64_t tag;
    if (given != 4)
        return PyErr_Format(PyExc_TypeError, "tsend(buffer, tag, to, context)");
    return PyBool_FromLong(tag_of(args[1], &tag) &&
                           poster_send((poster_t *)self, args[0], args[2], args[3], 1, tag));
}

static PyObject *poster_call_recv(PyObject *self, PyObject *const *args, Py_ssize_t given)
{
    if (given != 2)
        return PyErr_Format(PyExc_TypeError, "recv(buffer, context)");
    return PyBool_FromLong(poster_receive((poster_t *)self, args[0], args[1], 0, 0, 0));
}

static PyObject *poster_call_trecv(PyObject *self, PyObject *const *args, Py_ssize_t given)
{
    uint64_t tag, ignore;
    if (given != 4)
        return PyErr_Format(PyExc_TypeError, "trecv(buffer, tag, ignore, context)");
    return PyBool_FromLong(
        tag_of(args[1], &tag) && tag_of(args[2], &ignore) &&
        poster_receive((poster_t *)self, args[0], args[3], 1, tag, ignore));
}

static PyObject *poster_bind(PyObject *object, PyObject *args)
{
    poster_t *self = (poster_t *)object;
    PyObject *ledger;
    int is_tx, is_wanted;
    if (!PyArg_ParseTuple(args, "O!pp:bind", self->ledger_type, &ledger, &is_tx, &is_wanted))
        return NULL;
    ledger_t **place = is_tx ? &self->tx : &self->rx;
    Py_INCREF(ledger);
    Py_XDECREF((PyObject *)*place);
    *place = (ledger_t *)ledger;
    *(is_tx ? &self->is_tx_wanted : &self->is_rx_wanted) = is_wanted;
    Py_RETURN_NONE;
}

static PyObject *poster_open(PyObject *object, PyObject *args)
{
    poster_t *self = (poster_t *)object;
    int is_tx, is_rx;
    if (!PyArg_ParseTuple(args, "pp:open", &is_tx, &is_rx))
        return NULL;
    self->is_tx_open = is_tx && self->tx;
    self->is_rx_open = is_rx && self->rx;
    Py_RETURN_NONE;
}

static int poster_traverse(PyObject *object, visitproc visit, void *arg)
{
    poster_t *self = (poster_t *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->tally_type);
    Py_VISIT(self->ledger_type);
    Py_VISIT(self->tallies);
    Py_VISIT(self->tx);
    Py_VISIT(self->rx);
    for (int kind = 0; kind < 4; kind++)
        Py_VISIT(self->kinds[kind]);
    return 0;
}

static int poster_clear(PyObject *object)
{
    poster_t *self = (poster_t *)object;
    self->is_tx_open = self->is_rx_open = 0;
    Py_CLEAR(self->tallies);
    Py_CLEAR(self->tx);
    Py_CLEAR(self->rx);
    return 0;
}

static void poster_free(PyObject *object)
{
    poster_t *self = (poster_t *)object;
    PyObject_GC_UnTrack(object);
    poster_clear(object);
    for (int kind = 0; kind < 4; kind++)
        Py_CLEAR(self->kinds[kind]);
    Py_XDECREF((PyObject *)self->tally_type);
    Py_XDECREF((PyObject *)self->ledger_type);
    free_object(object);
}

static PyObject *poster_new(PyTypeObject *type, PyObject *args, PyObject *names)
{
    static char *words[] = {"ep",   "tallies", "kinds",      "window",    "most_posted",
                            "most", "spare",   "spare_size", "is_tagged", "takes_masks", NULL};
    unsigned long long ep, spare, most;
    PyObject *tallies, *kinds[4];
    Py_ssize_t window, most_posted, spare_size;
    int is_tagged, takes_masks;
    if (!PyArg_ParseTupleAndKeywords(args, names, "KO!(OOOO)nnKKn$pp:Poster", words, &ep,
                                     &PyDict_Type, &tallies, &kinds[0], &kinds[1], &kinds[2],
                                     &kinds[3], &window, &most_posted, &most, &spare, &spare_size,
                                     &is_tagged, &takes_masks))
        return NULL;
    allocfunc make = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    poster_t *self = (poster_t *)make(type, 0);
    if (!self)
        return NULL;
    self->ep = (struct fid_ep *)(uintptr_t)ep;
    self->tally_type = (PyTypeObject *)Py_NewRef((PyObject *)types_beside(type)->tally);
    self->ledger_type = (PyTypeObject *)Py_NewRef((PyObject *)types_beside(type)->ledger);
    self->tallies = Py_NewRef(tallies);
    for (int kind = 0; kind < 4; kind++)
        self->kinds[kind] = Py_NewRef(kinds[kind]);
    self->window = window;
    self->most_posted = most_posted;
    self->most = most;
    self->spare = (struct iovec){(void *)(uintptr_t)spare, (size_t)spare_size};
    self->is_tagged = is_tagged;
    self->takes_masks = takes_masks;
    return (PyObject *)self;
}

static PyMemberDef poster_members[] = {
    {"in_flight", T_PYSSIZET, offsetof(poster_t, in_flight), 0, NULL},
    {"posted", T_PYSSIZET, offsetof(poster_t, posted), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef poster_methods[] = {
    {"send", (PyCFunction)(void (*)(void))poster_call_send, METH_FASTCALL, NULL},
    {"tsend", (PyCFunction)(void (*)(void))poster_call_tsend, METH_FASTCALL, NULL},
    {"recv", (PyCFunction)(void (*)(void))poster_call_recv, METH_FASTCALL, NULL},
    {"trecv", (PyCFunction)(void (*)(void))poster_call_trecv, METH_FASTCALL, NULL},
    {"bind", poster_bind, METH_VARARGS, NULL},
    {"open", poster_open, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot poster_slots[] = {
    {Py_tp_new, poster_new},
    {Py_tp_dealloc, poster_free},
    {Py_tp_traverse, poster_traverse},
    {Py_tp_clear, poster_clear},
    {Py_tp_members, poster_members},
    {Py_tp_methods, poster_methods},
    {0, NULL},
};

static PyType_Spec poster_spec = {
    "i2o.transport.ofi._books.Poster", sizeof(poster_t), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, poster_slots,
};
"""
