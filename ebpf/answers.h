/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Does a packet to an exit address answer a subscriber? Asked before the stack has spent anything on it. Knows the maps
 * only by the verbs of the program that includes it.
 */
#ifndef JETPLANE_ANSWERS_H
#define JETPLANE_ANSWERS_H

#include "binding.h"
#include "hash.h"
#include "icmp.h"
#include "packet.h"
#include "ports.h"

/* Does somebody hold this external port? nat_in asks the rest: whose, until when, and for whom. */
static __always_inline bool is_bound(__u32 exit, enum protocol protocol, __be16 port)
{
	struct binding *binding = binding_at(binding_slot(exit, protocol, from_be16(port)));

	return binding && life_is_taken(binding->life);
}

/* The same for TCP, of which a port may belong to many connections, each of another remote. */
static __always_inline bool is_tcp_bound(const struct packet *packet, __u32 exit, const struct tcphdr *tcp)
{
	struct reuse_outer key = {
		.exit_index = exit,
		.port = from_be16(tcp->dest),
	};
	struct secret *secret;
	struct address remote;

	if (!port_is_reused(PROTOCOL_TCP, key.port))
		return is_bound(exit, PROTOCOL_TCP, tcp->dest);
	secret = secret_get();
	if (!secret)
		return false;
	packet_source(packet, &remote);
	key.remote = remote_hash(secret, &remote, tcp->source);
	return reuse_outer_find(&key);
}

/*
 * A later fragment to an exit address. Its first one may lie in front of it in the same burst, of which nat_in has seen
 * nothing yet, so it is for nat_in to tell. It costs a flood's target no more than packets to a port that is bound.
 */
static __always_inline enum counter judge_later(const struct packet *packet)
{
	if (packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP || is_icmp(packet))
		return COUNT_GUARD_PASSED;
	return DROP_PROTOCOL;
}

/* COUNT_GUARD_PASSED when a packet to an exit address answers a subscriber, else the reason why it does not. */
static __always_inline enum counter judge_exit(const struct packet *packet, __u32 exit)
{
	struct icmp_header *icmp;
	struct tcphdr *tcp;
	struct udphdr *udp;
	bool bound;

	if (packet->fragment == FRAGMENT_LATER)
		return judge_later(packet);
	if (packet->protocol == IPPROTO_TCP) {
		tcp = packet_tcp(packet);
		if (!tcp)
			return DROP_MALFORMED;
		bound = is_tcp_bound(packet, exit, tcp);
	} else if (packet->protocol == IPPROTO_UDP) {
		udp = sound_udp(packet);
		if (!udp)
			return DROP_MALFORMED;
		bound = is_bound(exit, PROTOCOL_UDP, udp->dest);
	} else if (is_icmp(packet)) {
		icmp = packet_icmp(packet);
		if (!icmp)
			return DROP_MALFORMED;
		if (packet->fragment && is_icmp_error(packet->family, icmp->type))
			return DROP_FRAGMENT;
		/* An error names its binding in the packet it carries: nat_in reads that. */
		bound = is_icmp_error(packet->family, icmp->type) ||
			(is_query_reply(packet->family, icmp->type) && is_bound(exit, PROTOCOL_ICMP, icmp->identifier));
	} else {
		return DROP_PROTOCOL;
	}
	return bound ? COUNT_GUARD_PASSED : DROP_NO_BINDING;
}

#endif
