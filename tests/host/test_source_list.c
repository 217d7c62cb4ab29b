/* SPDX-License-Identifier: GPL-2.0-only */
#include "known_sources.h"
#include "packet.h"
#include "runner.h"
#include "source_list.h"

static __be32 v4(__u8 a, __u8 b, __u8 c, __u8 d)
{
	return (__be32)((__u32)a | (__u32)b << 8 | (__u32)c << 16 | (__u32)d << 24);
}

TEST(each_24_has_a_field_of_its_own)
{
	CHECK_EQUAL(source_word_index(0, v4(0, 0, 0, 0)), 0);
	CHECK_EQUAL(source_word_index(0, v4(0, 0, 31, 255)), 0);
	CHECK_EQUAL(source_word_index(0, v4(0, 0, 32, 0)), 1);
	CHECK_EQUAL(source_word_index(1, v4(255, 255, 255, 255)), 2 * SOURCE_WORDS - 1);
	CHECK_EQUAL(source_field(3ull << 62, v4(10, 0, 31, 9)), 3);
	CHECK_EQUAL(source_field(~(3ull << 62), v4(10, 0, 31, 9)), 0);
	CHECK_EQUAL(source_field(2, v4(10, 0, 32, 9)), 2);
}

TEST(each_address_of_a_24_has_a_bit_of_its_own)
{
	struct source_leaf leaf = {};
	int last;

	leaf.listed[3] = 1ull << 63;
	leaf.listed[0] = 1;
	for (last = 0; last < 256; last++)
		CHECK_EQUAL(source_leaf_has(&leaf, v4(1, 2, 3, last)), last == 0 || last == 255);
}

TEST(the_halves_share_nothing)
{
	CHECK(source_leaf_key(0, v4(1, 2, 3, 4)) != source_leaf_key(1, v4(1, 2, 3, 4)));
	CHECK_EQUAL(source_leaf_key(1, v4(1, 2, 3, 4)), 1ull << 32 | 0x010203);
	CHECK(known_word(0, 0xffffffff) < KNOWN_WORDS);
	CHECK_EQUAL(known_word(1, 0xffffffff), 2 * KNOWN_WORDS - 1);
}

TEST(every_bit_of_the_filters_lies_within_them)
{
	int round;

	for (round = 0; round < 100000; round++) {
		__u32 number = chance();

		CHECK(source_filter_bit((__be32)number) < 1 << SOURCE_FILTER_BITS);
		CHECK(known_word(1, number) < 2 * KNOWN_WORDS);
		CHECK(known_bit(number) != 0);
	}
}

TEST(global_unicast_begins_with_001)
{
	CHECK(is_global_unicast((__be32)BE32(0x20010db8)));
	CHECK(is_global_unicast((__be32)BE32(0x3fffffff)));
	CHECK(!is_global_unicast((__be32)BE32(0x40000000)));
	CHECK(!is_global_unicast((__be32)BE32(0x1fffffff)));
	CHECK(!is_global_unicast((__be32)BE32(0xfe800000)));
}

TEST(a_prefix_has_one_hash_and_another_prefix_another)
{
	struct secret secret = { { 1, 2 } };
	struct address one = { { 0x20, 1, 0xd, 0xb8, 1, 2, 3, 4, 5 } }, same = one, other = one, four = {}, five;

	same.bytes[15] = 9;
	other.bytes[7] = 9;
	CHECK_EQUAL(source_prefix_hash(&secret, &one, false), source_prefix_hash(&secret, &same, false));
	CHECK(source_prefix_hash(&secret, &one, false) != source_prefix_hash(&secret, &other, false));
	address_from_v4(&four, v4(10, 0, 0, 1));
	five = four;
	five.bytes[15] = 2;
	CHECK(source_prefix_hash(&secret, &four, true) != source_prefix_hash(&secret, &five, true));
	CHECK_EQUAL(one.bytes[8], 5);
}
