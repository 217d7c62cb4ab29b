/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The binding of a packet: found, made if need be, and marked with what the packet has done.
 * Knows the maps only by the verbs of the program that includes it.
 */
#ifndef JETPLANE_HELD_H
#define JETPLANE_HELD_H

#include "allocate.h"
#include "binding.h"
#include "bucket.h"
#include "dissolve.h"
#include "flow.h"
#include "hints.h"
#include "new_flows.h"
#include "remotes.h"
#include "reuse.h"
#include "tcp_state.h"

/* A binding, known to be the one meant when it was looked at. */
struct held {
	struct binding *binding;
	struct peer *peer;
	__u64 life;
	__u64 remote; /* keyed hash of whom a packet from inside is for; */
	__u32 slot;
};

/* The peer has not been removed, nor its addresses changed, since the binding was made. */
static __always_inline bool peer_stands_by(const struct peer *peer, __u32 generation)
{
	return peer && peer->tunnel_ifindex && peer->generation == generation;
}

/* The interface that leads to the peer. */
static __always_inline __u32 peer_interface(const struct peer *peer)
{
	__u32 seen = KEY_ROTATION ? *(const volatile __u32 *)&peer->seen_ifindex : 0;

	return seen ? seen : peer->tunnel_ifindex;
}

/*
 * Is this packet's interface one of the peer's? While the node's key changes it has two, and its newest packet says where
 * it is, as the newest packet's source does in WireGuard: either interface has authenticated it.
 */
static __always_inline bool peer_is_at(struct peer *peer, __u32 ifindex)
{
	if (!KEY_ROTATION)
		return peer->tunnel_ifindex == ifindex;
	if (peer->tunnel_ifindex != ifindex && peer->next_ifindex != ifindex)
		return false;
	if (peer_interface(peer) != ifindex)
		*(volatile __u32 *)&peer->seen_ifindex = ifindex;
	return true;
}

static __always_inline bool is_within_rate(struct bucket *bucket, __u64 rate, __u32 bytes, __u64 now_ns)
{
	__u64 before, after;
	int tries;

	if (!rate)
		return true;
	for (tries = 0; tries < 4; tries++) {
		before = *(volatile __u64 *)&bucket->paid_until_ns;
		after = bucket_spend(before, rate, bytes, now_ns);
		if (!after)
			return false;
		if (__sync_val_compare_and_swap(&bucket->paid_until_ns, before, after) == before)
			return true;
	}
	/* Other CPUs spend it as fast: enter the cost without a look at the rest, so that no packet passes unpaid. */
	__sync_fetch_and_add(&bucket->paid_until_ns, bucket_cost(rate, bytes));
	return true;
}

/*
 * Enter use and state into the binding's life. False when the binding has ended in the meantime: then the packet must
 * not be translated, for the port may be another's by now.
 */
static __always_inline bool life_update(struct held *held, enum binding_state state, __u32 tick)
{
	__u64 next, found;
	int tries;

	for (tries = 0; tries < 2; tries++) {
		next = life_make(life_sequence(held->life), state, tick);
		if (next == held->life)
			return true;
		found = __sync_val_compare_and_swap(&held->binding->life, held->life, next);
		if (found == held->life)
			return true;
		if (!life_is_taken(found) || life_sequence(found) != life_sequence(held->life))
			return false;
		/* Another CPU's packet came first. If it has only told the time, the state is still to be entered. */
		if (life_state(found) != life_state(held->life))
			return true;
		tick = life_tick(found);
		held->life = found;
	}
	return true;
}

/* The external port of a slot of either kind, in host order. */
static __always_inline __u16 held_port(const struct held *held)
{
	return slot_is_reused(held->slot) ? held->binding->reused_port : slot_port(held->slot);
}

static __always_inline __u32 held_exit(__u32 slot)
{
	return slot_is_reused(slot) ? reuse_exit(slot) : slot_exit(slot);
}

static __always_inline __u32 held_protocol(__u32 slot)
{
	return slot_is_reused(slot) ? PROTOCOL_TCP : slot_pool(slot) % PROTOCOLS;
}

static __always_inline bool held_dissolve(struct held *held)
{
	if (slot_is_reused(held->slot))
		return reuse_dissolve(held->slot, held->binding, held->life);
	return binding_dissolve(held->slot, held->binding, held->life);
}

/*
 * Fill the slot, which nobody else has, and make it known. Another CPU may have been faster with the same endpoint.
 * Its life comes last: until then nobody can end it, so no entry of `endpoints` outlives what it names.
 */
static __always_inline enum counter binding_make(struct inner_endpoint *inner, __u32 peer_index, __u32 tick,
						 struct held *held)
{
	struct binding *binding = held->binding;
	enum binding_state state = inner->protocol == PROTOCOL_TCP ? BINDING_OPENING : BINDING_ACTIVE;
	__u64 before = life_read(binding);
	int failed;

	binding->inner = inner->address;
	binding->inner_port = inner->port;
	binding->peer = peer_index;
	binding->generation = held->peer->generation;
	binding->next_remote = 0;
	failed = endpoint_add(inner, held->slot);
	if (failed) {
		binding_clear(binding);
		port_give_back(held->slot, peer_index);
		return failed == -17 /* EEXIST */ ? DROP_BUSY : DROP_TABLE_FULL;
	}
	held->life = life_make(life_sequence(before) + 1, state, tick);
	/* A full barrier: who sees the slot taken sees what is in it. */
	__sync_val_compare_and_swap(&binding->life, before, held->life);
	count(COUNT_BINDINGS_CREATED, 1);
	return NO_REASON;
}

/*
 * Is what stands in the slot the endpoint's, and does it live? A binding that does not is ended here; a connection at a
 * reused port goes on until it is swept. What is another's is left alone: the entry that led here may have become
 * another's while it was read.
 */
static __always_inline bool held_check(struct inner_endpoint *inner, __u32 ifindex, __u32 tick, struct held *held)
{
	held->binding = binding_at(held->slot);
	if (!held->binding)
		return false;
	held->life = life_read(held->binding);
	held->peer = peer_at(held->binding->peer);
	if (!held->peer)
		return false;
	if (held->binding->inner_port != inner->port || !addresses_equal(&held->binding->inner, &inner->address))
		return false;
	if (slot_is_reused(held->slot))
		return life_is_taken(held->life) && held->peer->generation == held->binding->generation &&
		       peer_is_at(held->peer, ifindex);
	/* What comes by another tunnel than the peer's is nobody's, and ends nothing. */
	if (life_is_live(held->life, inner->protocol, tick) && peer_stands_by(held->peer, held->binding->generation) &&
	    !slot_is_void(held->slot))
		return peer_is_at(held->peer, ifindex);
	if (life_is_taken(held->life) && binding_dissolve(held->slot, held->binding, held->life))
		count(COUNT_BINDINGS_EXPIRED, 1);
	return false;
}

/* The binding of the endpoint, if it has one that lives. */
static __always_inline bool binding_find(struct inner_endpoint *inner, __u32 ifindex, __u32 tick, struct held *held)
{
	held->slot = endpoint_slot(inner);
	return held->slot != NO_SLOT && held_check(inner, ifindex, tick, held);
}

/*
 * The slot of a TCP connection at a reused port, or NO_SLOT. It comes before the endpoint's binding at @bound, which is
 * younger then; so who has a binding is asked first whether there are such connections of its at all.
 */
static __always_inline __u32 reuse_find(struct inner_endpoint *inner, __u32 bound, const struct address *remote,
					__be16 remote_port, __u8 family)
{
	struct binding *binding = binding_at(bound);
	struct secret *secret = secret_get();
	struct peer_blocks *blocks;
	struct reuse_inner key = {
		.address = inner->address,
		.port = inner->port,
	};
	__u32 *slot;

	if (!secret)
		return NO_SLOT;
	if (binding) {
		blocks = peer_blocks_at(peer_blocks_index(binding->peer, family, PROTOCOL_TCP));
		if (!blocks || !blocks->reuses)
			return NO_SLOT;
	}
	key.remote = reuse_remote(secret, remote, remote_port);
	slot = reuse_inner_find(&key);
	return slot ? *slot : NO_SLOT;
}

/* The slot of what a packet between the endpoint and the remote belongs to, as far as the tables say, or NO_SLOT. */
static __always_inline __u32 slot_find(struct inner_endpoint *inner, bool tcp, const struct address *remote,
				       __be16 remote_port, __u8 family)
{
	__u32 slot = endpoint_slot(inner), reused;

	if (!TCP_REUSE || !tcp)
		return slot;
	reused = reuse_find(inner, slot, remote, remote_port, family);
	return reused == NO_SLOT ? slot : reused;
}

/* What a packet between the endpoint and the remote belongs to, by a look alone: nothing is ended. */
static __always_inline bool held_look(struct inner_endpoint *inner, const struct address *remote, __be16 remote_port,
				      __u8 family, __u32 tick, struct held *held)
{
	held->slot = slot_find(inner, inner->protocol == PROTOCOL_TCP, remote, remote_port, family);
	held->binding = binding_at(held->slot);
	if (!held->binding)
		return false;
	held->life = life_read(held->binding);
	held->peer = peer_at(held->binding->peer);
	return life_is_live(held->life, inner->protocol, tick) && held->binding->inner_port == inner->port &&
	       addresses_equal(&held->binding->inner, &inner->address) &&
	       peer_stands_by(held->peer, held->binding->generation);
}

static __always_inline enum counter binding_create(struct inner_endpoint *inner, __u8 family, __u32 ifindex, __u32 tick,
						   struct held *held)
{
	__u32 *peer_index = address_find(&inner->address), exit, pool;
	struct peer_blocks *blocks;

	if (!peer_index)
		return DROP_UNKNOWN_SOURCE;
	held->peer = peer_at(*peer_index);
	if (!held->peer || !peer_is_at(held->peer, ifindex))
		return DROP_UNKNOWN_SOURCE;
	exit = family == FAMILY_V4 ? held->peer->exit_index[FAMILY_V4] : held->peer->exit_index[FAMILY_V6];
	if (exit >= EXITS)
		return DROP_NO_EXIT;
	pool = pool_index(exit, inner->protocol);
	blocks = peer_blocks_at(peer_blocks_index(*peer_index, family, inner->protocol));
	if (!blocks)
		return DROP_UNKNOWN_SOURCE;
	if (!flow_may_begin(*peer_index))
		return DROP_NEW_FLOWS;
	held->slot = port_allocate(pool, blocks, *peer_index, inner->port);
	if (held->slot == NO_SLOT)
		return DROP_PORTS_EXHAUSTED;
	held->binding = binding_at(held->slot);
	if (!held->binding)
		return DROP_PORTS_EXHAUSTED;
	return binding_make(inner, *peer_index, tick, held);
}

/* A connection at a reused port, for a peer that has none of its own left; binding_create has found the peer. */
static __always_inline enum counter reuse_create(struct inner_endpoint *inner, struct flow *flow, __u8 family,
						 __u32 tick, struct held *held)
{
	__u32 *peer_index = address_find(&inner->address), exit;
	struct secret *secret = secret_get();
	struct reuse_inner key = {
		.address = inner->address,
		.port = inner->port,
	};
	struct peer_blocks *blocks;
	enum counter reason;

	if (!peer_index || !secret || !held->peer)
		return DROP_PORTS_EXHAUSTED;
	exit = family == FAMILY_V4 ? held->peer->exit_index[FAMILY_V4] : held->peer->exit_index[FAMILY_V6];
	blocks = peer_blocks_at(peer_blocks_index(*peer_index, family, PROTOCOL_TCP));
	if (!blocks || exit >= EXITS)
		return DROP_PORTS_EXHAUSTED;
	key.remote = reuse_remote(secret, &flow->destination, flow->destination_port);
	reason = reuse_make(&key, exit, blocks, *peer_index, held->peer->generation, tick, &held->slot, &held->life);
	if (reason != NO_REASON)
		return reason;
	held->binding = binding_at(held->slot);
	if (!held->binding)
		return DROP_PORTS_EXHAUSTED;
	count(COUNT_BINDINGS_CREATED, 1);
	count(COUNT_PORTS_REUSED, 1);
	return NO_REASON;
}

/* The binding of a packet that leaves, made if need be. */
static __always_inline enum counter binding_hold(struct __sk_buff *skb, struct inner_endpoint *inner, struct flow *flow,
						 __u8 family, __u32 tick, struct held *held)
{
	__u32 ifindex = skb->ifindex;
	enum counter reason;

	if (TCP_REUSE)
		keep(skb, inner->protocol == PROTOCOL_TCP);
	held->slot = slot_find(inner, TCP_REUSE && kept(skb), &flow->destination, flow->destination_port, family);
	if (held->slot != NO_SLOT && held_check(inner, ifindex, tick, held))
		return NO_REASON;
	if (address_is_own(&flow->destination))
		return DROP_TUNNEL_DESTINATION;
	reason = binding_create(inner, family, ifindex, tick, held);
	/* Another CPU was faster with the same endpoint: its binding is as good. Or it is ending it. */
	if (reason == DROP_BUSY && binding_find(inner, ifindex, tick, held))
		return NO_REASON;
	if (TCP_REUSE && reason == DROP_PORTS_EXHAUSTED && kept(skb))
		reason = reuse_create(inner, flow, family, tick, held);
	return reason;
}

/* Does the packet begin a flow that its binding was not made for? @new_remote: the binding does not know whom it is for. */
static __always_inline bool is_new_flow(const struct binding *binding, bool new_remote, const struct flow *flow)
{
	if (new_remote)
		return binding->remotes[0] != 0;
	return (flow->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/*
 * What a packet from inside leaves in its binding: a new remote, the state of its connection, the time. The
 * node's own addresses are judged here, once per remote, to spare every packet a look-up.
 */
static __always_inline enum counter binding_use_out(struct held *held, struct flow *flow, __u32 tick)
{
	enum binding_state state = life_state(held->life);
	struct secret *secret = secret_get();
	bool new_remote = true;
	__u64 remote = 0;

	if (!secret)
		return DROP_HELPER;
	held->remote = remote_of(secret, &flow->destination, flow->destination_port, flow->protocol);
	/*
	 * TCP's are remembered under every filter, for the end of a connection is that of its binding only while
	 * there is no other. A connection at a reused port knows its remote already, and no other.
	 */
	if ((NAT_FILTERING != FILTER_ENDPOINT_INDEPENDENT || flow->protocol == PROTOCOL_TCP) &&
	    !slot_is_reused(held->slot)) {
		remote = held->remote;
		new_remote = !remote_is_known(held->binding, held->slot, held->life, remote);
	}
	if (new_remote && address_is_own(&flow->destination))
		return DROP_TUNNEL_DESTINATION;
	if (remote && is_new_flow(held->binding, new_remote, flow) && !flow_may_begin(held->binding->peer))
		return DROP_NEW_FLOWS;
	if (new_remote && remote)
		remote_remember(held->binding, held->slot, held->life, remote);
	if (flow->protocol == PROTOCOL_TCP) {
		state = tcp_after_out(state, flow->tcp_flags, binding_is_shared(held->binding));
		if (state == BINDING_OPENING && life_state(held->life) != BINDING_OPENING &&
		    !slot_is_reused(held->slot))
			remotes_restart(held->binding, remote);
	}
	return life_update(held, state, tick) ? NO_REASON : DROP_BUSY;
}

#endif
