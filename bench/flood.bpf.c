/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A flood: one frame again and again, each time from another source, redirected into a link from live frames of
 * BPF_PROG_TEST_RUN. And the least that an XDP program can do with it, which is what others are compared with.
 *
 * WORDS (of a frame) and FAMILY_V6 come from the command line.
 */
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#define BATCH          64 /* packets that the kernel sends before it lets the receivers run */
#define MAX_BATCHES    16384
#define CHECKSUM_AT    24 /* of IPv4's header */
#define MOST_LOOKS     64 /* at the clock */
#define MOST_BEHIND_NS 50000
#if FAMILY_V6
#define SOURCE_AT 26 /* the second word of the address: up to the /64 */
#else
#define SOURCE_AT 26
#endif

struct job {
	__u32 ifindex;
	__u32 sent;
	__u32 first; /* that word of the first source, host order; then steps of `stride`, `count` times */
	__u32 stride;
	__u32 count;
	__u32 next;
	__u32 interval_ns; /* from one frame to the next; 0: as fast as can be */
	__u64 due_ns;
	__u32 network_sum; /* of the IPv4 header without that word */
	__u32 frame[WORDS];
};

BPF_ARRAY(job, struct job, 1);
BPF_ARRAY(stamps, __u64, MAX_BATCHES);
BPF_PERCPU_ARRAY(dropped, __u64, 1);

int flood(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 *words = data, zero = 0, batch, source, sum;
	struct job *task;
	__u64 *stamp, now_ns;
	int i;

	if (data + 4 * WORDS > end)
		return XDP_ABORTED;
	task = job.lookup(&zero);
	if (!task)
		return XDP_ABORTED;
	if (task->sent % BATCH == 0) {
		batch = task->sent / BATCH;
		stamp = stamps.lookup(&batch);
		if (stamp)
			*stamp = bpf_ktime_get_ns();
	}
	/* Behind by much, after another task's turn, is not made up for. */
	if (task->interval_ns) {
		now_ns = bpf_ktime_get_ns();
		if (now_ns > task->due_ns + MOST_BEHIND_NS)
			task->due_ns = now_ns;
		for (i = 0; i < MOST_LOOKS && now_ns < task->due_ns; i++)
			now_ns = bpf_ktime_get_ns();
		task->due_ns += task->interval_ns;
	}
	task->sent++;
	source = __builtin_bswap32(task->first + task->next * task->stride);
	task->next = task->next + 1 < task->count ? task->next + 1 : 0;
#pragma unroll
	for (i = 0; i < WORDS; i++)
		words[i] = task->frame[i];
	*(__u32 *)(data + SOURCE_AT) = source;
#if !FAMILY_V6
	sum = task->network_sum + (source & 0xffff) + (source >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*(__u16 *)(data + CHECKSUM_AT) = ~sum;
#endif
	return bpf_redirect(task->ifindex, 0);
}

/* Count and drop, without a look at the packet. */
int bare_drop(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u64 *count = dropped.lookup(&zero);

	if (count)
		++*count;
	return XDP_DROP;
}
