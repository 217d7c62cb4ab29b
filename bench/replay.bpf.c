/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sends WireGuard messages that were recorded, each once, for the protocol takes none twice; and notes at the far end
 * when the last of the packets in them arrived. Live frames come with what their last receiver wrote into them, so
 * every byte is written anew.
 */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#define DISCARD_PORT __builtin_bswap16(9)
#define FRAME        122 /* bytes: Ethernet, IPv4, UDP, a data message with 48 bytes in it */
#define HALVES       (FRAME / 2)
#define MAX_FRAMES   16384

struct frame {
	__u16 halves[HALVES];
};

struct task {
	__u64 began; /* ns, at the first packet */
	__u64 ended; /* ns, at the last arrival */
	__u32 ifindex;
	__u32 next;
	__u32 sent;
	__u32 arrived;
};

BPF_ARRAY(frames, struct frame, MAX_FRAMES);
BPF_ARRAY(tasks, struct task, 1);

int replay(struct xdp_md *ctx)
{
	__u16 *halves = (void *)(long)ctx->data;
	__u32 zero = 0, next;
	struct frame *frame;
	struct task *task;
	int i;

	if ((void *)halves + FRAME > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	task = tasks.lookup(&zero);
	if (!task)
		return XDP_ABORTED;
	next = task->next;
	frame = frames.lookup(&next);
	if (!frame)
		return XDP_ABORTED;
	if (!task->sent)
		task->began = bpf_ktime_get_ns();
	task->sent++;
	task->next++;
#pragma unroll
	for (i = 0; i < HALVES; i++)
		halves[i] = frame->halves[i];
	return bpf_redirect(task->ifindex, 0);
}

int arrive(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + ETH_HLEN;
	struct udphdr *udp = (void *)(ip + 1);
	__u32 zero = 0;
	struct task *task;

	if ((void *)(udp + 1) > end || skb->protocol != __builtin_bswap16(ETH_P_IP) || ip->protocol != IPPROTO_UDP ||
	    udp->dest != DISCARD_PORT)
		return TC_ACT_OK;
	task = tasks.lookup(&zero);
	if (!task)
		return TC_ACT_OK;
	task->arrived += skb->gso_segs > 1 ? skb->gso_segs : 1;
	task->ended = bpf_ktime_get_ns();
	return TC_ACT_SHOT;
}
