/* What a handler gets of a notification: numbers, made objects of Python's when they are asked for. */
#include "notified.h"

#include <structmember.h>

static PyObject *notified_args(PyObject *object, void *unused)
{
    const uint64_t *args = ((struct sl_notified *)object)->data.args;
    PyObject *found = PyTuple_New(6);
    for (Py_ssize_t index = 0; found && index < 6; index++) {
        PyObject *one = PyLong_FromUnsignedLongLong(args[index]);
        if (!one) {
            Py_CLEAR(found);
            break;
        }
        PyTuple_SetItem(found, index, one);
    }
    return found;
}

static PyObject *notified_int_arg(PyObject *object, PyObject *which)
{
    long index = PyLong_AsLong(which);
    if (index == -1 && PyErr_Occurred())
        return NULL;
    if (index < 0 || index > 5) {
        PyErr_SetString(PyExc_IndexError, "a system call has the arguments 0 to 5");
        return NULL;
    }
    return PyLong_FromLong((int32_t)(uint32_t)((struct sl_notified *)object)->data.args[index]);
}

static void notified_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(object);
    Py_DECREF((PyObject *)type);
}

static PyMemberDef notified_members[] = {
    {"id", T_ULONGLONG, offsetof(struct sl_notified, data.id), READONLY, "of the notification; unique per listener"},
    {"tid", T_UINT, offsetof(struct sl_notified, data.pid), READONLY, "the calling thread, in this process's pid namespace"},
    {"nr", T_INT, offsetof(struct sl_notified, data.nr), READONLY, "the system call's number"},
    {"arch", T_UINT, offsetof(struct sl_notified, data.arch), READONLY, "AUDIT_ARCH_* of the ABI that it came in by"},
    {"instruction_pointer", T_ULONGLONG, offsetof(struct sl_notified, data.instruction_pointer), READONLY,
     "the address after the system call instruction"},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef notified_properties[] = {
    {"args", notified_args, NULL, "six arguments, unsigned 64-bit", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef notified_methods[] = {
    {"int_arg", notified_int_arg, METH_O, "Return an argument as the kernel reads a C int: the low 32 bits, signed."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot notified_slots[] = {
    {Py_tp_doc, "What the kernel tells of a system call that waits for its answer."},
    {Py_tp_dealloc, notified_dealloc},
    {Py_tp_members, notified_members},
    {Py_tp_getset, notified_properties},
    {Py_tp_methods, notified_methods},
    {0, NULL},
};

PyType_Spec sl_notified_spec = {
    "sandlock_sys._turn.Notified", sizeof(struct sl_notified), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, notified_slots,
};
