/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * NAT44 and NAT66 in tc: out of the tunnels, in from the uplink, and a guard on the way out that lets nothing leave
 * with another's source. One look-up by inner address and port finds the binding of a packet that leaves; arithmetic
 * on address and port finds that of one that returns.
 */
#include "maps.h"

#include <linux/pkt_cls.h>

#include "abi.h"
#include "packet.h"
#include "skb.h"

#define TUNNEL_HEADER (TUNNEL_ETHERNET ? ETH_HLEN : 0) /* bytes before the IP header of a packet from a tunnel */

/* bcc's own declaration lacks the last argument. */
static long (*redirect_neigh)(__u32 ifindex, void *params, int size, __u64 flags) = (void *)BPF_FUNC_redirect_neigh;

/*
 * The verbs by which everything below knows the maps. bcc understands map methods in this file only, so the headers
 * that use the verbs come after them.
 */

static __always_inline void count(enum counter what, __u64 amount)
{
	__u32 key = what;
	__u64 *total = counters.lookup(&key);

	if (total)
		*total += amount;
}

static __always_inline int drop(enum counter reason)
{
	count(reason, 1);
	return TC_ACT_SHOT;
}

static __always_inline struct clock *clock_get(void)
{
	__u32 zero = 0;

	return clock.lookup(&zero);
}

static __always_inline __u32 *address_find(struct address *address)
{
	return addresses.lookup(address);
}

static __always_inline bool address_is_own(struct address *address)
{
	return own_addresses.lookup(address);
}

static __always_inline struct peer *peer_at(__u32 index)
{
	return peers.lookup(&index);
}

static __always_inline struct peer_statistics *peer_statistics_at(__u32 index)
{
	return peer_statistics.lookup(&index);
}

static __always_inline struct epochs *epochs_get(void)
{
	__u32 key = 0;

	return epochs.lookup(&key);
}

static __always_inline void aggregate(enum quantity what, __u64 epoch, __u64 amount)
{
	__u32 key = 2 * what + (epoch >> EPOCH_SHIFT & 1);
	__u64 *sum = aggregates.lookup(&key);

	if (sum)
		*sum += amount;
}

static __always_inline struct peer_blocks *peer_blocks_at(__u32 index)
{
	return peer_blocks.lookup(&index);
}

static __always_inline struct pool *pool_at(__u32 index)
{
	return pools.lookup(&index);
}

static __always_inline struct block *block_at(__u32 index)
{
	return blocks.lookup(&index);
}

static __always_inline struct binding *binding_at(__u32 slot)
{
	return bindings.lookup(&slot);
}

static __always_inline __u32 *endpoint_find(struct inner_endpoint *inner)
{
	return endpoints.lookup(inner);
}

static __always_inline int endpoint_add(struct inner_endpoint *inner, __u32 slot)
{
	return endpoints.insert(inner, &slot);
}

static __always_inline void endpoint_remove(struct inner_endpoint *inner)
{
	endpoints.delete(inner);
}

static __always_inline __u32 *hint_at(__u32 place)
{
	return hints.lookup(&place);
}

static __always_inline __u64 *reuse_used_at(__u32 index)
{
	return reuse_used.lookup(&index);
}

static __always_inline __u32 *reuse_inner_find(struct reuse_inner *key)
{
	return reuse_inner.lookup(key);
}

static __always_inline int reuse_inner_add(struct reuse_inner *key, __u32 slot)
{
	return reuse_inner.insert(key, &slot);
}

static __always_inline void reuse_inner_remove(struct reuse_inner *key)
{
	reuse_inner.delete(key);
}

static __always_inline __u32 *reuse_outer_find(struct reuse_outer *key)
{
	return reuse_outer.lookup(key);
}

static __always_inline int reuse_outer_add(struct reuse_outer *key, __u32 slot)
{
	return reuse_outer.insert(key, &slot);
}

static __always_inline void reuse_outer_remove(struct reuse_outer *key)
{
	reuse_outer.delete(key);
}

static __always_inline bool remote_find(struct remote_key *key)
{
	return remotes.lookup(key);
}

static __always_inline void remote_add(struct remote_key *key)
{
	__u32 present = 1;

	remotes.update(key, &present);
}

static __always_inline void remote_remove(struct remote_key *key)
{
	remotes.delete(key);
}

static __always_inline struct secret *secret_get(void)
{
	__u32 key = 0;

	return secrets.lookup(&key);
}

static __always_inline struct fragmented *fragment_find(__u64 *key)
{
	return fragments.lookup(key);
}

static __always_inline void fragment_add(__u64 *key, struct fragmented *entry)
{
	fragments.insert(key, entry);
}

static __always_inline void fragment_remove(__u64 *key)
{
	fragments.delete(key);
}

static __always_inline struct bucket *fragments_again_bucket(void)
{
	__u32 key = 0;

	return fragments_again.lookup(&key);
}

static __always_inline struct peer_fragments *peer_fragments_at(__u32 index)
{
	return peer_fragments.lookup(&index);
}

static __always_inline struct steered *steered_find(const struct steered_key *key)
{
	return steered.lookup((struct steered_key *)key);
}

static __always_inline int steered_add(struct steered_key *key, struct steered *entry)
{
	return steered.insert(key, entry);
}

static __always_inline void steered_remove(const struct steered_key *key)
{
	steered.delete((struct steered_key *)key);
}

static __always_inline struct bucket *flow_bucket_at(__u32 index)
{
	return new_flows.lookup(&index);
}

static __always_inline struct next_hops *next_hops_at(__u32 table)
{
	return next_hops.lookup(&table);
}

static __always_inline struct neighbour *neighbour_at(__u32 index)
{
	return neighbours.lookup(&index);
}

static __always_inline __u32 half_of(__u32 what)
{
	__u32 *half = halves.lookup(&what);

	return half ? *half : 0;
}

static __always_inline __u64 *known_word_at(__u32 index)
{
	return known_sources.lookup(&index);
}

static __always_inline struct local_ports *local_ports_at(__u32 place)
{
	__u32 index = place / PORTS_PER_WORD;

	return local_ports.lookup(&index);
}

/* Routing rules discard what comes from a tunnel or the uplink to be forwarded, unless it has the mark. */
static __always_inline int hand_over(struct __sk_buff *skb)
{
	skb->mark = HANDOVER_MARK;
	count(COUNT_HANDED_TO_STACK, 1);
	return TC_ACT_OK;
}

/* For the stack to discard, and to answer that it is prohibited. */
static __always_inline int prohibit(struct __sk_buff *skb)
{
	skb->mark = PROHIBIT_MARK;
	return TC_ACT_OK;
}

#include "clock.h"
#include "dns.h"
#include "forwarded.h"
#include "leak.h"
#include "sweep.h"
#include "way_in.h"
#include "way_out.h"

/* tc ingress of every tunnel. WireGuard has checked the source against the peer's allowed IPs. */
int nat_out(struct __sk_buff *skb)
{
	__u64 now_ns = clock_ns();
	struct packet packet = {};
	enum destination destination;
	struct flow flow = {};
	enum counter reason;

	switch (read_packet(skb, TUNNEL_HEADER, &packet)) {
	case PARSE_NOT_IP:
		return TUNNEL_ETHERNET ? TC_ACT_OK : drop(DROP_PROTOCOL);
	case PARSE_MALFORMED:
		return drop(DROP_MALFORMED);
	case PARSE_OK:
		break;
	}
	if (TUNNEL_ETHERNET && is_link_talk(&packet))
		return TC_ACT_OK;
	destination = judge_destination(&packet);
	if (DNS_SERVICE && unlikely(is_question(&packet, destination)))
		return question_out(skb, &packet, now_ns);
	switch (destination) {
	case DESTINATION_NODE:
		return deliver_to_node(&packet);
	case DESTINATION_INNER:
		return drop(DROP_TUNNEL_DESTINATION);
	case DESTINATION_UNROUTABLE:
		return drop(DROP_UNROUTABLE);
	case DESTINATION_DENIED:
		return deny(skb, &packet, DROP_POLICY_DESTINATION, now_ns);
	case DESTINATION_INTERNET:
	case DESTINATION_EXIT:
		break;
	}
	if (packet.hop_limit <= 1)
		return answer_spent(skb, &packet);
	if (packet.options)
		return drop(DROP_OPTIONS);
	if (unlikely(packet.fragment)) {
		reason = fragment_out(&packet);
		if (reason != NO_REASON)
			return drop(reason);
		if (packet.fragment == FRAGMENT_LATER)
			return later_out(skb, &packet, destination == DESTINATION_EXIT, now_ns);
	}
	switch (flow_read(&packet, SIDE_SOURCE, &flow)) {
	case FLOW_MALFORMED:
		return drop(DROP_MALFORMED);
	case FLOW_FOREIGN:
		return drop(DROP_PROTOCOL);
	case FLOW_ERROR:
		if (packet.fragment)
			return drop(DROP_FRAGMENT);
		return error_out(skb, &packet, destination == DESTINATION_EXIT, tick_of(now_ns));
	case FLOW_SESSION:
		break;
	}
	if (is_denied_port(flow.protocol, from_be16(flow.destination_port)))
		return deny(skb, &packet, DROP_POLICY_PORT, now_ns);
	if (destination == DESTINATION_INTERNET && !fits_uplink(skb, &packet, &flow))
		return answer_too_big(skb, &packet);
	flow.tcp_flags = forget(skb, flow.tcp_flags);
	return session_out(skb, &packet, &flow, forget(skb, destination == DESTINATION_EXIT), now_ns);
}

/* tc ingress of the uplink. What is not for an exit address is the node's own: the guard has judged it. */
int nat_in(struct __sk_buff *skb)
{
	__u64 now_ns = clock_ns();
	struct packet packet = {};
	struct piece piece;
	struct flow flow = {};
	enum counter reason;
	bool inner;
	__u32 exit;

	if (skb->vlan_present)
		return TC_ACT_OK;
	if (skb->protocol == BE16(ETH_P_ARP))
		return answer_neighbour(skb);
	if (skb->protocol != BE16(ETH_P_IP) && skb->protocol != BE16(ETH_P_IPV6))
		return TC_ACT_OK;
	exit = exit_of(skb, &inner);
	if (inner)
		return drop(DROP_NOT_ALLOWED);
	if (exit == NO_EXIT)
		return TC_ACT_OK;
	if (read_packet(skb, ETH_HLEN, &packet) != PARSE_OK)
		return drop(DROP_MALFORMED);
	if (is_link_talk(&packet))
		return answer_neighbour(skb);
	if (packet.options)
		return refuse_in(&packet, DROP_OPTIONS);
	if (unlikely(packet.fragment)) {
		reason = fragment_read(&packet, &piece);
		if (reason != NO_REASON)
			return refuse_in(&packet, reason);
		if (packet.fragment == FRAGMENT_LATER)
			return later_in(skb, &packet, &piece, exit, now_ns);
	}
	switch (flow_read(&packet, SIDE_DESTINATION, &flow)) {
	case FLOW_MALFORMED:
		return drop(DROP_MALFORMED);
	case FLOW_FOREIGN:
		return refuse_in(&packet, is_icmp(&packet) ? DROP_NO_BINDING : DROP_PROTOCOL);
	case FLOW_ERROR:
		if (packet.fragment)
			return refuse_in(&packet, DROP_FRAGMENT);
		return error_in(skb, &packet, exit, tick_of(now_ns));
	case FLOW_SESSION:
		break;
	}
	return session_in(skb, &packet, &flow, exit, now_ns);
}

/* tc egress of the uplink: the last look. */
int leak_guard(struct __sk_buff *skb)
{
	struct packet packet = {};
	enum counter reason;

	if (is_session_of_subscriber(skb))
		return TC_ACT_OK;
	switch (read_packet(skb, ETH_HLEN, &packet)) {
	case PARSE_NOT_IP:
		return TC_ACT_OK;
	case PARSE_MALFORMED:
		return drop(DROP_MALFORMED);
	case PARSE_OK:
		break;
	}
	if (!is_source_ours(&packet))
		return drop(DROP_LEAK);
	remember_session(&packet);
	remember_port(skb, &packet);
	reason = unveil(&packet, tick_of(clock_ns()));
	return reason == NO_REASON ? TC_ACT_OK : drop(reason);
}

/*
 * tc egress of every tunnel, where the node has a DNS service that needs it: what its resolver sends. Packets that
 * came in by an interface are forwarded ones, which nobody here has asked for.
 */
int dns_answer(struct __sk_buff *skb)
{
	struct packet packet = {};
	__u32 tick;

	if (!DNS_SERVICE || skb->ingress_ifindex)
		return TC_ACT_OK;
	if (read_packet(skb, TUNNEL_HEADER, &packet) != PARSE_OK || !is_from_resolver(&packet))
		return TC_ACT_OK;
	tick = tick_of(clock_ns());
	if (DNS_STEER && is_icmp(&packet))
		return error_back(skb, &packet, tick);
	if (packet.protocol != IPPROTO_TCP && packet.protocol != IPPROTO_UDP)
		return TC_ACT_OK;
	return answer_back(skb, &packet, tick);
}

/*
 * Run by the controller, never attached: looks at one block, or as many connections at reused ports, and at one peer's
 * fragments and statistics a run.
 */
int sweep(struct __sk_buff *skb)
{
	__u32 zero = 0, tick = tick_of(clock_ns());
	struct sweep_cursor *cursor = sweep_cursor.lookup(&zero);
	__u64 turn;

	if (!cursor)
		return TC_ACT_OK;
	turn = __sync_fetch_and_add(&cursor->next_block, 1);
	fragments_sweep(turn % MAX_PEERS, tick);
	flows_sweep(turn % MAX_PEERS);
	if (STATISTICS)
		statistics_sweep(turn % MAX_PEERS);
	sweep_place(cursor, turn % SWEPT_PLACES, tick);
	return TC_ACT_OK;
}

/*
 * Run by the controller, never attached: the "packet" is SWEPT_HEADER bytes and then keys of `remotes`. Those whose
 * binding is no more are removed; returns how many.
 */
int sweep_remotes(struct __sk_buff *skb)
{
	void *data = skb_data(skb), *end = skb_data_end(skb);
	int removed = 0, at;

	for (at = 0; at < SWEPT_REMOTES; at++) {
		struct remote_key *given = data + SWEPT_HEADER + at * sizeof(*given), key;

		if ((void *)(given + 1) > end)
			break;
		key = *given;
		if (!remote_is_due(&key))
			continue;
		remote_remove(&key);
		removed++;
	}
	return removed;
}

/* The same for keys of `steered`, each of a question. */
int sweep_steered(struct __sk_buff *skb)
{
	__u32 tick = tick_of(clock_ns());
	void *data = skb_data(skb), *end = skb_data_end(skb);
	int removed = 0, at;

	for (at = 0; at < SWEPT_STEERED; at++) {
		struct steered_key *given = data + SWEPT_HEADER + at * sizeof(*given), key;

		if ((void *)(given + 1) > end)
			break;
		key = *given;
		if (!steered_is_due(&key, tick))
			continue;
		steered_remove(&key);
		removed++;
	}
	return removed;
}
