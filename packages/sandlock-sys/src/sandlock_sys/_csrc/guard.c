#include "guard.h"

_Static_assert(sizeof(struct sl_order) == 8, "one order");
_Static_assert(sizeof(struct sl_report) == 40, "one report");
