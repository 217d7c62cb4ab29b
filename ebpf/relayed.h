/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is between a subscriber and another exit node: whole datagrams, and fragments, whose first one finds the session
 * and leaves word for the later ones. Whoever sends what is too big is told (relay_errors.h).
 *
 * Knows the maps only by the verbs of the program that includes it.
 */
#ifndef JETPLANE_RELAYED_H
#define JETPLANE_RELAYED_H

#include "relay_errors.h"

/* What an entry of relay_pieces says: a tag in its upper half, the tick, and the session with the way it goes. */
#define RELAY_PIECE_BACK  0x8000u
#define RELAY_PIECE_SLOT  0x7fffu
#define RELAY_PIECE_TICKS 4 /* 3.2 to 4.3 s from the first fragment of a datagram to its last */

/* Are the headers such that others can take their place? Neither tags nor options are carried over. */
static __always_inline bool relay_fits(struct xdp_md *ctx, const struct packet *packet)
{
	__u32 expected = sizeof(struct iphdr);

	if (packet->family == FAMILY_V6)
		expected = sizeof(struct ipv6hdr) + (packet->fragment ? sizeof(struct ipv6_fragment) : 0);
	return packet->network - (void *)(long)ctx->data == ETH_HLEN && packet->header_length == expected;
}

/*
 * What tells the fragments of one datagram: who sent it to which address, as a tag and a place in the table. Its
 * identification is moved by what only this node knows, so that subscribers count apart (fragments.h); never back.
 */
static __always_inline __u64 *relay_piece(const struct packet *packet, struct piece *piece, __u32 *tag)
{
	struct secret *secret = secret_get();
	struct address address;
	struct sip sip;
	__u64 hash;

	if (!secret)
		return NULL;
	sip_begin(&sip, secret);
	packet_source(packet, &address);
	sip_take_address(&sip, &address);
	packet_destination(packet, &address);
	sip_take_address(&sip, &address);
	hash = sip_end(&sip);
	if (packet->family == FAMILY_V4)
		piece->identification = from_be16((__be16)piece->identification);
	else
		piece->identification = from_be32((__be32)piece->identification);
	*tag = (__u32)(hash >> 32) ^ piece->identification * 2654435761u;
	piece->identification += (__u32)hash;
	return relay_piece_at(piece->identification % RELAY_PIECES);
}

/* A first fragment has found its session, at @slot: let the later ones find it. */
static __always_inline enum counter relay_begin_pieces(const struct packet *packet, __u32 slot, bool back, __u32 tick,
						       struct relay_path *path)
{
	enum counter reason = fragment_read(packet, &path->piece);
	__u64 *entry;
	__u32 tag;

	if (reason != NO_REASON)
		return reason;
	entry = relay_piece(packet, &path->piece, &tag);
	if (!entry)
		return DROP_HELPER;
	path->payload = path->piece.length;
	*entry = (__u64)tag << 32 | (tick & 0xffff) << 16 | (back ? RELAY_PIECE_BACK : 0) | (slot & RELAY_PIECE_SLOT);
	return COUNT_GUARD_PASSED;
}

/* Is this between a subscriber and another exit node? The verdict goes to @verdict. */
static __always_inline bool judge_relayed(struct xdp_md *ctx, const struct packet *packet, const struct udphdr *udp,
					  __u32 listed, int *verdict)
{
	/* Not the tick for a number that is unknown: with it the verifier follows more ways than it may. */
	__u64 now_ns = clock_ns();
	__u32 relay = relay_at(udp->dest, now_ns), slot = from_be16(udp->dest) - RELAY_FIRST_PORT;
	bool back = relay == NO_RELAY;
	__u32 tick = tick_of(now_ns);
	struct relay_path path = { .payload = from_be16(udp->len) };
	enum counter judgement;

	if (back && slot >= RELAY_SESSIONS)
		return false;
	if (!is_wireguard_message(packet, udp))
		judgement = DROP_WIREGUARD_SHAPE;
	else if (!relay_fits(ctx, packet))
		judgement = DROP_OPTIONS;
	else if (back)
		judgement = relay_back(packet, udp, tick, &path);
	else if (listed == SOURCE_BOGON)
		judgement = DROP_BOGON;
	else
		judgement = relay_out(packet, udp, relay, tick, &slot, &path);
	if (judgement == COUNT_GUARD_PASSED && packet->fragment)
		judgement = relay_begin_pieces(packet, slot, back, tick, &path);
	if (judgement == COUNT_GUARD_PASSED)
		judgement = relay_send(ctx, packet, udp, &path, verdict);
	if (judgement == COUNT_GUARD_PASSED)
		count(COUNT_RELAYED);
	else
		*verdict = drop(judgement);
	if (judgement == DROP_RELAY_SIZE && *verdict == XDP_DROP)
		relay_tell_too_big(ctx, packet, udp, &path, verdict);
	return true;
}

/*
 * Is this a later fragment of a datagram whose first one has been relayed? They come in order, as a rule; others
 * never leave the kernel's reassembly. The verdict goes to @verdict.
 */
static __always_inline bool judge_relayed_piece(struct xdp_md *ctx, const struct packet *packet, int *verdict)
{
	__u32 tick = tick_of(clock_ns()), tag;
	struct relay_session *session;
	struct relay_path path = {};
	enum counter judgement;
	__u64 *entry, said;

	if (packet->protocol != IPPROTO_UDP || !relay_fits(ctx, packet) ||
	    fragment_read(packet, &path.piece) != NO_REASON)
		return false;
	entry = relay_piece(packet, &path.piece, &tag);
	if (!entry)
		return false;
	said = *(volatile __u64 *)entry;
	/* Another CPU's clock may be a tick ahead. */
	if (said >> 32 != tag || ((tick + 1 - (__u32)(said >> 16)) & 0xffff) > RELAY_PIECE_TICKS + 1)
		return false;
	session = relay_session_at(said & RELAY_PIECE_SLOT);
	if (!session || !relay_is_live(*(volatile __u64 *)&session->life, tick))
		return false;
	if (path.piece.last)
		*entry = 0;
	path.payload = path.piece.length;
	if (said & RELAY_PIECE_BACK) {
		path.source = session->own;
		path.destination = session->client;
		judgement = COUNT_GUARD_PASSED;
	} else {
		judgement = relay_towards_exit(session->relay, said & RELAY_PIECE_SLOT, tick, &path);
	}
	if (judgement == COUNT_GUARD_PASSED)
		judgement = relay_send(ctx, packet, NULL, &path, verdict);
	if (judgement == COUNT_GUARD_PASSED)
		count(COUNT_RELAYED);
	else
		*verdict = drop(judgement);
	return true;
}

#endif
