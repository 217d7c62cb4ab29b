/* SPDX-License-Identifier: GPL-2.0-only */
#include "bucket.h"
#include "runner.h"

#define START (3600 * NS_PER_S)
#define RATE  1000000 /* bytes per second */

TEST(an_idle_bucket_takes_a_packet)
{
	CHECK_EQUAL(bucket_spend(0, RATE, 1500, START), START + 1500 * 1000);
}

TEST(time_that_was_not_used_is_not_saved_up)
{
	CHECK_EQUAL(bucket_spend(START - 1, RATE, 1, START), bucket_spend(0, RATE, 1, START));
}

TEST(the_burst_is_exact_to_the_nanosecond)
{
	CHECK_EQUAL(bucket_spend(START + BURST_NS, RATE, 1, START), START + BURST_NS + 1000);
	CHECK_EQUAL(bucket_spend(START + BURST_NS + 1, RATE, 1, START), 0);
}

TEST(a_super_packet_overdraws_and_the_next_one_waits_for_it)
{
	__u64 paid_until = bucket_spend(0, RATE, 65536, START);

	CHECK_EQUAL(paid_until, START + 65536000);
	CHECK_EQUAL(bucket_spend(paid_until, RATE, 1, START), 0);
	CHECK_EQUAL(bucket_spend(paid_until, RATE, 1, paid_until - BURST_NS - 1), 0);
	CHECK(bucket_spend(paid_until, RATE, 1, paid_until - BURST_NS));
}

TEST(a_clock_that_is_behind_spends_from_the_same_bucket)
{
	__u64 paid_until = bucket_spend(0, RATE, 1000, START);

	CHECK_EQUAL(bucket_spend(paid_until, RATE, 1000, START - 1000), paid_until + 1000000);
	CHECK_EQUAL(bucket_spend(paid_until + BURST_NS, RATE, 1000, START - 1000), 0);
}

TEST(the_largest_packet_at_the_lowest_rate_does_not_overflow)
{
	CHECK_EQUAL(bucket_spend(0, 1, 0xffffffff, START), START + 0xffffffff * NS_PER_S);
}

TEST(at_a_very_high_rate_packets_are_free_but_pass)
{
	CHECK_EQUAL(bucket_spend(0, 1ull << 62, 1500, START), START);
}

/* Offer twice the rate for ten seconds in packets of mixed sizes. */
TEST(over_time_exactly_the_rate_passes)
{
	__u64 now, paid_until = 0, next, passed = 0;
	const __u64 seconds = 10;
	__u32 bytes;

	for (now = START; now < START + seconds * NS_PER_S; now += bytes * NS_PER_S / (2 * RATE)) {
		bytes = 64 + chance() % 1437;
		next = bucket_spend(paid_until, RATE, bytes, now);
		if (!next)
			continue;
		paid_until = next;
		passed += bytes;
	}
	CHECK(passed <= RATE * seconds + RATE * BURST_NS / NS_PER_S + 1500);
	CHECK(passed >= RATE * seconds);
}
