/* SPDX-License-Identifier: GPL-2.0-only */
/* A witness in traffic control: counts packets by how they lie in the kernel's memory, and lets all pass. */
#include <linux/pkt_cls.h>

enum shape {
	SHAPE_PACKET,
	SHAPE_SUPER,     /* many segments in one */
	SHAPE_NONLINEAR, /* data in pages, out of a program's sight until it pulls it */
	SHAPES,
};

BPF_PERCPU_ARRAY(shapes, __u64, SHAPES);

static __always_inline void count_shape(enum shape shape)
{
	__u32 key = shape;
	__u64 *total = shapes.lookup(&key);

	if (total)
		*total += 1;
}

int look(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	count_shape(SHAPE_PACKET);
	if (skb->gso_segs > 1)
		count_shape(SHAPE_SUPER);
	if (data + skb->len > end)
		count_shape(SHAPE_NONLINEAR);
	return TC_ACT_OK;
}
