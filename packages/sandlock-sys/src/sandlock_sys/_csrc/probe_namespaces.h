#ifndef SANDLOCK_PROBE_NAMESPACES_H
#define SANDLOCK_PROBE_NAMESPACES_H

#include "probe_attempt.h"

#endif
