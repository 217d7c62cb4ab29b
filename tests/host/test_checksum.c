/* SPDX-License-Identifier: GPL-2.0-only */
#include "checksum.h"
#include "runner.h"

#define WORDS 32

/* RFC 1071, section 4.1, over whole words: the long way, which the short one must agree with. */
static __sum16 full(const __be16 *words, int count)
{
	__u32 sum = 0;
	int at;

	for (at = 0; at < count; at++)
		sum += words[at];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Words with many zeros and ones, where carries go wrong. The last one keeps the sum from being zero. */
static void fill(__be16 *words)
{
	static const __be16 edges[] = { 0, 0xffff, 1, 0xff00, 0x8000, 0xfffe };
	int at;

	for (at = 0; at < WORDS; at++)
		words[at] = chance() % 2 ? edges[chance() % 6] : chance();
	words[WORDS - 1] = 0x4500;
}

TEST(a_changed_word_gives_the_full_sum)
{
	__be16 words[WORDS], old;
	__sum16 checksum;
	int round, at;

	for (round = 0; round < 200000; round++) {
		fill(words);
		checksum = full(words, WORDS);
		at = chance() % (WORDS - 1);
		old = words[at];
		words[at] = round % 3 ? chance() : old ^ 0xffff;
		CHECK_EQUAL(checksum_apply(checksum, sum_change16(0, old, words[at])), full(words, WORDS));
	}
}

TEST(a_changed_pair_of_words_gives_the_full_sum)
{
	__be16 words[WORDS];
	__be32 old, new;
	__sum16 checksum;
	int round, at;

	for (round = 0; round < 200000; round++) {
		fill(words);
		checksum = full(words, WORDS);
		at = chance() % (WORDS / 2 - 1) * 2;
		new = round % 3 ? chance() : 0xffffffff;
		memcpy(&old, words + at, sizeof(old));
		memcpy(words + at, &new, sizeof(new));
		CHECK_EQUAL(checksum_apply(checksum, sum_change32(0, old, new)), full(words, WORDS));
	}
}

/* An address at word 4 and a port at word 0 change together, as a translation changes them. */
TEST(a_changed_address_and_port_give_the_full_sum)
{
	__be16 words[WORDS], replacement[WORDS];
	struct address old, new;
	__sum16 checksum;
	__u64 sum;
	int round;

	for (round = 0; round < 200000; round++) {
		fill(words);
		fill(replacement);
		checksum = full(words, WORDS);
		memcpy(&old, words + 4, sizeof(old));
		memcpy(&new, replacement, sizeof(new));
		sum = sum_change_address(0, &old, &new);
		sum = sum_change16(sum, words[0], replacement[9]);
		memcpy(words + 4, &new, sizeof(new));
		words[0] = replacement[9];
		CHECK_EQUAL(checksum_apply(checksum, sum), full(words, WORDS));
	}
}

TEST(a_change_and_its_undoing_leave_the_sum)
{
	__sum16 checksum;
	__be32 old, new;
	int round;

	for (round = 0; round < 200000; round++) {
		/* 0xffff is no sum of a packet that is not all zeros. */
		checksum = chance() % 0xffff;
		old = chance();
		new = chance();
		CHECK_EQUAL(checksum_apply(checksum, sum_change32(sum_change32(0, old, new), new, old)), checksum);
	}
}

TEST(the_prefix_of_mapped_addresses_cancels_out)
{
	struct address old = { { 0 } }, new = { { 0 } };
	__be32 from, to;

	old.bytes[10] = old.bytes[11] = new.bytes[10] = new.bytes[11] = 0xff;
	memcpy(old.bytes + 12, "\x0a\x40\x03\x04", 4);
	memcpy(new.bytes + 12, "\xcb\x00\x71\x0a", 4);
	memcpy(&from, old.bytes + 12, sizeof(from));
	memcpy(&to, new.bytes + 12, sizeof(to));
	CHECK_EQUAL(sum_fold16(sum_change_address(0, &old, &new)), sum_fold16(sum_change32(0, from, to)));
}

TEST(folding_keeps_the_value_modulo_ffff)
{
	__u64 sum;
	int round;

	CHECK_EQUAL(sum_fold16(0), 0);
	CHECK_EQUAL(sum_fold16(~0ull), 0xffff);
	CHECK_EQUAL(sum_fold32(~0ull), 0xffffffff);
	for (round = 0; round < 200000; round++) {
		sum = chance() >> chance() % 64;
		CHECK_EQUAL(sum_fold16(sum) % 0xffff, sum % 0xffff);
		CHECK_EQUAL(sum_fold32(sum) % 0xffff, sum % 0xffff);
	}
}
