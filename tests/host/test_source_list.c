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

TEST(every_place_lies_within_its_map)
{
	int round;

	for (round = 0; round < 100000; round++) {
		__u32 number = chance();

		CHECK(source_filter_place((__be32)number) < 1 << SOURCE_FILTER_BITS);
		CHECK(source_line_index(0, (__u64)number << 32) < SOURCE_LINES);
		CHECK(source_line_index(1, (__u64)number << 32) >= SOURCE_LINES);
		CHECK(source_line_index(1, ~0xffffull) < 2 * SOURCE_LINES);
		CHECK(known_word(1, number) < 2 * KNOWN_WORDS);
		CHECK(known_bit(number) != 0);
	}
}

TEST(a_48_has_an_entry_of_its_own)
{
	struct address source = { { 0x2a, 1, 0, 4, 0, 5, 9, 9, 9 } };
	__u64 key = source_v6_key(&source);
	struct source_line line = {};

	CHECK_EQUAL(key, 0x2a01000400050000ull);
	CHECK_EQUAL(source_v6_field(&line, key), SOURCE_UNLISTED);
	line.entry[0] = 0x2a01000400060000ull | SOURCE_BLOCKED;
	CHECK_EQUAL(source_v6_field(&line, key), SOURCE_UNLISTED);
	line.entry[1] = key | SOURCE_BOGON;
	CHECK_EQUAL(source_v6_field(&line, key), SOURCE_BOGON);
	line.entry[1] = key | SOURCE_IN_PART;
	CHECK_EQUAL(source_v6_field(&line, key), SOURCE_IN_PART);
}

TEST(the_entry_of_32_addresses_has_a_bit_for_each)
{
	__be32 none = v4(203, 0, 113, 64), first = v4(203, 0, 113, 96), last = v4(203, 0, 113, 127);
	struct source_line line = {};

	CHECK_EQUAL(source_v4_key(first), source_v4_key(last));
	CHECK(source_v4_key(first) != source_v4_key(none));
	line.entry[0] = 0xffffffffull << 32 | source_v4_key(v4(203, 0, 114, 96));
	CHECK_EQUAL(source_v4_field(&line, last), SOURCE_UNLISTED);
	line.entry[1] = 1ull << 63 | source_v4_key(first);
	CHECK_EQUAL(source_v4_field(&line, last), SOURCE_BLOCKED);
	CHECK_EQUAL(source_v4_field(&line, first), SOURCE_UNLISTED);
	line.entry[SOURCE_LINE_ENTRIES - 1] = 1;
	CHECK_EQUAL(source_v4_field(&line, first), SOURCE_UNLISTED);
	CHECK_EQUAL(source_v4_field(&line, none), SOURCE_IN_PART);
}

TEST(no_entry_of_one_family_is_one_of_the_other)
{
	struct source_line line = {};
	__u64 key;
	int round;

	for (round = 0; round < 100000; round++) {
		__u32 number = chance();

		key = 1ull << 61 | (__u64)number << 16;
		line.entry[0] = (__u64)chance() << 32 | source_v4_key((__be32)number);
		CHECK_EQUAL(source_v6_field(&line, key), SOURCE_UNLISTED);
		CHECK_EQUAL(source_v6_field(&line, line.entry[0] & ~0xffffull), SOURCE_UNLISTED);
		line.entry[0] = key | (1 + round % 3);
		CHECK_EQUAL(source_v4_field(&line, (__be32)number), SOURCE_UNLISTED);
	}
}

TEST(a_full_line_leaves_others_to_the_trie)
{
	struct source_line line;
	__u64 n;

	for (n = 0; n < SOURCE_LINE_ENTRIES; n++)
		line.entry[n] = (n + 1) << 16 | SOURCE_BLOCKED;
	CHECK_EQUAL(source_v6_field(&line, SOURCE_LINE_ENTRIES << 16), SOURCE_BLOCKED);
	CHECK_EQUAL(source_v6_field(&line, (SOURCE_LINE_ENTRIES + 1) << 16), SOURCE_IN_PART);
	line.entry[SOURCE_LINE_ENTRIES - 1] = 0;
	CHECK_EQUAL(source_v6_field(&line, (SOURCE_LINE_ENTRIES + 1) << 16), SOURCE_UNLISTED);
}

TEST(a_field_of_the_filter_has_two_bits)
{
	CHECK_EQUAL(source_filter_field(1ull << 62, 31), SOURCE_IN_LINES);
	CHECK_EQUAL(source_filter_field(2ull << 62, 63), SOURCE_IN_TRIE);
	CHECK_EQUAL(source_filter_field(~(3ull << 62), 31), 0);
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
