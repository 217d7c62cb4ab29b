/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Beside the arithmetic: another CPU does something whole in front of each atomic operation, where threads hardly ever meet.
 */
#include "types.h"
#include "stepping.h"

#include "statistics.h"
#include "runner.h"

#define EPOCH(number) ((__u64)(number) << EPOCH_SHIFT)
#define CLIP          10000

static bool clipped;

static __u64 claimed(__u64 *word, __u64 number, __u64 amount)
{
	return claim(word, EPOCH(number), amount, CLIP, &clipped);
}

TEST(what_is_below_the_clip_counts_in_full)
{
	__u64 word = 0;

	CHECK_EQUAL(claimed(&word, 5, 1500), 1500);
	CHECK_EQUAL(claimed(&word, 5, CLIP - 1500), CLIP - 1500);
	CHECK(!clipped);
	CHECK_EQUAL(word, EPOCH(5) + CLIP);
}

TEST(the_packet_that_passes_the_clip_counts_in_part_and_says_so_once)
{
	__u64 word = EPOCH(5) + CLIP - 1;

	CHECK_EQUAL(claimed(&word, 5, 65536), 1);
	CHECK(clipped);
	CHECK_EQUAL(claimed(&word, 5, 65536), 0);
	CHECK(!clipped);
}

TEST(a_packet_after_the_clip_was_met_exactly_is_clipped_whole)
{
	__u64 word = EPOCH(5) + CLIP;

	CHECK_EQUAL(claimed(&word, 5, 64), 0);
	CHECK(clipped);
	CHECK_EQUAL(claimed(&word, 5, 64), 0);
	CHECK(!clipped);
}

TEST(what_is_used_up_never_runs_into_the_number)
{
	__u64 word = EPOCH(5) + CLIP + 1, before = word;
	int i;

	for (i = 0; i < 100; i++)
		CHECK_EQUAL(claimed(&word, 5, 0xffffffff), 0);
	CHECK_EQUAL(word, before);
}

TEST(a_later_epoch_begins_anew)
{
	__u64 word = EPOCH(5) + USED_UP;

	CHECK_EQUAL(claimed(&word, 5, 64), 0);
	CHECK_EQUAL(claimed(&word, 6, 64), 64);
	CHECK_EQUAL(word, EPOCH(6) + 64);
}

TEST(a_packet_of_an_epoch_that_is_over_counts_nothing_and_changes_nothing)
{
	__u64 word = EPOCH(6) + 64;

	CHECK_EQUAL(claimed(&word, 5, 64), 0);
	CHECK(!clipped);
	CHECK(!is_first_in(&word, EPOCH(5)));
	CHECK_EQUAL(word, EPOCH(6) + 64);
}

TEST(numbers_wrap)
{
	__u64 word = EPOCH(0xffffff) + 7;

	CHECK_EQUAL(claimed(&word, 0, 64), 64);
	CHECK_EQUAL(word, 64);
	CHECK_EQUAL(claimed(&word, 0xffffff, 64), 0);
}

TEST(the_first_time_is_told_once_an_epoch)
{
	__u64 word = EPOCH(5);

	CHECK(!is_first_in(&word, EPOCH(5)));
	CHECK(is_first_in(&word, EPOCH(6)));
	CHECK(!is_first_in(&word, EPOCH(6)));
	CHECK(is_first_in(&word, EPOCH(9)));
}

TEST(what_was_used_in_an_epoch_that_is_over_is_forgotten)
{
	__u64 word = EPOCH(5) + 700;

	forget_used(&word, EPOCH(5));
	CHECK_EQUAL(word, EPOCH(5) + 700);
	forget_used(&word, EPOCH(6));
	CHECK_EQUAL(word, EPOCH(6));
	CHECK_EQUAL(claimed(&word, 6, 64), 64);
	forget_used(&word, EPOCH(5));
	CHECK_EQUAL(word, EPOCH(6) + 64);
}

/* Packets of all sizes in epochs that come and go, some of them late: no epoch's sum exceeds the clip. */
TEST(no_epoch_counts_more_than_the_clip)
{
	__u64 sums[64] = {}, marks[64] = {}, word = 0, now = 1, number;
	int i;

	for (i = 0; i < 20000; i++) {
		if (now < 63 && !(chance() % 300))
			now++;
		number = now > 2 && !(chance() % 5) ? now - chance() % 3 : now;
		sums[number] += claimed(&word, number, 1 + chance() % 3000);
		marks[number] += clipped;
	}
	for (i = 1; i <= (int)now; i++) {
		CHECK(sums[i] <= CLIP);
		CHECK(marks[i] <= 1);
		CHECK(!marks[i] || sums[i] == CLIP);
	}
}

/* What the CPUs below have in common. */
#define EPOCHS_SEEN 4096

static __u64 shared, newest, counted[EPOCHS_SEEN], said[EPOCHS_SEEN], firsts[EPOCHS_SEEN], active;
static int depth;

/* One packet, in the epoch that is the newest now or was a moment ago; it may be met by others at each of its steps. */
static void packet(void)
{
	__u64 number = newest - (newest > 2 && !(chance() % 4)), part;
	bool over;

	part = claim(&shared, EPOCH(number), 1 + chance() % 6000, CLIP, &over);
	counted[number] += part;
	said[number] += over;
	firsts[number] += is_first_in(&active, EPOCH(number));
}

static void step(void)
{
	int things;

	if (!depth || depth > 3)
		return;
	depth++;
	for (things = chance() % 4; things; things--) {
		if (!(chance() % 8))
			newest += newest < EPOCHS_SEEN - 1;
		else if (!(chance() % 4))
			forget_used(&shared, EPOCH(newest));
		else
			packet();
	}
	depth--;
}

TEST(no_interleaving_counts_more_than_the_clip_or_a_peer_twice)
{
	int round, i;

	newest = 2;
	depth = 1;
	for (round = 0; round < 20000; round++) {
		if (!(chance() % 16))
			newest += newest < EPOCHS_SEEN - 1;
		packet();
	}
	depth = 0;
	CHECK(newest > 100);
	for (i = 1; i <= (int)newest; i++) {
		CHECK(counted[i] <= CLIP);
		CHECK(said[i] <= 1);
		CHECK(firsts[i] <= 1);
	}
}
