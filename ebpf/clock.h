/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The time, as of the kernel's last tick (CLOCK_MONOTONIC_COARSE). Until the next tick it stays the same, so each CPU
 * asks once a tick: to ask costs 20 ns, to remember one. It may lag behind another CPU's by a tick, 1 to 10 ms. Knows
 * the map only by the verb of the program that includes it.
 */
#ifndef JETPLANE_CLOCK_H
#define JETPLANE_CLOCK_H

#include "abi.h"

static __always_inline __u64 clock_ns(void)
{
	struct clock *clock = clock_get();
	__u64 tick = bpf_jiffies64();

	if (!clock)
		return bpf_ktime_get_coarse_ns();
	if (clock->tick != tick) {
		clock->now_ns = bpf_ktime_get_coarse_ns();
		/* Whoever comes in between finds the tick of before, and asks, too. */
		compiler_barrier();
		clock->tick = tick;
	}
	return clock->now_ns;
}

#endif
