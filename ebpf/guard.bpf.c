/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * XDP on the uplink: lets in WireGuard messages, answers to subscribers, and what the node itself asked for or
 * admits. Everything else ends here, counted by name, before the stack has spent anything on it. The cheap
 * questions come first. No packet is changed. When it only observes, it counts the same and drops nothing.
 */
#include "maps.h"
#include "bucket.h"
#include "exits.h"
#include "icmp.h"
#include "own.h"
#include "packet.h"
#include "sockets.h"
#include "wireguard.h"

/*
 * The verbs by which everything below knows the maps. bcc understands map methods in this file only, so the headers
 * that use the verbs come after them.
 */

static __always_inline void count(enum counter what)
{
	__u32 key = what;
	__u64 *total = counters.lookup(&key);

	if (total)
		*total += 1;
}

static __always_inline int drop(enum counter reason)
{
	count(reason);
	return GUARD_OBSERVES ? XDP_PASS : XDP_DROP;
}

static __always_inline int pass(void)
{
	count(COUNT_GUARD_PASSED);
	return XDP_PASS;
}

static __always_inline struct clock *clock_get(void)
{
	__u32 zero = 0;

	return clock.lookup(&zero);
}

static __always_inline struct secret *secret_get(void)
{
	__u32 zero = 0;

	return secrets.lookup(&zero);
}

static __always_inline __u32 half_of(__u32 what)
{
	__u32 *half = halves.lookup(&what);

	return half ? *half : 0;
}

static __always_inline struct binding *binding_at(__u32 slot)
{
	return bindings.lookup(&slot);
}

static __always_inline __u32 *reuse_outer_find(struct reuse_outer *outer)
{
	return reuse_outer.lookup(outer);
}

static __always_inline __u64 *source_word_at(__u32 index)
{
	return source_words.lookup(&index);
}

static __always_inline struct source_leaf *source_leaf_at(__u64 key)
{
	return source_leaves.lookup(&key);
}

static __always_inline __u64 *source_filter_at(__u32 index)
{
	return source_filter.lookup(&index);
}

static __always_inline struct source_line *source_line_at(__u32 index)
{
	return source_lines.lookup(&index);
}

static __always_inline __u32 *source_prefix_find(struct source_prefix *prefix)
{
	return source_prefixes.lookup(prefix);
}

static __always_inline struct budget_line *budget_line_at(__u32 index)
{
	return handshake_budgets.lookup(&index);
}

static __always_inline struct bucket *strangers_bucket(void)
{
	__u32 zero = 0;

	return handshake_bucket.lookup(&zero);
}

static __always_inline __u64 *known_word_at(__u32 index)
{
	return known_sources.lookup(&index);
}

static __always_inline struct relay_session *relay_session_at(__u32 slot)
{
	return relay_sessions.lookup(&slot);
}

static __always_inline __u32 *relay_client_find(struct relay_client *client)
{
	return relay_clients.lookup(client);
}

static __always_inline bool relay_client_add(const struct relay_client *client, __u32 slot)
{
	return !relay_clients.insert((struct relay_client *)client, &slot);
}

static __always_inline void relay_client_remove(struct relay_client *client)
{
	relay_clients.delete(client);
}

static __always_inline __u64 *relay_index_at(__u32 place)
{
	return relay_indices.lookup(&place);
}

static __always_inline __u64 *relay_piece_at(__u32 place)
{
	return relay_pieces.lookup(&place);
}

static __always_inline struct address *relay_address_of(__u32 family)
{
	return relay_addresses.lookup(&family);
}

static __always_inline struct local_ports *local_ports_at(__u32 place)
{
	__u32 index = place / PORTS_PER_WORD;

	return local_ports.lookup(&index);
}

#include "answers.h"
#include "clock.h"
#include "handshakes.h"
#include "listed.h"
#include "local_ports.h"
#if RELAYS_COUNT
#include "relayed.h"
#endif

/* What a host on a link needs besides IP: neighbours, cabling, link aggregation (LACP), 802.1X. */
static __always_inline int judge_link(__be16 type)
{
	switch (type) {
	case BE16(ETH_P_ARP):
	case BE16(ETH_P_LLDP):
	case BE16(ETH_P_SLOW):
	case BE16(ETH_P_PAE):
		return pass();
	}
	return drop(DROP_NOT_ALLOWED);
}

static __always_inline __u32 exit_index(const struct packet *packet)
{
	if (packet->family == FAMILY_V4)
		return exit_index_v4(((const struct iphdr *)packet->network)->daddr);
	return exit_index_v6((const __be32 *)&((const struct ipv6hdr *)packet->network)->daddr);
}

static __always_inline bool is_own(const struct packet *packet)
{
	struct address destination;
	struct own_slot *slot;
	__u32 index;

	packet_destination(packet, &destination);
	index = own_slot_of(&destination);
	slot = own_slots.lookup(&index);
	if (slot && slot->state == OWN_ONE)
		return addresses_equal(&slot->address, &destination);
	if (slot && slot->state == OWN_NONE)
		return false;
	return own_addresses.lookup(&destination);
}

/* Is a service of the node's at this port open to this source? */
static __always_inline bool is_admitted(const struct packet *packet, __be16 port, const struct local_ports *ports)
{
	struct service_key key = {
		.prefix_bits = SERVICE_FIXED_BITS + 8 * sizeof(key.source),
		.protocol = packet->protocol,
		.port = port,
	};
	__u32 *admits;

	/* Hardly any port has a service, and a look into the trie is not to be had for nothing. */
	if (!(ports->served & port_bit(port_place(packet->protocol, port))))
		return false;
	packet_source(packet, &key.source);
	admits = services.lookup(&key);
	/* 0: a longer prefix takes part of a shorter one away. */
	return admits && *admits;
}

/*
 * While a port drains, sessions that are there go on and none begins: neither a subscriber's nor, by way of the answer,
 * one that the node's own WireGuard asks for. Data is looked at no further.
 */
static __always_inline bool is_draining(const struct udphdr *udp)
{
	__u32 port = from_be16(udp->dest);

	return draining.lookup(&port);
}

static __always_inline int judge_wireguard(const struct packet *packet, const struct udphdr *udp, __u32 listed)
{
	enum counter judgement;

	if (listed == SOURCE_BOGON)
		return drop(DROP_BOGON);
	if (!is_wireguard_message(packet, udp))
		return drop(DROP_WIREGUARD_SHAPE);
	if (wireguard_type(packet, udp) == WIREGUARD_DATA)
		return pass();
	/* Budgets come before a look into a map: a flood is to cost little. */
	if (wireguard_type(packet, udp) == WIREGUARD_INITIATION) {
		judgement = judge_initiation(packet);
		if (judgement != COUNT_GUARD_PASSED)
			return drop(judgement);
	}
	return is_draining(udp) ? drop(DROP_DRAINING) : pass();
}

/* From a server to the node's own DHCP client (RFC 2131, section 4.1; RFC 8415, section 7.2). */
static __always_inline bool is_dhcp_answer(const struct packet *packet, const struct udphdr *udp)
{
	if (packet->family == FAMILY_V4)
		return udp->source == BE16(67) && udp->dest == BE16(68);
	return udp->source == BE16(547) && udp->dest == BE16(546);
}

/*
 * May a socket be looked for? At a port that is known to be used always; at others a few times, so that a connection that
 * has long been idle goes on, and a flood pays for no more.
 */
static __always_inline bool may_look(struct local_ports *ports, __u32 place)
{
	return port_is_used(ports, place) || look_take(ports, bpf_jiffies64());
}

/* Is this part of a connection of the node's own? A first SYN asks for a new one. */
static __always_inline bool is_of_own_tcp(struct xdp_md *ctx, const struct packet *packet, const struct tcphdr *tcp,
					  struct local_ports *ports)
{
	__u32 place = port_place(IPPROTO_TCP, tcp->dest);

	if ((tcp->syn && !tcp->ack) || !may_look(ports, place) || !has_connection(ctx, packet, tcp))
		return false;
	port_remember(ports, half_of(HALF_PORTS), place);
	return true;
}

static __always_inline bool is_of_own_udp(struct xdp_md *ctx, const struct packet *packet, const struct udphdr *udp,
					  struct local_ports *ports)
{
	__u32 place = port_place(IPPROTO_UDP, udp->dest);

	if (!may_look(ports, place) || !has_conversation(ctx, packet, udp))
		return false;
	port_remember(ports, half_of(HALF_PORTS), place);
	return true;
}

static __always_inline int judge_own_tcp(struct xdp_md *ctx, const struct packet *packet)
{
	struct local_ports *ports;
	const struct tcphdr *tcp;

	if (packet->fragment)
		return drop(DROP_FRAGMENT);
	tcp = packet_tcp(packet);
	if (!tcp)
		return drop(DROP_MALFORMED);
	ports = local_ports_at(port_place(IPPROTO_TCP, tcp->dest));
	if (ports && (is_admitted(packet, tcp->dest, ports) || is_of_own_tcp(ctx, packet, tcp, ports)))
		return pass();
	return drop(DROP_NOT_ALLOWED);
}

/*
 * Outer WireGuard packets and large DNS answers do come in fragments. The first one has the ports and is judged by
 * them; the later ones are let through, because without the first they never leave the kernel's reassembly, which
 * bounds its memory.
 */
static __always_inline int judge_own_udp(struct xdp_md *ctx, const struct packet *packet, __u32 listed)
{
	struct local_ports *ports;
	const struct udphdr *udp;
#if RELAYS_COUNT
	int verdict;
#endif

	if (packet->fragment == FRAGMENT_LATER) {
#if RELAYS_COUNT
		if (judge_relayed_piece(ctx, packet, &verdict))
			return verdict;
#endif
		return pass();
	}
	udp = sound_udp(packet);
	if (!udp)
		return drop(DROP_MALFORMED);
#if RELAYS_COUNT
	if (judge_relayed(ctx, packet, udp, listed, &verdict))
		return verdict;
#endif
	if (is_wireguard_port(udp->dest))
		return judge_wireguard(packet, udp, listed);
	ports = local_ports_at(port_place(IPPROTO_UDP, udp->dest));
	if (ports && (is_admitted(packet, udp->dest, ports) || is_dhcp_answer(packet, udp) ||
		      is_of_own_udp(ctx, packet, udp, ports)))
		return pass();
	return drop(DROP_NOT_ALLOWED);
}

/*
 * Is there room for one more echo? Every CPU has a bucket of its own, so that a flood on many contends for nothing;
 * "bytes" are messages here.
 */
static __always_inline bool take_echo(void)
{
#if ICMP_ECHO_PER_SECOND
	__u32 key = 0;
	struct bucket *bucket = echo_bucket.lookup(&key);
	__u64 paid_until_ns;

	if (!bucket)
		return false;
	paid_until_ns = bucket_spend(bucket->paid_until_ns, ICMP_ECHO_PER_SECOND, 1, clock_ns());
	if (!paid_until_ns)
		return false;
	bucket->paid_until_ns = paid_until_ns;
	return true;
#else
	return false;
#endif
}

/* Errors, "too big" above all, are always welcome; echo, in both directions, at a rate. */
static __always_inline int judge_own_icmp(struct xdp_md *ctx, const struct packet *packet, __u32 listed)
{
	const struct icmp_header *icmp;
#if RELAYS_COUNT
	int verdict;
#endif

	if (packet->fragment)
		return drop(DROP_FRAGMENT);
	icmp = packet_icmp(packet);
	if (!icmp)
		return drop(DROP_MALFORMED);
#if RELAYS_COUNT
	if (judge_relayed_error(ctx, packet, &verdict))
		return verdict;
#endif
	if (is_icmp_error(packet->family, icmp->type))
		return pass();
	if (!is_echo_request(packet->family, icmp->type) && !is_echo_reply(packet->family, icmp->type))
		return drop(DROP_NOT_ALLOWED);
	if (listed == SOURCE_BOGON)
		return drop(DROP_BOGON);
	return take_echo() ? pass() : drop(DROP_ICMP_RATE);
}

/*
 * A network may well reach its own nodes from private addresses, to manage them or to answer what they asked: bogons
 * are refused where the whole internet may come, and nowhere else.
 */
static __always_inline int judge_own(struct xdp_md *ctx, const struct packet *packet, __u32 listed)
{
	if (packet->protocol == IPPROTO_UDP)
		return judge_own_udp(ctx, packet, listed);
	if (packet->protocol == IPPROTO_TCP)
		return judge_own_tcp(ctx, packet);
	if (is_icmp(packet))
		return judge_own_icmp(ctx, packet, listed);
	return drop(DROP_NOT_ALLOWED);
}

/*
 * Neither an exit address nor assigned. A DHCP server that answers a client without an address sends to the address
 * it offers, or to all; never into a tunnel.
 */
static __always_inline int judge_stranger(const struct packet *packet)
{
	const struct udphdr *udp;

	if (packet->family != FAMILY_V4 || packet->protocol != IPPROTO_UDP || packet->fragment)
		return drop(DROP_NOT_ALLOWED);
	udp = sound_udp(packet);
	if (!udp)
		return drop(DROP_MALFORMED);
	if (is_dhcp_answer(packet, udp) && !is_inner_v4(((const struct iphdr *)packet->network)->daddr))
		return pass();
	return drop(DROP_NOT_ALLOWED);
}

int guard(struct xdp_md *ctx)
{
	struct cursor cursor = {
		.position = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};
	struct packet packet = {};
	enum counter judgement;
	__be16 type;
	__u32 exit, listed;

	if (parse_ethernet(&cursor, &type) != PARSE_OK)
		return drop(DROP_MALFORMED);
	switch (parse_ip(&cursor, type, cursor.end - cursor.position, &packet)) {
	case PARSE_NOT_IP:
		return judge_link(type);
	case PARSE_MALFORMED:
		return drop(DROP_MALFORMED);
	case PARSE_OK:
		break;
	}
	/* Whatever address it is for: the router may ask for an exit address too. */
	if (is_link_talk(&packet))
		return pass();
	listed = listed_as(&packet);
	if (listed == SOURCE_BLOCKED)
		return drop(DROP_BLOCKED);
	exit = exit_index(&packet);
	if (exit != NO_EXIT) {
		judgement = listed == SOURCE_BOGON ? DROP_BOGON : judge_exit(&packet, exit);
		if (judgement == COUNT_GUARD_PASSED)
			return pass();
		/* An exit address may be the node's own as well. */
		if (!is_own(&packet))
			return drop(judgement);
	} else if (!is_own(&packet)) {
		return judge_stranger(&packet);
	}
	return judge_own(ctx, &packet, listed);
}

/* Run by the controller, never attached: looks at RELAY_SWEPT sessions of the relays a run. */
int sweep_relays(struct xdp_md *ctx)
{
#if RELAYS_COUNT
	__u32 zero = 0, tick = tick_of(clock_ns()), slot, step;
	struct relay_session *session;
	__u64 *cursor = relay_cursor.lookup(&zero), first;

	if (!cursor)
		return XDP_PASS;
	first = __sync_fetch_and_add(cursor, RELAY_SWEPT);
	for (step = 0; step < RELAY_SWEPT; step++) {
		slot = (first + step) % RELAY_SESSIONS;
		session = relay_session_at(slot);
		if (session)
			relay_forget(session, tick);
	}
#endif
	return XDP_PASS;
}

/* Run by the controller, never attached: looks at BUDGETS_SWEPT lines of handshake budgets a run. */
int sweep_budgets(struct xdp_md *ctx)
{
	__u32 zero = 0, step;
	__u64 now_ns = clock_ns();
	__u64 *cursor = budgets_cursor.lookup(&zero), first;
	struct budget_line *line;

	if (!cursor)
		return XDP_PASS;
	first = __sync_fetch_and_add(cursor, BUDGETS_SWEPT);
	for (step = 0; step < BUDGETS_SWEPT; step++) {
		line = budget_line_at((first + step) % BUDGET_LINES);
		if (line)
			budgets_forget(line, now_ns);
	}
	return XDP_PASS;
}
