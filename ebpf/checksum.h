/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Incremental Internet checksums (RFC 1624): collect what changed, then apply it. Words are taken as they lie in
 * the packet; ones' complement sums do not mind the byte order (RFC 1071, section 2B).
 */
#ifndef JETPLANE_CHECKSUM_H
#define JETPLANE_CHECKSUM_H

#include "types.h"
#include "abi.h"

/* Sum of differences: each change adds ~old + new. 64 bits take 2^30 changes without a carry lost. */
static __always_inline __u64 sum_change32(__u64 sum, __be32 old, __be32 new)
{
	return sum + (__u32) ~(__u32)old + (__u32) new;
}

static __always_inline __u64 sum_change16(__u64 sum, __be16 old, __be16 new)
{
	return sum + (__u16) ~(__u16)old + (__u16) new;
}

/* All 16 bytes; for IPv4-mapped ones the first twelve cancel out. */
static __always_inline __u64 sum_change_address(__u64 sum, const struct address *old, const struct address *new)
{
	const __be32 *from = (const __be32 *)old;
	const __be32 *to = (const __be32 *)new;

	sum = sum_change32(sum, from[0], to[0]);
	sum = sum_change32(sum, from[1], to[1]);
	sum = sum_change32(sum, from[2], to[2]);
	return sum_change32(sum, from[3], to[3]);
}

/* Down to the 32 bits that bpf_l4_csum_replace takes as a difference. */
static __always_inline __u32 sum_fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (__u32)sum;
}

static __always_inline __u16 sum_fold16(__u64 sum)
{
	__u32 folded = sum_fold32(sum);

	folded = (folded & 0xffff) + (folded >> 16);
	folded = (folded & 0xffff) + (folded >> 16);
	return (__u16)folded;
}

/* The checksum field after the changes collected in @sum. */
static __always_inline __sum16 checksum_apply(__sum16 checksum, __u64 sum)
{
	return (__sum16)~sum_fold16(sum + (__u16) ~(__u16)checksum);
}

#endif
