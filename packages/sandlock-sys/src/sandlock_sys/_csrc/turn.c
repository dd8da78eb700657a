/* Takes, hands out and answers requests without a step into Python between them but for the handlers themselves.
 *
 * With notified.c this is what of the extension knows Python: a module of its own (`sandlock_sys._turn`) in the same shared
 * object. cffi lets go of the interpreter around every call, and a host that computes in another thread then keeps it
 * for a switch interval, each time. Here it is kept while the next request is waited for, as long as such waits are short
 * and come to something: a change of threads would cost the host more.
 */
#include "notified.h"

#include <errno.h>
#include <structmember.h>
#include <time.h>

#include "shortcut.h"

enum {
    HURRIED = 8,      /* calls that nothing is waited for after */
    NUMBERS = 512,    /* system calls that are counted one by one; the highest of any architecture is below */
    KEPT_NS = 30000,  /* how long the interpreter is kept while a request is waited for */
};

struct turn {
    PyObject_HEAD
    PyTypeObject *kind;        /* of the requests handed out, with `struct sl_notified` in front */
    PyObject *go;              /* the outcome that lets the kernel run the call */
    PyTypeObject *returning;   /* the type of outcomes with a `value` that the call returns */
    PyObject *name_of_listener, *name_of_value;
    struct sl_shortcut *shortcut; /* NULL: none; kept alive by the owner of this */
    int listener;
    uint32_t arch;             /* AUDIT_ARCH_* */
    char hung_up;              /* no task has the filter any more, and none ever will */
    char busy;
    char eager;                /* the last wait came to something within KEPT_NS */
    uint32_t left;             /* requests that may still be taken in this turn */
    int64_t until_ns;          /* and until when */
    uint64_t served;
    int hurried[HURRIED];
    Py_ssize_t hurried_count;
    struct sl_notif_request received;
    uint64_t asked[NUMBERS];   /* by the call's number */
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int hurried(const struct turn *turn, int number)
{
    for (Py_ssize_t index = 0; index < turn->hurried_count; index++)
        if (turn->hurried[index] == number)
            return 1;
    return 0;
}

/* 1: `received` holds a request. 0: none came. Less: -errno. */
static long take(struct turn *turn, int64_t wait_ns)
{
    struct sl_shortcut *shortcut = turn->shortcut;
    long result = 0;
    if (wait_ns <= 0 || turn->eager) {
        result = sl_notif_next(turn->listener, &turn->received, wait_ns < KEPT_NS ? wait_ns : KEPT_NS);
        if (result == 0 && wait_ns > 0)
            turn->eager = 0;
        if (result < 0 || (result == 0 && wait_ns <= KEPT_NS)
            || (result == 1 && !(shortcut && sl_shortcut_knows(shortcut, &turn->received))))
            return result;
    }
    int soon = 0;
    Py_BEGIN_ALLOW_THREADS
    int64_t begun_ns = now_ns();
    if (result == 1)
        result = sl_shortcut_go_on(shortcut, &turn->received);
    else if (shortcut)
        result = sl_shortcut_next(shortcut, &turn->received, wait_ns);
    else
        result = sl_notif_next(turn->listener, &turn->received, wait_ns);
    soon = now_ns() - begun_ns < KEPT_NS;
    Py_END_ALLOW_THREADS
    if (result == 1)
        turn->eager = (char)soon;
    return result;
}

/* That nobody waits for the answer any more is no error. */
static long answer(const struct turn *turn, uint64_t id, int64_t value, int32_t error, uint32_t flags)
{
    long result;
    do
        result = sl_notif_send(turn->listener, id, value, error, flags);
    while (result == -EINTR); /* another thread holds the listener's lock and a signal came: nothing was sent */
    return result == -ENOENT ? 0 : result;
}

static PyObject *make_request(struct turn *turn, PyObject *listener)
{
    PyObject *made = PyType_GenericAlloc(turn->kind, 0);
    if (!made)
        return NULL;
    ((struct sl_notified *)made)->data = turn->received;
    if (PyObject_SetAttr(made, turn->name_of_listener, listener) < 0)
        Py_CLEAR(made);
    return made;
}

/* The error that is set, taken out of the interpreter: whoever gets it raises or judges it. */
static PyObject *raised(void)
{
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (trace && error)
        PyException_SetTraceback(error, trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return error;
}

/* Asks the handlers of the request's number in turn. Returns the first outcome that is not None, the `go` after the last,
 * or what was raised; `asked` counts the handlers, and is -1 where there are none. A new reference; NULL: no memory. */
static PyObject *ask(struct turn *turn, PyObject *all, PyObject *request, Py_ssize_t *asked)
{
    *asked = -1;
    if (turn->received.arch != turn->arch)
        return Py_NewRef(Py_None);
    PyObject *number = PyLong_FromLong(turn->received.nr);
    PyObject *handlers = number ? PyDict_GetItemWithError(all, number) : NULL;
    Py_XDECREF(number);
    if (!handlers)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    if ((uint32_t)turn->received.nr < NUMBERS)
        turn->asked[turn->received.nr]++;
    *asked = 0;
    Py_INCREF(handlers); /* whatever they do to the table */
    PyObject *outcome = NULL;
    Py_ssize_t count = PyTuple_Size(handlers);
    while (*asked < count) {
        PyObject *handler = PyTuple_GetItem(handlers, (*asked)++);
        outcome = PyObject_CallFunctionObjArgs(handler, request, NULL);
        if (outcome != Py_None)
            break;
        Py_CLEAR(outcome);
    }
    if (PyErr_Occurred())
        outcome = raised();
    else if (!outcome)
        outcome = Py_NewRef(turn->go);
    Py_DECREF(handlers);
    return outcome;
}

/* Answers what is answered here. 1: done, 0: it is the caller's, less: -errno. What `value` raises replaces the outcome. */
static long settle(const struct turn *turn, uint64_t id, PyObject **outcome)
{
    if (*outcome == turn->go)
        return (long)answer(turn, id, 0, 0, 1 /* SECCOMP_USER_NOTIF_FLAG_CONTINUE, 5.5 */) ?: 1;
    if (Py_TYPE(*outcome) != turn->returning)
        return 0;
    PyObject *number = PyObject_GetAttr(*outcome, turn->name_of_value);
    int64_t value = number ? PyLong_AsLongLong(number) : -1;
    Py_XDECREF(number);
    if (value == -1 && PyErr_Occurred()) {
        Py_DECREF(*outcome);
        *outcome = raised();
        return 0;
    }
    return answer(turn, id, value, 0, 0) ?: 1;
}

/* Takes, asks and answers until there is nothing to take, the turn is over, or a request is the caller's to answer. */
static PyObject *go_on(struct turn *turn, PyObject *handlers, PyObject *listener, int64_t first_wait_ns, int64_t wait_ns)
{
    int64_t now_wait_ns = first_wait_ns;
    for (;;) {
        if (!turn->left || now_ns() >= turn->until_ns)
            Py_RETURN_NONE;
        long result = take(turn, now_wait_ns);
        if (result == -EPIPE)
            turn->hung_up = 1;
        if (result == 0 || result == -EPIPE)
            Py_RETURN_NONE;
        if (result < 0)
            return PyLong_FromLong(result);
        turn->left--;
        turn->served++;
        uint64_t id = turn->received.id;
        PyObject *request = make_request(turn, listener);
        Py_ssize_t asked = -1;
        PyObject *outcome = request ? ask(turn, handlers, request, &asked) : NULL;
        long settled = outcome && asked >= 0 ? settle(turn, id, &outcome) : 0;
        if (!outcome) { /* no memory: the call is denied, and the caller told */
            Py_XDECREF(request);
            answer(turn, id, 0, -EPERM, 0);
            return NULL;
        }
        if (settled) {
            now_wait_ns = outcome == turn->go && hurried(turn, turn->received.nr) ? 0 : wait_ns;
            Py_DECREF(outcome);
            Py_DECREF(request);
            if (settled < 0)
                return PyLong_FromLong(settled);
            continue;
        }
        return Py_BuildValue("(NnN)", request, asked, outcome);
    }
}

static PyObject *turn_serve(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    struct turn *turn = (struct turn *)object;
    if ((count != 4 && count != 8) || !PyDict_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "serve(handlers, listener, first_wait_ns, wait_ns[, id, value, error, flags])");
        return NULL;
    }
    if (turn->busy) { /* a handler that serves would have its own request's memory overwritten */
        PyErr_SetString(PyExc_RuntimeError, "this turn is being taken");
        return NULL;
    }
    int64_t first_wait_ns = PyLong_AsLongLong(args[2]), wait_ns = PyLong_AsLongLong(args[3]);
    if (PyErr_Occurred())
        return NULL;
    if (count == 8) {
        uint64_t id = PyLong_AsUnsignedLongLong(args[4]);
        int64_t value = PyLong_AsLongLong(args[5]);
        long error = PyLong_AsLong(args[6]);
        unsigned long flags = PyLong_AsUnsignedLong(args[7]);
        if (PyErr_Occurred())
            return NULL;
        long result = answer(turn, id, value, (int32_t)-error, (uint32_t)flags);
        if (result < 0)
            return PyLong_FromLong(result);
    }
    turn->busy = 1;
    PyObject *found = go_on(turn, args[0], args[1], first_wait_ns, wait_ns);
    turn->busy = 0;
    return found;
}

static PyObject *turn_begin(PyObject *object, PyObject *args)
{
    struct turn *turn = (struct turn *)object;
    unsigned int left;
    long long ns;
    if (!PyArg_ParseTuple(args, "IL", &left, &ns))
        return NULL;
    turn->left = left;
    turn->until_ns = now_ns() + ns;
    return PyLong_FromLongLong(turn->until_ns);
}

static PyObject *turn_use(PyObject *object, PyObject *address)
{
    void *shortcut = PyLong_AsVoidPtr(address);
    if (!shortcut && PyErr_Occurred())
        return NULL;
    ((struct turn *)object)->shortcut = shortcut;
    Py_RETURN_NONE;
}

static PyObject *turn_asked(PyObject *object, PyObject *which)
{
    long number = PyLong_AsLong(which);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    int known = number >= 0 && number < NUMBERS;
    return PyLong_FromUnsignedLongLong(known ? ((struct turn *)object)->asked[number] : 0);
}

static int read_hurried(struct turn *turn, PyObject *numbers)
{
    turn->hurried_count = PyTuple_Size(numbers);
    if (turn->hurried_count < 0 || turn->hurried_count > HURRIED) {
        turn->hurried_count = 0;
        if (!PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "at most %d calls", HURRIED);
        return -1;
    }
    for (Py_ssize_t index = 0; index < turn->hurried_count; index++) {
        long number = PyLong_AsLong(PyTuple_GetItem(numbers, index));
        if (number == -1 && PyErr_Occurred())
            return -1;
        turn->hurried[index] = (int)number;
    }
    return 0;
}

/* What the requests are made of, checked: `kind` has to have room for what is written into it. */
static int read_classes(struct turn *turn, PyObject *module, PyObject *kind, PyObject *go, PyObject *returning)
{
    PyObject *base = module ? PyObject_GetAttrString(module, "Notified") : NULL;
    if (!base)
        return -1;
    int fits = PyType_Check(kind) && PyType_IsSubtype((PyTypeObject *)kind, (PyTypeObject *)base) && PyType_Check(returning);
    Py_DECREF(base);
    if (!fits) {
        PyErr_SetString(PyExc_TypeError, "a class made of Notified, an outcome, and a class of outcomes");
        return -1;
    }
    turn->kind = (PyTypeObject *)Py_NewRef(kind);
    turn->go = Py_NewRef(go);
    turn->returning = (PyTypeObject *)Py_NewRef(returning);
    turn->name_of_listener = PyUnicode_InternFromString("listener");
    turn->name_of_value = PyUnicode_InternFromString("value");
    return turn->name_of_listener && turn->name_of_value ? 0 : -1;
}

static PyObject *turn_new(PyTypeObject *type, PyObject *args, PyObject *words)
{
    int listener;
    unsigned int arch;
    PyObject *kind, *go, *returning, *numbers;
    if (!PyArg_ParseTuple(args, "iIOOOO", &listener, &arch, &kind, &go, &returning, &numbers))
        return NULL;
    struct turn *turn = (struct turn *)PyType_GenericAlloc(type, 0);
    if (!turn)
        return NULL;
    turn->listener = listener;
    turn->arch = arch;
    if (read_classes(turn, PyType_GetModule(type), kind, go, returning) < 0 || read_hurried(turn, numbers) < 0)
        Py_CLEAR(turn);
    return (PyObject *)turn;
}

static void turn_dealloc(PyObject *object)
{
    struct turn *turn = (struct turn *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF((PyObject *)turn->kind);
    Py_XDECREF(turn->go);
    Py_XDECREF((PyObject *)turn->returning);
    Py_XDECREF(turn->name_of_listener);
    Py_XDECREF(turn->name_of_value);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF((PyObject *)type);
}

static PyMemberDef turn_members[] = {
    {"hung_up", T_BOOL, offsetof(struct turn, hung_up), READONLY, "whether no task has the filter any more"},
    {"served", T_ULONGLONG, offsetof(struct turn, served), READONLY, "how many requests were taken and handed out"},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef turn_methods[] = {
    {"serve", (PyCFunction)(void (*)(void))turn_serve, METH_FASTCALL, "Take, ask, answer; see sandlock_sys.turn."},
    {"begin", turn_begin, METH_VARARGS, "Allow so many requests for so many nanoseconds; return the end."},
    {"use", turn_use, METH_O, "Serve by the shortcut at this address; 0: by none."},
    {"asked", turn_asked, METH_O, "Return how often handlers were asked about the call of this number."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot turn_slots[] = {
    {Py_tp_doc, "Takes and answers the requests of one listener; see sandlock_sys.turn."},
    {Py_tp_new, turn_new},
    {Py_tp_dealloc, turn_dealloc},
    {Py_tp_members, turn_members},
    {Py_tp_methods, turn_methods},
    {0, NULL},
};

static PyType_Spec turn_spec = {"sandlock_sys._turn.Turn", sizeof(struct turn), 0, Py_TPFLAGS_DEFAULT, turn_slots};

static int fill(PyObject *module)
{
    PyType_Spec *specs[] = {&sl_notified_spec, &turn_spec};
    for (int index = 0; index < 2; index++) {
        PyObject *type = PyType_FromModuleAndSpec(module, specs[index], NULL);
        if (!type)
            return -1;
        int added = PyModule_AddType(module, (PyTypeObject *)type);
        Py_DECREF((PyObject *)type);
        if (added < 0)
            return -1;
    }
    return 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, fill}, {0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "sandlock_sys._turn", NULL, 0, NULL, module_slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__turn(void)
{
    return PyModuleDef_Init(&module);
}
