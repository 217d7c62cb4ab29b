/* SPDX-License-Identifier: GPL-2.0-only */
/* The few names that the pure headers need, in the kernel's dialect (bcc) and natively (tests on the host). */
#ifndef JETPLANE_TYPES_H
#define JETPLANE_TYPES_H

#include <linux/types.h>

#ifndef __KERNEL__ /* bcc defines it */
#include <stdbool.h>
#include <stddef.h>
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "addresses in node.h are little-endian words"
#endif

/* What hardly any packet is like, so that the compiler puts what is done then out of the way of others. */
#define unlikely(condition) __builtin_expect(!!(condition), 0)

/* Constants in wire order, fit for `case`. */
#define BE16(value) ((__be16)__builtin_bswap16((__u16)(value)))
#define BE32(value) ((__be32)__builtin_bswap32((__u32)(value)))

/*
 * @value, of which the compiler knows nothing from here on. It sees that much is needless which the verifier, with less
 * insight, needs to see.
 */
static __always_inline __u64 opaque(__u64 value)
{
	asm volatile("" : "+r"(value));
	return value;
}

/*
 * @value, of which the verifier knows nothing from here on: the difference of two numbers that it does not know is one
 * more. Where many ways set a constant each, they then end in one state, and what follows is verified once. @unknown is
 * any number that comes from outside.
 */
static __always_inline __u32 forgotten(__u32 value, __u64 unknown)
{
	__u64 same = opaque(unknown);

	return value + (__u32)(opaque(unknown) - same);
}

/* What stands before it is read or written before what stands after it, as far as the compiler goes. */
static __always_inline void compiler_barrier(void)
{
	asm volatile("" : : : "memory");
}

static __always_inline __u16 from_be16(__be16 value)
{
	return __builtin_bswap16((__u16)value);
}

static __always_inline __be16 to_be16(__u16 value)
{
	return (__be16)__builtin_bswap16(value);
}

static __always_inline __u32 from_be32(__be32 value)
{
	return __builtin_bswap32((__u32)value);
}

#endif
