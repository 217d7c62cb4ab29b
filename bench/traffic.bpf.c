/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A source and a sink of small UDP datagrams. The source runs on live frames of BPF_PROG_TEST_RUN and redirects each
 * into a link; the sink sits on tc ingress at the far end, counts and drops.
 *
 * The page of a frame comes back with whatever its last receiver wrote into it, so the source writes every byte anew.
 */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#define BE16(value)  ((__be16)__builtin_bswap16((__u16)(value)))
#define DISCARD_PORT 9 /* of the site; the other port is the flow's */
#define FIRST_PORT   20000
#define BATCH        64 /* packets that the kernel sends before it lets the receivers run */
#define MAX_BATCHES  16384

/*
 * From the command line: FAMILY_V6; MAX_FLOWS; LEAD, in words, the beginning of the payload, and PADDING, in bytes, its
 * end; LENGTH and WORDS of a frame; FROM_PORT, which packets from the site come from at the sink.
 */
#if FAMILY_V6
#define ETHERTYPE     BE16(ETH_P_IPV6)
#define ADDRESS_WORDS 4
struct network {
	__u32 flow_label;
	__be16 length;
	__u8 protocol;
	__u8 ttl;
	__u32 source[ADDRESS_WORDS];
	__u32 destination[ADDRESS_WORDS];
};
#else
#define ETHERTYPE     BE16(ETH_P_IP)
#define ADDRESS_WORDS 1
struct network {
	__u32 length;
	__u32 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 checksum;
	__u32 source[ADDRESS_WORDS];
	__u32 destination[ADDRESS_WORDS];
};
#endif

/* The smallest ones of IPv4 are the smallest that Ethernet has: 60 bytes, 64 with its check sequence. */
struct frame {
	struct ethhdr ethernet;
	struct network network;
	struct udphdr udp;
	__u32 lead[LEAD];
	__u32 flow;
	__u32 complement; /* flow and complement sum to nothing in a checksum */
	__u8 padding[PADDING];
} __attribute__((packed));

_Static_assert(sizeof(struct frame) == 4 * WORDS, "copied by words");

/* Addresses that follow one another: flows take them in turn. */
struct range {
	__u32 first; /* the last word of the first one, host order */
	__u32 count;
	__u32 next;
};

struct job {
	__u32 ifindex;
	__u32 flows;
	__u32 returning; /* towards where `seen` says that each flow came from */
	__u32 next_flow;
	__u32 next_port; /* of the inside; every inside address uses one before any uses the next */
	struct range inside;
	struct range site;
	__u32 sent;
	__u32 network_sum;   /* of the IPv4 header without TTL and what the program enters: the addresses' last words */
	__u32 transport_sum; /* of pseudo-header and datagram, likewise */
	__u32 frame[WORDS];
};

/* Where a flow seemed to come from at the sink. */
struct origin {
	__u32 address[4];
	__u32 port; /* __be16 in the low half */
};

enum count {
	COUNT_PACKETS,
	COUNT_MERGED, /* packets that arrived inside another: there should be next to none */
	COUNTS,
};

struct sample {
	__u32 wanted;
	__u32 length;
	__u32 bytes[WORDS];
};

BPF_ARRAY(job, struct job, 1);
BPF_ARRAY(seen, struct origin, MAX_FLOWS);
BPF_ARRAY(stamps, __u64, MAX_BATCHES);
BPF_ARRAY(sample, struct sample, 1);
BPF_PERCPU_ARRAY(tally, __u64, COUNTS);

static __always_inline __u32 sum_of(const __u32 *words, int count)
{
	__u32 sum = 0;
	int i;

#pragma unroll
	for (i = 0; i < count; i++)
		sum += (words[i] & 0xffff) + (words[i] >> 16);
	return sum;
}

static __always_inline __u16 checksum(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline __u32 range_take(struct range *range)
{
	__u32 taken = range->next;

	range->next = taken + 1 < range->count ? taken + 1 : 0;
	return __builtin_bswap32(range->first + taken);
}

int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 *words = data, zero = 0, flow, batch, site, inside, network_sum, transport_sum;
	struct frame *frame = data;
	struct origin *origin;
	struct job *task;
	__u16 port;
	__u64 *stamp;
	int i;

	if (data + sizeof(*frame) > end)
		return XDP_ABORTED;
	task = job.lookup(&zero);
	if (!task)
		return XDP_ABORTED;
	flow = task->next_flow;
	task->next_flow = flow + 1;
	site = range_take(&task->site);
	inside = range_take(&task->inside);
	port = FIRST_PORT + task->next_port;
	if (!task->inside.next)
		task->next_port++;
	if (task->next_flow >= task->flows)
		task->next_flow = task->next_port = task->site.next = task->inside.next = 0;
#pragma unroll
	for (i = 0; i < WORDS; i++)
		words[i] = task->frame[i];
	frame->flow = flow;
	frame->complement = ~flow;
	/* Neighbours of one flow differ in TTL, or GRO would make them one packet. A wide range, for some get lost. */
	if (task->sent % BATCH == 0) {
		batch = task->sent / BATCH;
		stamp = stamps.lookup(&batch);
		if (stamp)
			*stamp = bpf_ktime_get_ns();
	}
	task->sent++;
	frame->network.ttl = 255 - (task->sent & 127);
	network_sum = task->network_sum;
	transport_sum = task->transport_sum;
	if (task->returning) {
		origin = seen.lookup(&flow);
		if (!origin)
			return XDP_ABORTED;
#pragma unroll
		for (i = 0; i < ADDRESS_WORDS; i++)
			frame->network.destination[i] = origin->address[i];
		frame->udp.dest = origin->port;
		frame->network.source[ADDRESS_WORDS - 1] = site;
		network_sum += sum_of(&site, 1) + sum_of(origin->address, ADDRESS_WORDS);
		transport_sum += sum_of(&site, 1) + sum_of(origin->address, ADDRESS_WORDS) + origin->port;
	} else {
		frame->udp.source = BE16(port);
		frame->network.source[ADDRESS_WORDS - 1] = inside;
		frame->network.destination[ADDRESS_WORDS - 1] = site;
		network_sum += sum_of(&site, 1) + sum_of(&inside, 1);
		transport_sum += sum_of(&site, 1) + sum_of(&inside, 1) + frame->udp.source;
	}
	frame->udp.check = checksum(transport_sum) ?: 0xffff; /* 0 would mean: none */
#if !FAMILY_V6
	frame->network.checksum = checksum(network_sum + frame->network.ttl);
#endif
	return bpf_redirect(task->ifindex, 0);
}

/* @outside: where packets to the site end, and what they are told from others by. */
static __always_inline int take(struct __sk_buff *skb, bool outside)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct frame *frame = data;
	__u32 zero = 0, flow;
	struct origin *origin;
	struct sample *copy;
	__u32 merged = COUNT_MERGED;
	__u64 *count;
	int i;

	if (data + LENGTH > end || frame->ethernet.h_proto != ETHERTYPE || frame->network.protocol != IPPROTO_UDP)
		return TC_ACT_OK;
	flow = frame->flow;
	if ((outside ? frame->udp.dest != BE16(DISCARD_PORT) : frame->udp.source != BE16(FROM_PORT)))
		return TC_ACT_OK;
	if (outside) {
		origin = seen.lookup(&flow);
		if (!origin)
			return TC_ACT_OK;
#pragma unroll
		for (i = 0; i < ADDRESS_WORDS; i++)
			origin->address[i] = frame->network.source[i];
		origin->port = frame->udp.source;
	}
	count = tally.lookup(&zero);
	if (count)
		++*count;
	count = tally.lookup(&merged);
	if (count && skb->gso_segs > 1)
		*count += skb->gso_segs - 1;
	copy = sample.lookup(&zero);
	if (copy && copy->wanted) {
		copy->length = skb->len;
		if (!bpf_skb_load_bytes(skb, 0, copy->bytes, LENGTH))
			copy->wanted = 0;
	}
	return TC_ACT_SHOT;
}

int sink_outside(struct __sk_buff *skb)
{
	return take(skb, true);
}

int sink_inside(struct __sk_buff *skb)
{
	return take(skb, false);
}

/* A router, and the least that one can do in XDP: next hop, hop limit, hardware addresses, and back into the link. */
int bare_forward(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct bpf_fib_lookup fib = {};
	struct frame *frame = data;
	__u32 sum;

	if (data + LENGTH > end || frame->ethernet.h_proto != ETHERTYPE || frame->network.ttl <= 1)
		return XDP_PASS;
	fib.ifindex = ctx->ingress_ifindex;
	fib.l4_protocol = frame->network.protocol;
	fib.tot_len = LENGTH - sizeof(frame->ethernet);
#if FAMILY_V6
	fib.family = 10; /* AF_INET6 */
	__builtin_memcpy(fib.ipv6_src, frame->network.source, sizeof(fib.ipv6_src));
	__builtin_memcpy(fib.ipv6_dst, frame->network.destination, sizeof(fib.ipv6_dst));
#else
	fib.family = 2; /* AF_INET */
	fib.ipv4_src = frame->network.source[0];
	fib.ipv4_dst = frame->network.destination[0];
#endif
	if (bpf_fib_lookup(ctx, &fib, sizeof(fib), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return XDP_PASS;
	frame->network.ttl--;
#if !FAMILY_V6
	sum = frame->network.checksum + 1; /* RFC 1624, for a TTL one less */
	frame->network.checksum = sum + (sum >> 16);
#endif
	__builtin_memcpy(frame->ethernet.h_dest, fib.dmac, ETH_ALEN);
	__builtin_memcpy(frame->ethernet.h_source, fib.smac, ETH_ALEN);
	return fib.ifindex == ctx->ingress_ifindex ? XDP_TX : bpf_redirect(fib.ifindex, 0);
}

/* What the repeated runs of other programs are compared with. */
int nothing_xdp(struct xdp_md *ctx)
{
	return XDP_PASS;
}

int nothing_tc(struct __sk_buff *skb)
{
	return TC_ACT_OK;
}
