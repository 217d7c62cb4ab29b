/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the node itself has asked for, by looking at its sockets: so its own name queries, updates and connections need
 * no rule. Look-ups are made in the network namespace of the device that the packet came in by.
 */
#ifndef JETPLANE_SOCKETS_H
#define JETPLANE_SOCKETS_H

#include "packet.h"

/* The four words that name a connection, as the socket lookups want them; returns the size of its family's form. */
static __always_inline __u32 socket_tuple(struct bpf_sock_tuple *tuple, const struct packet *packet, __be16 source,
					  __be16 destination)
{
	const struct iphdr *ip4 = packet->network;
	const struct ipv6hdr *ip6 = packet->network;

	if (packet->family == FAMILY_V4) {
		tuple->ipv4.saddr = ip4->saddr;
		tuple->ipv4.daddr = ip4->daddr;
		tuple->ipv4.sport = source;
		tuple->ipv4.dport = destination;
		return sizeof(tuple->ipv4);
	}
	__builtin_memcpy(tuple->ipv6.saddr, &ip6->saddr, sizeof(ip6->saddr));
	__builtin_memcpy(tuple->ipv6.daddr, &ip6->daddr, sizeof(ip6->daddr));
	tuple->ipv6.sport = source;
	tuple->ipv6.dport = destination;
	return sizeof(tuple->ipv6);
}

/* Is this part of a connection of the node's own? A listening socket expects nobody in particular. */
static __always_inline bool has_connection(struct xdp_md *ctx, const struct packet *packet, const struct tcphdr *tcp)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;
	bool connected;

	socket = bpf_skc_lookup_tcp(ctx, &tuple, socket_tuple(&tuple, packet, tcp->source, tcp->dest),
				    BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return false;
	connected = socket->state != BPF_TCP_LISTEN;
	bpf_sk_release(socket);
	return connected;
}

/* Has a socket of the node's own called connect(2) to this sender? Then its state is that of an open connection. */
static __always_inline bool has_conversation(struct xdp_md *ctx, const struct packet *packet, const struct udphdr *udp)
{
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *socket;
	bool connected;

	socket = bpf_sk_lookup_udp(ctx, &tuple, socket_tuple(&tuple, packet, udp->source, udp->dest),
				   BPF_F_CURRENT_NETNS, 0);
	if (!socket)
		return false;
	connected = socket->state == BPF_TCP_ESTABLISHED;
	bpf_sk_release(socket);
	return connected;
}

#endif
