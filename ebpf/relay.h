/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The entry of a multi-hop tunnel: what comes to a relay's port is passed on to its exit node, still encrypted, and
 * what the exit node answers goes back. This node holds no key of that traffic, and the exit node never sees the
 * subscriber's address: it sees this node's, and a port of its own for each session.
 *
 * A session begins with a handshake initiation, within the handshake budgets. When a subscriber's address changes
 * in the middle of a tunnel, its data still names the exit node's index of the tunnel, which that node chose and
 * announced through here; then data may begin a session, too, and the exit node, which alone can tell whether it is
 * authentic, moves over. A full table refuses who is new; only who has been silent for RELAY_IDLE_S gives way.
 *
 * Two nodes may point at each other. What comes to a relay from the very node that it leads to is dropped by name; a
 * longer circle, or one in which a node has several addresses, ends with the hop limit, of which each node takes one.
 *
 * Knows the maps only by the verbs of the program that includes it.
 */
#ifndef JETPLANE_RELAY_H
#define JETPLANE_RELAY_H

#include "binding.h"
#include "checksum.h"
#include "handshakes.h"
#include "hash.h"
#include "pieces.h"
#include "wireguard.h"

#define NO_RELAY         0xffffffffu
#define RELAY_PROBES     8 /* places looked at for a new session: with half of them taken, one in 256 finds none */
#define RELAY_IDLE_TICKS TICKS(RELAY_IDLE_S)

/* A packet's way on: what its headers shall say. */
struct relay_path {
	struct address source;
	struct address destination;
	__be16 source_port;
	__be16 destination_port;
	struct piece piece; /* its length is 0 when the datagram is whole */
	__u16 payload;      /* bytes behind the IP headers */
	__u16 mtu;          /* of the way, when the packet is too big for it */
};

/*
 * A relay is known by the port where this node listens for it: that stays the same in sessions and indices while
 * others come and go by a reload.
 */
static __always_inline __u32 relay_at(__be16 port, __u64 unknown)
{
	switch (port) {
#define X(listen, a, b, c, d, exit_port) \
	case BE16(listen):               \
		return forgotten(listen, unknown);
		RELAYS(X)
#undef X
	}
	return NO_RELAY;
}

/* The other end of a relay: where its exit node listens. False when a reload has taken the relay away. */
static __always_inline bool relay_exit(__u32 relay, __u32 tick, struct address *address, __be16 *port)
{
	__be32 *words = (__be32 *)address;

	words[0] = words[1] = words[2] = words[3] = 0;
	*port = 0;
	switch (relay) {
#define X(listen, a, b, c, d, exit_port) \
	case listen:                     \
		words[0] = (__be32)(a);  \
		words[1] = (__be32)(b);  \
		words[2] = (__be32)(c);  \
		words[3] = (__be32)(d);  \
		*port = BE16(exit_port); \
		break;
		RELAYS(X)
#undef X
	}
	/* However many relays there are, the verifier sees one: a time is a number that comes from outside. */
	words[0] = (__be32)forgotten((__u32)words[0], tick);
	words[1] = (__be32)forgotten((__u32)words[1], tick);
	words[2] = (__be32)forgotten((__u32)words[2], tick);
	words[3] = (__be32)forgotten((__u32)words[3], tick);
	*port = (__be16)forgotten((__u16)*port, tick);
	return *port != 0;
}

static __always_inline bool address_is_v4(const struct address *address)
{
	const __be32 *words = (const __be32 *)address;

	return !(words[0] | words[1]) && words[2] == BE32(0xffff);
}

static __always_inline bool relay_is_live(__u64 life, __u32 tick)
{
	return life_is_taken(life) && (__s32)(tick - life_tick(life)) <= (__s32)RELAY_IDLE_TICKS;
}

/* The exit node's index of a tunnel, as a place in the table and what must stand there. */
static __always_inline __u64 relay_index_hash(const struct secret *secret, __u32 relay, __u32 index)
{
	struct sip sip;

	sip_begin(&sip, secret);
	sip_take(&sip, (__u64)relay << 32 | index);
	return sip_end(&sip);
}

/* One of the 32-bit words after a message's type: 1 is the sender's index, or data's receiver's. */
static __always_inline __u32 relay_message_index(const struct packet *packet, const struct udphdr *udp)
{
	const __u32 *words = (const void *)(udp + 1);

	return (const void *)(words + 2) > packet->end ? 0 : words[1];
}

/* The exit node announces its index in its initiations and responses. */
static __always_inline void relay_note_index(const struct packet *packet, const struct udphdr *udp, __u32 relay,
					     __u32 tick)
{
	__u32 type = wireguard_type(packet, udp);
	struct secret *secret;
	__u64 hash, *noted;

	if (type != WIREGUARD_INITIATION && type != WIREGUARD_RESPONSE)
		return;
	secret = secret_get();
	if (!secret)
		return;
	hash = relay_index_hash(secret, relay, relay_message_index(packet, udp));
	noted = relay_index_at(hash % RELAY_INDICES);
	if (noted)
		*noted = (hash >> 32 << 32) | tick;
}

static __always_inline bool relay_knows_index(const struct packet *packet, const struct udphdr *udp, __u32 relay,
					      __u32 tick)
{
	struct secret *secret = secret_get();
	__u64 hash, *noted;

	if (!secret)
		return false;
	hash = relay_index_hash(secret, relay, relay_message_index(packet, udp));
	noted = relay_index_at(hash % RELAY_INDICES);
	return noted && *noted >> 32 == hash >> 32 && (__s32)(tick - (__u32)*noted) <= (__s32)RELAY_IDLE_TICKS;
}

/* May a message begin a session? COUNT_GUARD_PASSED, or why not. */
static __always_inline enum counter relay_may_begin(const struct packet *packet, const struct udphdr *udp, __u32 relay,
						    __u32 tick)
{
	__u32 type = wireguard_type(packet, udp);

	if (type == WIREGUARD_INITIATION)
		return judge_initiation(packet);
	if (type == WIREGUARD_DATA && relay_knows_index(packet, udp, relay, tick))
		return COUNT_GUARD_PASSED;
	return DROP_RELAY_SESSION;
}

/* Make a session for @client; its place goes to @slot. */
static __always_inline enum counter relay_begin(const struct relay_client *client, const struct address *own,
						__u32 tick, __u32 *slot)
{
	struct relay_session *session;
	struct relay_client former = {};
	__u64 life, busy;
	int probe;

	for (probe = 0; probe < RELAY_PROBES; probe++) {
		*slot = bpf_get_prandom_u32() % RELAY_SESSIONS;
		session = relay_session_at(*slot);
		if (!session)
			return DROP_RELAY_FULL;
		life = *(volatile __u64 *)&session->life;
		if (relay_is_live(life, tick) || life_state(life) == BINDING_DYING)
			continue;
		busy = life_make(life_sequence(life) + 1, BINDING_DYING, tick);
		if (__sync_val_compare_and_swap(&session->life, life, busy) != life)
			continue;
		if (life_is_taken(life)) {
			former.address = session->client;
			former.port = session->client_port;
			former.relay = session->relay;
			relay_client_remove(&former);
		}
		session->client = client->address;
		session->client_port = client->port;
		session->relay = client->relay;
		session->own = *own;
		compiler_barrier();
		if (!relay_client_add(client, *slot)) {
			/* Another CPU has begun the same session a moment ago. */
			session->life = life_make(life_sequence(busy), BINDING_FREE, tick);
			return DROP_BUSY;
		}
		session->life = life_make(life_sequence(busy), BINDING_ACTIVE, tick);
		return COUNT_GUARD_PASSED;
	}
	return DROP_RELAY_FULL;
}

static __always_inline bool relay_is_of(const struct relay_session *session, const struct relay_client *client)
{
	return addresses_equal(&session->client, &client->address) && session->client_port == client->port &&
	       session->relay == client->relay;
}

/* Whose a session's packets are on their way to its exit node, which stands in @path. */
static __always_inline enum counter relay_source(__u32 slot, struct relay_path *path)
{
	struct address *source = relay_address_of(address_is_v4(&path->destination) ? FAMILY_V4 : FAMILY_V6);

	if (!source)
		return DROP_UNROUTABLE;
	path->source = *source;
	path->source_port = to_be16(RELAY_FIRST_PORT + slot);
	return COUNT_GUARD_PASSED;
}

/* The way of a session's packets to its exit node. */
static __always_inline enum counter relay_towards_exit(__u32 relay, __u32 slot, __u32 tick, struct relay_path *path)
{
	if (!relay_exit(relay, tick, &path->destination, &path->destination_port))
		return DROP_RELAY_SESSION;
	return relay_source(slot, path);
}

/* From a subscriber: find or begin its session, whose place goes to @slot, and say where the packet goes. */
static __always_inline enum counter relay_out(const struct packet *packet, const struct udphdr *udp, __u32 relay,
					      __u32 tick, __u32 *slot, struct relay_path *path)
{
	struct relay_client client = { .port = udp->source, .relay = relay };
	struct relay_session *session = NULL;
	enum counter judgement;
	struct address own;
	__u32 *found;
	__u64 life;

	packet_source(packet, &client.address);
	packet_destination(packet, &own);
	if (!relay_exit(relay, tick, &path->destination, &path->destination_port))
		return DROP_RELAY_SESSION;
	if (addresses_equal(&client.address, &path->destination))
		return DROP_RELAY_LOOP;
	found = relay_client_find(&client);
	if (found) {
		*slot = *found;
		session = relay_session_at(*slot);
	}
	life = session ? *(volatile __u64 *)&session->life : 0;
	if (session && relay_is_live(life, tick) && relay_is_of(session, &client)) {
		/* Only the subscriber keeps a session alive: what it does not send, nobody remembers it by. */
		if (life_tick(life) != tick)
			__sync_val_compare_and_swap(&session->life, life,
						    life_make(life_sequence(life), BINDING_ACTIVE, tick));
	} else {
		judgement = relay_may_begin(packet, udp, relay, tick);
		if (judgement != COUNT_GUARD_PASSED)
			return judgement;
		if (found)
			relay_client_remove(&client);
		judgement = relay_begin(&client, &own, tick, slot);
		if (judgement != COUNT_GUARD_PASSED)
			return judgement;
	}
	return relay_source(*slot, path);
}

/* From an exit node, to the port that stands for a session. */
static __always_inline enum counter relay_back(const struct packet *packet, const struct udphdr *udp, __u32 tick,
					       struct relay_path *path)
{
	struct relay_session *session = relay_session_at(from_be16(udp->dest) - RELAY_FIRST_PORT);
	struct address source, exit;
	__be16 exit_port;
	__u64 life;

	if (!session)
		return DROP_RELAY_SESSION;
	life = *(volatile __u64 *)&session->life;
	path->source_port = to_be16(session->relay);
	packet_source(packet, &source);
	if (!relay_exit(session->relay, tick, &exit, &exit_port) || !relay_is_live(life, tick) ||
	    !addresses_equal(&source, &exit) || udp->source != exit_port)
		return DROP_RELAY_SESSION;
	path->source = session->own;
	path->destination = session->client;
	path->destination_port = session->client_port;
	relay_note_index(packet, udp, session->relay, tick);
	compiler_barrier();
	/* If the slot has changed hands meanwhile, what was read is nobody's. */
	return life_sequence(*(volatile __u64 *)&session->life) == life_sequence(life) ? COUNT_GUARD_PASSED :
											 DROP_RELAY_SESSION;
}

/* Forget a session that has been silent for too long: its subscriber's address goes with it. */
static __always_inline void relay_forget(struct relay_session *session, __u32 tick)
{
	struct relay_client client = {};
	__u64 life = *(volatile __u64 *)&session->life, busy;

	if (!life_is_taken(life) || relay_is_live(life, tick))
		return;
	busy = life_make(life_sequence(life) + 1, BINDING_DYING, tick);
	if (__sync_val_compare_and_swap(&session->life, life, busy) != life)
		return;
	client.address = session->client;
	client.port = session->client_port;
	client.relay = session->relay;
	relay_client_remove(&client);
	__builtin_memset(session, 0, offsetof(struct relay_session, life));
	compiler_barrier();
	session->life = life_make(life_sequence(busy), BINDING_FREE, tick);
}

#endif
