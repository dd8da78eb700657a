#ifndef SANDLOCK_NOTIFIED_H
#define SANDLOCK_NOTIFIED_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "notif.h"

/* The base of the class of requests. */
struct sl_notified {
    PyObject_HEAD
    struct sl_notif_request data;
};

extern PyType_Spec sl_notified_spec;

#endif
