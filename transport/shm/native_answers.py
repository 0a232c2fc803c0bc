# SPDX-License-Identifier: Apache-2.0
"""How a device's frame table answers plain requests in C: without a call but of who answers them.

`PlainAnswers` says which those are. A request that is not among them, and all behind it, stays
posted for Python to fetch. A part of what `native_tables.py` begins; the types are in
`native_device_table.py`.
"""

from __future__ import annotations

from typing import Final

SOURCE: Final = r"""
/* --- plain requests --------------------------------------------------------------------------- */

/* Who answers, kept for as long as somebody does. */
struct answers {
    PyObject *kept[ANSWERING], *send;
    Py_ssize_t reply_size;
};

static void answers_end(struct answers *answers)
{
    for (int number = 0; number < ANSWERING; number++)
        Py_DECREF(answers->kept[number]);
    Py_XDECREF(answers->send);
}

/* Returns 1 if somebody answers, 0 if nobody does, -1 with an exception. */
static int answers_begin(const device_table *self, struct answers *answers)
{
    PyObject *size;
    if (!self->answering[HANDLERS])
        return 0;
    for (int number = 0; number < ANSWERING; number++)
        answers->kept[number] = Py_NewRef(self->answering[number]);
    answers->reply_size = -1;
    answers->send = PyObject_GetAttrString(answers->kept[REPLIES], "send");
    size = answers->send ? PyObject_GetAttrString(answers->kept[REPLIES], "frame_size") : NULL;
    if (size) {
        answers->reply_size = PyLong_AsSsize_t(size);
        Py_DECREF(size);
    }
    if (!PyErr_Occurred())
        return 1;
    answers_end(answers);
    return -1;
}

/* Whether requests may be answered without a look at anything else. */
static int is_calm(const struct answers *answers)
{
    PyObject *pending = answers->kept[PENDING];
    if (PyDict_Size(answers->kept[HANDLERS]) <= 0)
        return 0;
    for (Py_ssize_t number = PyTuple_Size(pending); number-- > 0;)
        if (PyObject_Size(PyTuple_GetItem(pending, number))) {
            PyErr_Clear(); /* what has no size is for Python, too */
            return 0;
        }
    return 1;
}

/* Send a reply the short way, if there is nothing before it and it has a frame to go to. */
static int answers_send(device_table *self, const struct answers *answers, PyObject *reply)
{
    PyObject *done;
    if (PyBytes_Check(reply) && PyBytes_Size(reply) <= answers->reply_size && self->replies.used
        && is_calm(answers)) {
        uint32_t mfa = fifo_at(&self->replies, 0);
        if (device_place_reply(self, mfa, reply)) {
            (void)fifo_take(&self->replies);
            set_drop(&self->idle, mfa);
            self->replied++;
            return device_tell(self, WORD_REPLY, mfa, 0) < 0 ? -1 : 1;
        }
    }
    done = PyObject_CallFunctionObjArgs(answers->send, reply, NULL);
    Py_XDECREF(done);
    return done ? 1 : -1;
}

/* Let somebody decide about what a handler raised: there may be a reply all the same. */
static PyObject *answers_failed(const struct answers *answers, PyObject *request)
{
    PyObject *type, *value, *trace, *reply;
    PyErr_Fetch(&type, &value, &trace);
    PyErr_NormalizeException(&type, &value, &trace);
    if (trace)
        PyException_SetTraceback(value, trace);
    reply = PyObject_CallFunctionObjArgs(answers->kept[FAILED], request, value, NULL);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return reply;
}

/* Returns who answers a frame, or NULL, also with an exception. */
static PyObject *answers_find(const struct answers *answers, PyObject *frame)
{
    const unsigned char *text = (const unsigned char *)PyBytes_AsString(frame);
    PyObject *key, *handler;
    if (PyBytes_Size(frame) != 4 * (Py_ssize_t)(text[2] | text[3] << 8))
        return NULL;
    key = PyBytes_FromStringAndSize((const char *)text, 8);
    if (!key)
        return NULL;
    handler = PyDict_GetItemWithError(answers->kept[HANDLERS], key);
    Py_XINCREF(handler);
    Py_DECREF(key);
    return handler;
}

/* Answer the next request that is posted. Returns 1, 0 if Python has to, or -1 with an exception,
   in which case it is posted no longer, as if Python had met with the same. */
static int answer_next(device_table *self, const struct answers *answers, PyObject *now)
{
    uint32_t mfa = fifo_at(&self->posted, 0);
    PyObject *frame = device_frame(self, mfa), *handler, *route, *request, *reply = NULL;
    int outcome = -1;
    if (!frame)
        return -1;
    handler = answers_find(answers, frame);
    if (!handler) {
        Py_DECREF(frame);
        return PyErr_Occurred() ? -1 : 0;
    }
    route = number_of(word_of((const unsigned char *)PyBytes_AsString(frame), 1));
    request = route ? PyObject_CallFunctionObjArgs(answers->kept[REQUEST], frame, route, now, NULL)
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
                reply = answers_failed(answers, request);
        }
        if (reply)
            outcome = reply == Py_None ? 1 : answers_send(self, answers, reply);
    } else if (request) {
        outcome = 0; /* it was taken by somebody else */
    }
    Py_XDECREF(reply);
    Py_XDECREF(request);
    Py_DECREF(handler);
    return outcome;
}

/* Answer what is posted. Returns 1 if that was all, 0 if something is left for Python to look at,
   -1 with an exception. */
static int answer_posted(device_table *self, const struct answers *answers, PyObject *now)
{
    while (is_calm(answers)) {
        int outcome;
        if (!self->posted.used || !self->table.memory.buf)
            return 1;
        outcome = answer_next(self, answers, now);
        if (outcome <= 0)
            return outcome;
    }
    return 0;
}

static PyObject *device_answer(PyObject *object, PyObject *now)
{
    device_table *self = (device_table *)object;
    struct answers answers;
    int outcome = answers_begin(self, &answers);
    if (outcome > 0) {
        outcome = answer_posted(self, &answers, now);
        answers_end(&answers);
    }
    return outcome < 0 ? NULL : PyBool_FromLong(outcome);
}

/* Look at the ring until there is something in it, without the interpreter's lock. */
static int look_for(struct table *table, long long wait_ns)
{
    i2o_ring *ring = table->in;
    PyObject *keeper = Py_NewRef(table->keeper); /* whoever closes it meanwhile does not free it */
    int found;
    Py_BEGIN_ALLOW_THREADS
    found = i2o_ring_spin(ring, wait_ns);
    Py_END_ALLOW_THREADS
    Py_DECREF(keeper);
    return found;
}

/* Take in what came and answer it. Returns 1 if that was all, and is told; else as above. */
static int answer_news(device_table *self, const struct answers *answers, long long now_ns)
{
    PyObject *now, *is_told;
    int outcome;
    if (!self->table.in || self->outbox_size > self->most_outbox || !is_calm(answers))
        return 0;
    outcome = table_take_in(&self->table, device_sift, self);
    if (outcome < 0 || outcome & HAS_REST)
        return outcome == -3 ? -1 : 0;
    now = PyLong_FromLongLong(now_ns);
    if (!now)
        return -1;
    outcome = answer_posted(self, answers, now);
    Py_DECREF(now);
    if (outcome <= 0)
        return outcome;
    is_told = device_flush((PyObject *)self, NULL);
    if (!is_told)
        return -1;
    outcome = is_told == Py_True;
    Py_DECREF(is_told);
    return outcome;
}

/* Answer what comes, until nothing comes for a while (False), or there is something that Python has
   to see to (True). */
static PyObject *device_spin(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    device_table *self = (device_table *)object;
    struct answers answers;
    long long wait_ns, end_ns;
    int outcome;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "spin takes how long to wait, and until when to answer");
        return NULL;
    }
    wait_ns = PyLong_AsLongLong(args[0]);
    end_ns = PyLong_AsLongLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    if (!self->table.in)
        Py_RETURN_FALSE;
    outcome = answers_begin(self, &answers);
    if (outcome < 0)
        return NULL;
    if (!outcome)
        return PyBool_FromLong(look_for(&self->table, wait_ns));
    for (;;) {
        long long now_ns;
        if (!look_for(&self->table, wait_ns)) {
            outcome = -2; /* nothing came */
            break;
        }
        now_ns = now_in_ns();
        if (now_ns >= end_ns) {
            outcome = 0;
            break;
        }
        outcome = answer_news(self, &answers, now_ns);
        if (outcome <= 0 || !self->table.in)
            break;
    }
    answers_end(&answers);
    return outcome == -1 ? NULL : PyBool_FromLong(outcome != -2);
}

static PyObject *device_take_counts(PyObject *object, PyObject *unused)
{
    device_table *self = (device_table *)object;
    unsigned long long answered = self->answered, replied = self->replied;
    (void)unused;
    self->answered = self->replied = 0;
    return Py_BuildValue("KK", answered, replied);
}

static PyObject *device_attend(PyObject *object, PyObject *args)
{
    device_table *self = (device_table *)object;
    PyObject *given[ANSWERING];
    if (!PyArg_ParseTuple(args, "O!OOOO!:attend", &PyDict_Type, &given[HANDLERS], &given[REQUEST],
                          &given[REPLIES], &given[FAILED], &PyTuple_Type, &given[PENDING]))
        return NULL;
    for (int number = 0; number < ANSWERING; number++) {
        PyObject *old = self->answering[number];
        self->answering[number] = Py_NewRef(given[number]);
        Py_XDECREF(old);
    }
    Py_RETURN_NONE;
}
"""
