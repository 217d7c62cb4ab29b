/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * SipHash-1-3: a remote's hash tells nothing without the node's secret, and nobody outside
 * can aim for a collision. Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012; the kernel's HSipHash
 * on 64-bit machines has the same rounds.
 */
#ifndef JETPLANE_HASH_H
#define JETPLANE_HASH_H

#include "types.h"
#include "abi.h"

struct sip {
	__u64 v0, v1, v2, v3;
	__u64 length; /* bytes taken so far */
};

static __always_inline __u64 rotate_left(__u64 word, __u32 bits)
{
	return word << bits | word >> (64 - bits);
}

static __always_inline void sip_round(struct sip *sip)
{
	sip->v0 += sip->v1;
	sip->v1 = rotate_left(sip->v1, 13) ^ sip->v0;
	sip->v0 = rotate_left(sip->v0, 32);
	sip->v2 += sip->v3;
	sip->v3 = rotate_left(sip->v3, 16) ^ sip->v2;
	sip->v0 += sip->v3;
	sip->v3 = rotate_left(sip->v3, 21) ^ sip->v0;
	sip->v2 += sip->v1;
	sip->v1 = rotate_left(sip->v1, 17) ^ sip->v2;
	sip->v2 = rotate_left(sip->v2, 32);
}

static __always_inline void sip_begin(struct sip *sip, const struct secret *secret)
{
	sip->v0 = secret->key[0] ^ 0x736f6d6570736575ull;
	sip->v1 = secret->key[1] ^ 0x646f72616e646f6dull;
	sip->v2 = secret->key[0] ^ 0x6c7967656e657261ull;
	sip->v3 = secret->key[1] ^ 0x7465646279746573ull;
	sip->length = 0;
}

static __always_inline void sip_take(struct sip *sip, __u64 word)
{
	sip->v3 ^= word;
	sip_round(sip);
	sip->v0 ^= word;
	sip->length += sizeof(word);
}

/* @rest: the last @length bytes, fewer than eight. */
static __always_inline __u64 sip_end_with(struct sip *sip, __u64 rest, __u32 length)
{
	sip_take(sip, rest | (sip->length + length) << 56);
	sip->v2 ^= 0xff;
	sip_round(sip);
	sip_round(sip);
	sip_round(sip);
	return sip->v0 ^ sip->v1 ^ sip->v2 ^ sip->v3;
}

static __always_inline __u64 sip_end(struct sip *sip)
{
	return sip_end_with(sip, 0, 0);
}

/*
 * What a binding remembers of a remote: never its address, and never 0, which stands for none.
 * @port is 0 where the filter asks for the address alone. Of an IPv4-mapped address only the IPv4 address is hashed,
 * in six bytes with the port: a third of the rounds less for every packet.
 */
static __always_inline __u64 remote_hash(const struct secret *secret, const struct address *address, __be16 port)
{
	const __be32 *words = (const __be32 *)address;
	struct sip sip;
	__u64 hash;

	sip_begin(&sip, secret);
	if (!words[0] && !words[1] && words[2] == BE32(0xffff)) {
		hash = sip_end_with(&sip, (__u64)(__u16)port << 32 | (__u32)words[3], 6);
	} else {
		sip_take(&sip, (__u64)(__u32)words[1] << 32 | (__u32)words[0]);
		sip_take(&sip, (__u64)(__u32)words[3] << 32 | (__u32)words[2]);
		hash = sip_end_with(&sip, (__u16)port, 2);
	}
	return hash ? hash : 1;
}

#endif
