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
 * Knows the maps only by the verbs of the program that includes it.
 */
#ifndef JETPLANE_RELAY_H
#define JETPLANE_RELAY_H

#include "binding.h"
#include "checksum.h"
#include "handshakes.h"
#include "hash.h"
#include "packet.h"
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
};

/* Index of the relay at one of this node's ports. */
static __always_inline __u32 relay_at(__be16 port)
{
	switch (port) {
#define X(index, listen, a, b, c, d, exit_port) \
	case BE16(listen):                      \
		return index;
		RELAYS(X)
#undef X
	}
	return NO_RELAY;
}

/* The other end of a relay: where its exit node listens, and the port here that stands for it. */
static __always_inline void relay_exit(__u32 relay, struct address *address, __be16 *port, __be16 *listens_here)
{
	__be32 *words = (__be32 *)address;

	words[0] = words[1] = words[2] = words[3] = 0;
	*port = *listens_here = 0;
	switch (relay) {
#define X(index, listen, a, b, c, d, exit_port) \
	case index:                             \
		words[0] = (__be32)(a);         \
		words[1] = (__be32)(b);         \
		words[2] = (__be32)(c);         \
		words[3] = (__be32)(d);         \
		*port = BE16(exit_port);        \
		*listens_here = BE16(listen);   \
		break;
		RELAYS(X)
#undef X
	}
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
	struct secret *secret = secret_get();
	__u64 hash, *noted;

	if (!secret || (type != WIREGUARD_INITIATION && type != WIREGUARD_RESPONSE))
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

/* From a subscriber: find or begin its session, and say where the packet goes. */
static __always_inline enum counter relay_out(const struct packet *packet, const struct udphdr *udp, __u32 relay,
					      __u32 tick, struct relay_path *path)
{
	struct relay_client client = { .port = udp->source, .relay = relay };
	struct relay_session *session = NULL;
	struct address own, *source;
	enum counter judgement;
	__u32 *found, slot = 0;
	__be16 listens_here;
	__u64 life;

	packet_source(packet, &client.address);
	packet_destination(packet, &own);
	found = relay_client_find(&client);
	if (found) {
		slot = *found;
		session = relay_session_at(slot);
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
		judgement = relay_begin(&client, &own, tick, &slot);
		if (judgement != COUNT_GUARD_PASSED)
			return judgement;
	}
	relay_exit(relay, &path->destination, &path->destination_port, &listens_here);
	source = relay_address_of(address_is_v4(&path->destination) ? FAMILY_V4 : FAMILY_V6);
	if (!source)
		return DROP_UNROUTABLE;
	path->source = *source;
	path->source_port = to_be16(RELAY_FIRST_PORT + slot);
	return COUNT_GUARD_PASSED;
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
	relay_exit(session->relay, &exit, &exit_port, &path->source_port);
	packet_source(packet, &source);
	if (!relay_is_live(life, tick) || !addresses_equal(&source, &exit) || udp->source != exit_port)
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

/* Ask the kernel's routing table for the next hop; the rules that discard what would be forwarded are not asked. */
static __always_inline enum counter relay_next_hop(struct xdp_md *ctx, const struct relay_path *path, __u32 length,
						   __u8 class, struct bpf_fib_lookup *fib)
{
	const __be32 *source = (const __be32 *)&path->source, *destination = (const __be32 *)&path->destination;

	fib->ifindex = ctx->ingress_ifindex;
	fib->l4_protocol = IPPROTO_UDP;
	fib->sport = path->source_port;
	fib->dport = path->destination_port;
	fib->tot_len = length;
	if (address_is_v4(&path->destination)) {
		fib->family = INTERNET_V4;
		fib->tos = class;
		fib->ipv4_src = source[3];
		fib->ipv4_dst = destination[3];
	} else {
		fib->family = INTERNET_V6;
		__builtin_memcpy(fib->ipv6_src, source, sizeof(fib->ipv6_src));
		__builtin_memcpy(fib->ipv6_dst, destination, sizeof(fib->ipv6_dst));
	}
	switch (bpf_fib_lookup(ctx, fib, sizeof(*fib), BPF_FIB_LOOKUP_DIRECT)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		return COUNT_GUARD_PASSED;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return DROP_RELAY_SIZE;
	}
	return DROP_UNROUTABLE;
}

/* The UDP checksum for other addresses and ports: lengths and protocol weigh the same in both families. */
static __always_inline __sum16 relay_checksum(const struct packet *packet, const struct udphdr *udp,
					      const struct relay_path *path)
{
	struct address old;
	__sum16 changed;
	__u64 sum;

	packet_source(packet, &old);
	sum = sum_change_address(0, &old, &path->source);
	packet_destination(packet, &old);
	sum = sum_change_address(sum, &old, &path->destination);
	sum = sum_change16(sum, udp->source, path->source_port);
	sum = sum_change16(sum, udp->dest, path->destination_port);
	changed = checksum_apply(udp->check, sum);
	return changed ? changed : (__sum16)0xffff;
}

static __always_inline void relay_write_v4(struct iphdr *ip, const struct relay_path *path, __u32 length, __u8 class,
					   __u8 hop_limit)
{
	__u32 sum;

	ip->version = 4;
	ip->ihl = sizeof(*ip) / 4;
	ip->tos = class;
	ip->tot_len = to_be16(length);
	/* May be cut up on its way, as WireGuard's own packets may: the id tells its pieces apart. */
	ip->id = (__be16)bpf_get_prandom_u32();
	ip->frag_off = 0;
	ip->ttl = hop_limit;
	ip->protocol = IPPROTO_UDP;
	ip->saddr = ((const __be32 *)&path->source)[3];
	ip->daddr = ((const __be32 *)&path->destination)[3];
	ip->check = 0;
	sum = bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0);
	ip->check = (__sum16)~sum_fold16(sum);
}

static __always_inline void relay_write_v6(struct ipv6hdr *ip, const struct relay_path *path, __u32 length, __u8 class,
					   __u8 hop_limit)
{
	__be32 *first = (__be32 *)ip;

	*first = (__be32)__builtin_bswap32(6u << 28 | (__u32) class << 20); /* no flow label */
	ip->payload_len = to_be16(length - sizeof(*ip));
	ip->nexthdr = IPPROTO_UDP;
	ip->hop_limit = hop_limit;
	__builtin_memcpy(&ip->saddr, &path->source, sizeof(ip->saddr));
	__builtin_memcpy(&ip->daddr, &path->destination, sizeof(ip->daddr));
}

/* Give the packet new headers and a next hop. XDP_TX or XDP_REDIRECT goes to @verdict. */
static __always_inline enum counter relay_send(struct xdp_md *ctx, const struct packet *packet,
					       const struct udphdr *udp, const struct relay_path *path, int *verdict)
{
	bool to_v4 = address_is_v4(&path->destination), from_v4 = packet->family == FAMILY_V4;
	__u32 header = to_v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);
	__u32 length = header + from_be16(udp->len);
	__u8 class = packet_class(packet), hop_limit = packet->hop_limit;
	struct bpf_fib_lookup fib = {};
	struct ethhdr *ethernet;
	struct udphdr *written;
	enum counter judgement;
	__sum16 checksum = 0;
	void *data, *end;

	if (hop_limit <= 1)
		return DROP_RELAY_HOPS;
	if (udp->check)
		checksum = relay_checksum(packet, udp, path);
	else if (!from_v4 || !to_v4)
		return DROP_MALFORMED; /* IPv6 has no datagrams without a checksum (RFC 8200, section 8.1) */
	judgement = relay_next_hop(ctx, path, length, class, &fib);
	if (judgement != COUNT_GUARD_PASSED)
		return judgement;
	if (from_v4 != to_v4 &&
	    bpf_xdp_adjust_head(ctx, (int)(from_v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) - (int)header))
		return DROP_HELPER;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	ethernet = data;
	if (to_v4)
		written = data + sizeof(*ethernet) + sizeof(struct iphdr);
	else
		written = data + sizeof(*ethernet) + sizeof(struct ipv6hdr);
	if ((void *)(written + 1) > end)
		return DROP_HELPER;
	__builtin_memcpy(ethernet->h_dest, fib.dmac, ETH_ALEN);
	__builtin_memcpy(ethernet->h_source, fib.smac, ETH_ALEN);
	ethernet->h_proto = to_v4 ? BE16(ETH_P_IP) : BE16(ETH_P_IPV6);
	if (to_v4)
		relay_write_v4(data + sizeof(*ethernet), path, length, class, hop_limit - 1);
	else
		relay_write_v6(data + sizeof(*ethernet), path, length, class, hop_limit - 1);
	written->source = path->source_port;
	written->dest = path->destination_port;
	written->check = checksum;
	*verdict = fib.ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(fib.ifindex, 0);
	return COUNT_GUARD_PASSED;
}

/* Is this between a subscriber and another exit node? The verdict goes to @verdict. */
static __always_inline bool judge_relayed(struct xdp_md *ctx, const struct packet *packet, const struct udphdr *udp,
					  __u32 listed, int *verdict)
{
	__u32 relay = relay_at(udp->dest), slot = from_be16(udp->dest) - RELAY_FIRST_PORT;
	__u32 tick = tick_of(bpf_ktime_get_coarse_ns());
	struct relay_path path = {};
	enum counter judgement;

	if (relay == NO_RELAY && slot >= RELAY_SESSIONS)
		return false;
	if (packet->fragment)
		judgement = DROP_FRAGMENT;
	else if (!is_wireguard_message(packet, udp))
		judgement = DROP_WIREGUARD_SHAPE;
	else if (packet->network - (void *)(long)ctx->data != ETH_HLEN ||
		 packet->header_length != (packet->family == FAMILY_V4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)))
		judgement = DROP_OPTIONS; /* neither tags nor options are carried over */
	else if (relay == NO_RELAY)
		judgement = relay_back(packet, udp, tick, &path);
	else if (listed == SOURCE_BOGON)
		judgement = DROP_BOGON;
	else
		judgement = relay_out(packet, udp, relay, tick, &path);
	if (judgement == COUNT_GUARD_PASSED)
		judgement = relay_send(ctx, packet, udp, &path, verdict);
	if (judgement == COUNT_GUARD_PASSED)
		count(COUNT_RELAYED);
	else
		*verdict = drop(judgement);
	return true;
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
