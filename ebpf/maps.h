/* SPDX-License-Identifier: GPL-2.0-only */
/* Declares every map of maps.def, pinned under PIN_ROOT. bcc rewrites map methods in the program's own file only. */
#ifndef JETPLANE_MAPS_H
#define JETPLANE_MAPS_H

#include "abi.h"
#include "node.h"

#define MAP(name, kind, key, value, entries, flags, holds) \
	BPF_TABLE_PINNED(kind, key, value, name, entries, PIN_ROOT "/" #name, flags);
#include "maps.def"
#undef MAP

#endif
