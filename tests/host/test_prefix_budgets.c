/* SPDX-License-Identifier: GPL-2.0-only */
#include "prefix_budgets.h"
#include "runner.h"

#define START (3600 * NS_PER_S)
#define RATE  10 /* a second */
#define TAG   0xabcdull

static __u64 spend(__u64 word, __u64 now_ns)
{
	bool fresh;

	return budget_spend(word, TAG, RATE, now_ns, &fresh);
}

static bool is_fresh(__u64 word, __u64 now_ns)
{
	bool fresh;

	budget_spend(word, TAG, RATE, now_ns, &fresh);
	return fresh;
}

TEST(a_burst_passes_and_then_the_rate)
{
	__u64 word = 0, next, now = START;
	int passed = 0, i;

	while ((next = spend(word, now))) {
		word = next;
		passed++;
	}
	CHECK_EQUAL(passed, RATE + 1);
	for (passed = i = 0; i < 1000; i++) {
		now += NS_PER_S / 100;
		next = spend(word, now);
		if (!next)
			continue;
		word = next;
		passed++;
	}
	CHECK(passed >= 10 * RATE - 1 && passed <= 10 * RATE + 1);
}

TEST(the_word_of_another_prefix_says_nothing)
{
	__u64 spent = 0, next;

	while ((next = spend(spent, START)))
		spent = next;
	CHECK(!spend(spent, START));
	CHECK(spend(spent ^ 1ull << 48, START));
	CHECK(is_fresh(spent ^ 1ull << 48, START));
}

TEST(who_was_silent_for_as_long_as_an_honest_client_is_fresh)
{
	__u64 word = spend(0, START), paid = START + NS_PER_S / RATE;

	CHECK(is_fresh(0, START));
	CHECK(!is_fresh(word, START));
	CHECK(!is_fresh(word, paid + BUDGET_FRESH_NS - 2048));
	CHECK(is_fresh(word, paid + BUDGET_FRESH_NS + 2048));
	CHECK(is_fresh(word, START + 5 * NS_PER_S));
}

TEST(eight_prefixes_of_a_line_have_their_own_words_and_the_ninth_takes_the_oldest)
{
	struct budget_line line = { { 0 } };
	bool fresh;
	__u64 tag;
	__u32 way;

	for (tag = 1; tag <= BUDGET_WAYS; tag++) {
		way = budget_way(&line, tag);
		CHECK_EQUAL(line.word[way], 0);
		line.word[way] = budget_spend(0, tag, RATE, START + tag * NS_PER_S, &fresh);
	}
	for (tag = 1; tag <= BUDGET_WAYS; tag++)
		CHECK_EQUAL(line.word[budget_way(&line, tag)] >> 48, tag);
	CHECK_EQUAL(line.word[budget_way(&line, 99)] >> 48, 1);
}

TEST(no_tag_is_that_of_a_free_word)
{
	CHECK(budget_tag(0));
	CHECK(budget_tag(0xfffeull << 32));
}

TEST(only_what_says_nothing_is_forgotten)
{
	__u64 word = spend(0, START), paid = START + NS_PER_S / RATE;

	CHECK(!budget_is_forgotten(0, START));
	CHECK(!budget_is_forgotten(word, paid + BUDGET_FORGOTTEN_NS - 2048));
	CHECK(budget_is_forgotten(word, paid + BUDGET_FORGOTTEN_NS + 4096));
}

TEST(after_years_the_arithmetic_still_holds)
{
	__u64 now = 8ull * 365 * 86400 * NS_PER_S, word = spend(0, now);

	CHECK_EQUAL(word >> 48, TAG);
	CHECK(!is_fresh(word, now + NS_PER_S));
	CHECK(is_fresh(word, now + 5 * NS_PER_S));
}

TEST(at_the_highest_rate_every_handshake_passes)
{
	bool fresh;

	CHECK(budget_spend(0, TAG, 1000000, START, &fresh));
}
