/* SPDX-License-Identifier: GPL-2.0-only */
#include "ports.h"
#include "runner.h"

TEST(the_only_free_port_is_found_whatever_the_chance)
{
	__u32 bit, turn;

	for (bit = 0; bit < 64; bit++)
		for (turn = 0; turn < 256; turn++)
			CHECK_EQUAL(choose_clear_bit(~(1ull << bit), turn), bit);
}

TEST(a_full_block_has_no_port)
{
	__u32 turn;

	for (turn = 0; turn < 64; turn++)
		CHECK(choose_clear_bit(~0ull, turn) == NO_PORT);
}

TEST(in_an_empty_block_every_port_is_equally_likely)
{
	__u32 turn;
	__u64 seen = 0;

	for (turn = 0; turn < 64; turn++)
		seen |= 1ull << choose_clear_bit(0, turn);
	CHECK_EQUAL(seen, ~0ull);
}

TEST(every_free_port_can_be_chosen_and_no_other)
{
	__u64 used, seen;
	__u32 round, turn;

	for (round = 0; round < 20000; round++) {
		used = chance() & chance();
		if (round % 2)
			used |= chance();
		seen = 0;
		for (turn = 0; turn < 64; turn++)
			if (~used)
				seen |= 1ull << choose_clear_bit(used, turn);
		CHECK_EQUAL(seen, ~used);
	}
}

/* Half of the ports are in use, here and there: no free one may wait much longer than the others. */
TEST(no_free_port_is_starved)
{
	__u32 picked[64] = { 0 }, bit, round;
	const __u32 rounds = 640000;
	__u64 used;

	for (round = 0; round < rounds; round++) {
		do
			used = chance();
		while (!~used);
		picked[choose_clear_bit(used, chance())]++;
	}
	for (bit = 0; bit < 64; bit++)
		CHECK(picked[bit] > rounds / 64 * 95 / 100 && picked[bit] < rounds / 64 * 105 / 100);
}

TEST(bits_are_counted_as_the_compiler_counts_them)
{
	__u32 round, bit;
	__u64 word;

	CHECK_EQUAL(count_bits(0), 0);
	CHECK_EQUAL(count_bits(~0ull), 64);
	for (bit = 0; bit < 64; bit++)
		CHECK_EQUAL(count_bits(1ull << bit), 1);
	for (round = 0; round < 100000; round++) {
		word = chance();
		CHECK_EQUAL(count_bits(word), __builtin_popcountll(word));
	}
}

TEST(a_slot_gives_back_what_it_was_made_of)
{
	__u32 exit, protocol, port, slot, expected = 0;

	for (exit = 0; exit < 64; exit++) {
		for (protocol = 0; protocol < PROTOCOLS; protocol++) {
			for (port = 0; port < 65536; port++) {
				slot = binding_slot(exit, protocol, port);
				CHECK(slot == expected++);
				CHECK(slot_port(slot) == port);
				CHECK(slot_exit(slot) == exit);
				CHECK(slot_pool(slot) == pool_index(exit, protocol));
				CHECK(block_pool(slot_block(slot)) == slot_pool(slot));
				CHECK(slot_block(slot) * PORTS_PER_BLOCK + __builtin_ctzll(slot_bit(slot)) == slot);
			}
		}
	}
}

TEST(system_ports_have_blocks_of_their_own)
{
	__u32 protocol, port;

	for (protocol = 0; protocol < PROTOCOLS; protocol++)
		for (port = 0; port < 65536; port++)
			CHECK(block_is_system(slot_block(binding_slot(3, protocol, port))) == (port < 1024));
	CHECK(port_is_system(PROTOCOL_UDP, BE16(1023)));
	CHECK(port_is_system(PROTOCOL_TCP, BE16(0)));
	CHECK(!port_is_system(PROTOCOL_TCP, BE16(1024)));
	CHECK(!port_is_system(PROTOCOL_ICMP, BE16(7)));
}

TEST(no_two_peers_share_a_list_of_blocks)
{
	__u32 peer, family, protocol, expected = 0;

	for (peer = 0; peer < 100; peer++)
		for (family = 0; family < FAMILIES; family++)
			for (protocol = 0; protocol < PROTOCOLS; protocol++)
				CHECK_EQUAL(peer_blocks_index(peer, family, protocol), expected++);
}
