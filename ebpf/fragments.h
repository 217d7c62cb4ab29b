/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fragments: only the first one of a datagram has the ports. RFC 4787, REQ-14; RFC 1858; RFC 3128; RFC 8200.
 *
 * Outwards no state is needed. A peer has one exit address of a family, so that any fragment can be translated in any
 * order. Inwards the first fragment finds its binding by its port, passes the filter and leaves an entry, by which the
 * later ones find the same binding. An entry ends with its datagram or after two ticks, and means nothing once its
 * binding or its peer has ended.
 *
 * Nobody can use the entries against others: only who has passed a binding's filter makes one, and it takes the place
 * of one of the same peer's. Where two bindings claim the fragments of one datagram, neither gets them.
 * Knows the maps only by the verbs of the program that includes it.
 */
#ifndef JETPLANE_FRAGMENTS_H
#define JETPLANE_FRAGMENTS_H

#include "allocate.h"
#include "binding.h"
#include "checksum.h"
#include "pieces.h"

#define FRAGMENT_LIFE_TICKS 2 /* 1.07 to 2.15 s from the first fragment to the last */

/* Words that keep what is hashed for one purpose apart from what is hashed for another. */
#define FRAGMENT_HASH_SHIFT 1
#define FRAGMENT_HASH_KEY   2

/*
 * Move the identification by what only this node knows: peers that share an exit address count apart, and a site that
 * is visited under two addresses cannot join what it sees by where the counts stand. The same for all fragments of
 * a datagram. Whole IPv4 packets keep theirs: most say "don't fragment", and then it means nothing (RFC 6864).
 */
static __always_inline bool fragment_shift(const struct packet *packet)
{
	struct secret *secret = secret_get();
	struct iphdr *ip4 = packet->network;
	struct ipv6_fragment *header;
	struct address address;
	struct sip sip;
	__be16 before;
	__u64 shift;

	if (!secret)
		return false;
	sip_begin(&sip, secret);
	sip_take(&sip, FRAGMENT_HASH_SHIFT);
	packet_source(packet, &address);
	sip_take_address(&sip, &address);
	packet_destination(packet, &address);
	sip_take_address(&sip, &address);
	shift = sip_end(&sip);
	if (packet->family == FAMILY_V4) {
		before = ip4->id;
		ip4->id = to_be16(from_be16(before) + shift);
		ip4->check = checksum_apply(ip4->check, sum_change16(0, before, ip4->id));
		return true;
	}
	header = fragment_header(packet);
	if (!header)
		return false;
	header->identification = (__be32)__builtin_bswap32(from_be32(header->identification) + (__u32)shift);
	return true;
}

/*
 * What tells the fragments of one datagram from outside: who sent it to which exit address, and its identification,
 * which in IPv4 counts for each protocol by itself.
 */
static __always_inline bool fragment_key(const struct packet *packet, const struct piece *piece, __u32 exit, __u64 *key)
{
	struct secret *secret = secret_get();
	struct address remote;
	struct sip sip;

	if (!secret)
		return false;
	sip_begin(&sip, secret);
	sip_take(&sip, FRAGMENT_HASH_KEY | (packet->family == FAMILY_V4 ? (__u64)packet->protocol << 32 : 0));
	packet_source(packet, &remote);
	sip_take_address(&sip, &remote);
	sip_take(&sip, (__u64)exit << 32 | piece->identification);
	*key = sip_end(&sip);
	if (!*key)
		*key = 1;
	return true;
}

/* What a fragment adds to an entry's balance: nought in all when the last has come and none is missing. */
static __always_inline __u64 fragment_weight(const struct piece *piece)
{
	__u64 weight = piece->length;

	if (piece->last)
		weight -= piece->offset + piece->length + FRAGMENT_NO_END;
	return weight;
}

static __always_inline bool fragment_is_fresh(const struct fragmented *entry, __u32 tick)
{
	return (__s32)(tick - entry->tick) < FRAGMENT_LIFE_TICKS;
}

/* Remove an entry if it is the peer's. */
static __always_inline void fragment_forget(__u64 key, __u32 peer)
{
	struct fragmented *entry = fragment_find(&key);

	if (entry && entry->peer == peer)
		fragment_remove(&key);
}

/* Let the later fragments follow a first one that has been let in; it gives way when @peer has many others. */
static __always_inline void fragment_remember(__u64 key, const struct piece *piece, __u32 peer, __u32 slot,
					      __u32 sequence, __u32 tick)
{
	struct fragmented *entry = fragment_find(&key), fresh = {
		.slot = slot,
		.sequence = sequence,
		.peer = peer,
		.tick = tick,
		.balance = fragment_weight(piece) + FRAGMENT_NO_END,
	};
	struct peer_fragments *held;
	__u64 place, given;

	if (entry && fragment_is_fresh(entry, tick)) {
		/* The same binding's: a repetition, or the identification has come round. Another's: somebody's trick. */
		if (entry->slot == slot && entry->sequence == sequence) {
			entry->balance = fresh.balance;
			entry->tick = tick;
		} else {
			entry->slot = NO_SLOT;
		}
		return;
	}
	held = peer_fragments_at(peer);
	if (!held)
		return;
	place = __sync_fetch_and_add(&held->next, 1) % FRAGMENTS_PER_PEER;
	given = *(volatile __u64 *)&held->key[place];
	if (__sync_val_compare_and_swap(&held->key[place], given, key) != given)
		return;
	if (given)
		fragment_forget(given, peer);
	if (entry)
		fragment_remove(&key);
	fragment_add(&key, &fresh);
	/* Another CPU may have given the place away before there was an entry to remove. */
	if (*(volatile __u64 *)&held->key[place] != key)
		fragment_forget(key, peer);
}

/* The slot whose binding a later fragment is for, or NO_SLOT; the entry goes with the datagram's last missing piece. */
static __always_inline __u32 fragment_follow(__u64 key, const struct piece *piece, __u32 tick, __u32 *sequence)
{
	struct fragmented *entry = fragment_find(&key);
	__u64 weight = fragment_weight(piece);
	__u32 slot;

	if (!entry || !fragment_is_fresh(entry, tick))
		return NO_SLOT;
	slot = *(volatile __u32 *)&entry->slot;
	*sequence = entry->sequence;
	if (__sync_fetch_and_add(&entry->balance, weight) + weight == 0)
		fragment_remove(&key);
	return slot;
}

/* Remove what a peer's entries have left behind. The sweep's. */
static __always_inline void fragments_sweep(__u32 peer, __u32 tick)
{
	struct peer_fragments *held = peer_fragments_at(peer);
	struct fragmented *entry;
	__u32 place;
	__u64 key;

	if (!held)
		return;
	for (place = 0; place < FRAGMENTS_PER_PEER; place++) {
		key = *(volatile __u64 *)&held->key[place];
		if (!key)
			continue;
		entry = fragment_find(&key);
		if (entry && entry->peer == peer) {
			if (fragment_is_fresh(entry, tick))
				continue;
			fragment_remove(&key);
		}
		__sync_val_compare_and_swap(&held->key[place], key, 0);
	}
}

#endif
