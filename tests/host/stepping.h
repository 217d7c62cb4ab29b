/* SPDX-License-Identifier: GPL-2.0-only */
/* Lets another CPU do something in front of each atomic operation of the headers that are included after this one. */
#ifndef JETPLANE_STEPPING_H
#define JETPLANE_STEPPING_H

/* What the other CPU does; the test says. */
static void step(void);

#define __sync_val_compare_and_swap(word, old, new)                                                      \
	({                                                                                               \
		__typeof__(*(word)) was = (old);                                                         \
		step();                                                                                  \
		__atomic_compare_exchange_n((word), &was, (new), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
		was;                                                                                     \
	})
#define __sync_fetch_and_or(word, bits)                              \
	({                                                           \
		step();                                              \
		__atomic_fetch_or((word), (bits), __ATOMIC_SEQ_CST); \
	})
#define __sync_fetch_and_and(word, bits)                              \
	({                                                            \
		step();                                               \
		__atomic_fetch_and((word), (bits), __ATOMIC_SEQ_CST); \
	})
#define __sync_fetch_and_add(word, more)                              \
	({                                                            \
		step();                                               \
		__atomic_fetch_add((word), (more), __ATOMIC_SEQ_CST); \
	})

#endif
