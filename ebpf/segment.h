/* SPDX-License-Identifier: GPL-2.0-only */
/* Super-packets: one packet here, many on the wire. */
#ifndef JETPLANE_SEGMENT_H
#define JETPLANE_SEGMENT_H

#include "flow.h"

/* Length of the longest IP packet that leaves when a super-packet is cut up again. */
static __always_inline __u32 segment_length(struct __sk_buff *skb, const struct packet *packet, const struct flow *flow)
{
	__u32 header = sizeof(struct udphdr);
	struct tcphdr *tcp;

	if (!skb->gso_size)
		return packet->length;
	if (flow->protocol == PROTOCOL_TCP) {
		tcp = packet_transport(packet, sizeof(*tcp));
		if (!tcp)
			return packet->length;
		header = tcp->doff * 4;
	}
	return packet->header_length + header + skb->gso_size;
}

#endif
