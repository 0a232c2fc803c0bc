# SPDX-License-Identifier: Apache-2.0
"""How a device's frame table answers requests by a `FastPath` in C.

Python is entered only to make the request, for its handler, and for what goes the long way. A
request without a fast path, and all behind it, stays posted for Python to fetch. A part of what
`native_tables.py` begins; the types are in `native_device_table.py`.
"""

from __future__ import annotations

from typing import Final

SOURCE: Final = r"""
/* --- the fast path ---------------------------------------------------------------------------- */

#define BATCH 64 /* requests, before others may have their turn and the host is told */

/* What became of it. LEFT: there is something that Python has to see to. MORE: there is more to be
   answered; `Answered` has the last three. */
enum outcome { NOTHING_CAME = -2, RAISED, LEFT, DONE, MORE };

/* Who answers, kept for as long as something is being answered. */
struct fast_path {
    PyObject *kept[FAST_PATH_PARTS], *send;
    Py_ssize_t reply_size;
};

static void path_end(struct fast_path *path)
{
    for (int number = 0; number < FAST_PATH_PARTS; number++)
        Py_DECREF(path->kept[number]);
    Py_XDECREF(path->send);
}

/* Returns DONE, or LEFT if there is no fast path. */
static enum outcome path_begin(const device_table *self, struct fast_path *path)
{
    PyObject *size;
    if (!self->fast_path[HANDLERS])
        return LEFT;
    for (int number = 0; number < FAST_PATH_PARTS; number++)
        path->kept[number] = Py_NewRef(self->fast_path[number]);
    path->reply_size = -1;
    path->send = PyObject_GetAttrString(path->kept[REPLIES], "send");
    size = path->send ? PyObject_GetAttrString(path->kept[REPLIES], "frame_size") : NULL;
    if (size) {
        path->reply_size = PyLong_AsSsize_t(size);
        Py_DECREF(size);
    }
    if (!PyErr_Occurred())
        return DONE;
    path_end(path);
    return RAISED;
}

/* Whether requests may be answered without a look at anything else. */
static int is_calm(const struct fast_path *path)
{
    PyObject *pending = path->kept[PENDING];
    if (PyDict_Size(path->kept[HANDLERS]) <= 0)
        return 0;
    for (Py_ssize_t number = PyTuple_Size(pending); number-- > 0;)
        if (PyObject_Size(PyTuple_GetItem(pending, number))) {
            PyErr_Clear(); /* what has no size is for Python, too */
            return 0;
        }
    return 1;
}

/* Send a reply the short way, if nothing is before it and it has a frame to go to. Returns LEFT if
   nothing more is to be answered. */
static enum outcome path_send(device_table *self, const struct fast_path *path, PyObject *reply)
{
    PyObject *done;
    if (reply == Py_None)
        return is_calm(path) ? DONE : LEFT;
    if (PyBytes_Check(reply) && PyBytes_Size(reply) <= path->reply_size && self->replies.used
        && is_calm(path)) {
        uint32_t mfa = fifo_at(&self->replies, 0);
        if (device_place_reply(self, mfa, reply)) {
            (void)fifo_take(&self->replies);
            set_drop(&self->idle, mfa);
            self->replied++;
            return device_tell(self, WORD_REPLY, mfa, 0) < 0 ? RAISED : DONE;
        }
    }
    done = PyObject_CallFunctionObjArgs(path->send, reply, NULL);
    Py_XDECREF(done);
    return !done ? RAISED : is_calm(path) ? DONE : LEFT;
}

/* Let somebody decide about what a handler raised: there may be a reply all the same. */
static PyObject *path_on_error(const struct fast_path *path, PyObject *request)
{
    PyObject *type, *value, *trace, *reply;
    if (!PyErr_ExceptionMatches(PyExc_Exception)) /* an interrupt is nobody's to answer */
        return NULL;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace)
        PyException_SetTraceback(value, trace);
    reply = PyObject_CallFunctionObjArgs(path->kept[ON_ERROR], request, value, NULL);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return reply;
}

/* Returns who answers a frame, or NULL, also with an exception. */
static PyObject *path_find(const struct fast_path *path, PyObject *frame)
{
    const unsigned char *text = (const unsigned char *)PyBytes_AsString(frame);
    PyObject *key, *handler;
    if (PyBytes_Size(frame) != 4 * (Py_ssize_t)(text[2] | text[3] << 8))
        return NULL;
    key = PyBytes_FromStringAndSize((const char *)text, 8);
    if (!key)
        return NULL;
    handler = PyDict_GetItemWithError(path->kept[HANDLERS], key);
    Py_XINCREF(handler);
    Py_DECREF(key);
    return handler;
}

/* Answer the next request that is posted. What a handler raised leaves it posted no longer, as if
   Python had met with the same. */
static enum outcome answer_next(device_table *self, const struct fast_path *path, PyObject *now)
{
    uint32_t mfa = fifo_at(&self->posted, 0);
    PyObject *frame = device_frame(self, mfa), *handler, *route, *request, *reply = NULL;
    enum outcome outcome = RAISED;
    if (!frame)
        return RAISED;
    handler = path_find(path, frame);
    if (!handler) {
        Py_DECREF(frame);
        return PyErr_Occurred() ? RAISED : LEFT;
    }
    route = number_of(word_of((const unsigned char *)PyBytes_AsString(frame), 1));
    request = route ? PyObject_CallFunctionObjArgs(path->kept[MAKE_REQUEST], frame, route, now,
                                                   NULL)
                    : NULL;
    Py_XDECREF(route);
    Py_DECREF(frame);
    if (request && self->posted.used && fifo_at(&self->posted, 0) == mfa) {
        (void)fifo_take(&self->posted);
        self->answered++;
        device_give(self, mfa);
        if (device_tell(self, WORD_FREE, mfa, 0) == 0) {
            reply = PyObject_CallFunctionObjArgs(handler, request, NULL);
            if (!reply)
                reply = path_on_error(path, request);
        }
        if (reply)
            outcome = path_send(self, path, reply);
    } else if (request) {
        outcome = LEFT; /* it was taken by somebody else */
    }
    Py_XDECREF(reply);
    Py_XDECREF(request);
    Py_DECREF(handler);
    return outcome;
}

/* Answer what is posted. */
static enum outcome answer_posted(device_table *self, const struct fast_path *path, PyObject *now)
{
    enum outcome outcome = is_calm(path) ? DONE : LEFT;
    for (int left = BATCH; outcome == DONE && self->posted.used && self->table.memory.buf; left--) {
        if (!left)
            return MORE;
        outcome = answer_next(self, path, now);
    }
    return outcome;
}

static PyObject *device_answer(PyObject *object, PyObject *now)
{
    device_table *self = (device_table *)object;
    struct fast_path path;
    enum outcome outcome = path_begin(self, &path);
    if (outcome == DONE) {
        outcome = answer_posted(self, &path, now);
        path_end(&path);
    }
    return outcome == RAISED ? NULL : PyLong_FromLong(outcome);
}

/* Look at the ring until there is something in it, without the interpreter's lock. */
static int look_for(struct table *table, long long wait_ns)
{
    i2o_ring *ring = table->in;
    PyObject *keeper;
    int found;
    if (!ring)
        return 0;
    keeper = Py_NewRef(table->keeper); /* whoever closes it meanwhile does not free it */
    Py_BEGIN_ALLOW_THREADS
    found = i2o_ring_spin(ring, wait_ns);
    Py_END_ALLOW_THREADS
    Py_DECREF(keeper);
    return found;
}

/* Take in what came, answer it, and tell the host. */
static enum outcome answer_news(device_table *self, const struct fast_path *path, long long now_ns)
{
    PyObject *now, *is_told;
    enum outcome outcome;
    int code;
    if (!self->table.in || self->outbox_size > self->most_outbox)
        return LEFT;
    code = table_take_in(&self->table, device_sift, self);
    if (code == -3)
        return RAISED;
    if (code != EMPTY_RING && (code < 0 || code & HAS_REST))
        return LEFT;
    now = PyLong_FromLongLong(now_ns);
    if (!now)
        return RAISED;
    outcome = answer_posted(self, path, now);
    Py_DECREF(now);
    if (outcome < DONE)
        return outcome;
    is_told = device_flush((PyObject *)self, NULL);
    if (!is_told)
        return RAISED;
    if (is_told != Py_True)
        outcome = LEFT;
    Py_DECREF(is_told);
    return outcome;
}

/* Answer what comes, until nothing comes for a while (False), or there is something that Python has
   to see to, or it is `end_ns` (True). */
static PyObject *device_spin(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    device_table *self = (device_table *)object;
    struct fast_path path;
    long long wait_ns, end_ns, now_ns;
    enum outcome outcome;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "spin takes how long to wait, and until when to answer");
        return NULL;
    }
    wait_ns = PyLong_AsLongLong(args[0]);
    end_ns = PyLong_AsLongLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    outcome = path_begin(self, &path);
    if (outcome == LEFT)
        return PyBool_FromLong(look_for(&self->table, wait_ns));
    if (outcome == RAISED)
        return NULL;
    do {
        if (outcome != MORE && !look_for(&self->table, wait_ns))
            outcome = NOTHING_CAME;
        else if ((now_ns = now_in_ns()) >= end_ns)
            outcome = LEFT;
        else
            outcome = answer_news(self, &path, now_ns);
    } while (outcome >= DONE);
    path_end(&path);
    return outcome == RAISED ? NULL : PyBool_FromLong(outcome != NOTHING_CAME);
}

static PyObject *device_take_counts(PyObject *object, PyObject *unused)
{
    device_table *self = (device_table *)object;
    unsigned long long answered = self->answered, replied = self->replied;
    (void)unused;
    self->answered = self->replied = 0;
    return Py_BuildValue("KK", answered, replied);
}

static PyObject *device_use(PyObject *object, PyObject *args)
{
    device_table *self = (device_table *)object;
    PyObject *given[FAST_PATH_PARTS];
    if (!PyArg_ParseTuple(args, "O!OOOO!:use", &PyDict_Type, &given[HANDLERS], &given[MAKE_REQUEST],
                          &given[REPLIES], &given[ON_ERROR], &PyTuple_Type, &given[PENDING]))
        return NULL;
    for (int number = 0; number < FAST_PATH_PARTS; number++) {
        PyObject *old = self->fast_path[number];
        self->fast_path[number] = Py_NewRef(given[number]);
        Py_XDECREF(old);
    }
    Py_RETURN_NONE;
}
"""
