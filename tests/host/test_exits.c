/* SPDX-License-Identifier: GPL-2.0-only */
#include <arpa/inet.h>

#include "exits.h"
#include "runner.h"

static __be32 v4(const char *text)
{
	__be32 word;

	CHECK(inet_pton(AF_INET, text, &word) == 1);
	return word;
}

static const __be32 *v6(const char *text)
{
	static __be32 words[4];

	CHECK(inet_pton(AF_INET6, text, words) == 1);
	return words;
}

TEST(every_exit_address_has_its_index)
{
	CHECK_EQUAL(exit_index_v4(v4("203.0.113.10")), 0);
	CHECK_EQUAL(exit_index_v4(v4("203.0.113.11")), 1);
	CHECK_EQUAL(exit_index_v6(v6("2001:db8::a")), 2);
	CHECK_EQUAL(exit_index_v6(v6("2001:db8::1:a")), 3);
}

TEST(its_neighbours_have_none)
{
	CHECK_EQUAL(exit_index_v4(v4("203.0.113.9")), NO_EXIT);
	CHECK_EQUAL(exit_index_v4(v4("10.113.0.203")), NO_EXIT);
	CHECK_EQUAL(exit_index_v4(0), NO_EXIT);
	CHECK_EQUAL(exit_index_v6(v6("2001:db8::b")), NO_EXIT);
	CHECK_EQUAL(exit_index_v6(v6("2001:db9::a")), NO_EXIT);
	CHECK_EQUAL(exit_index_v6(v6("2001:db8:0:1::a")), NO_EXIT);
	CHECK_EQUAL(exit_index_v6(v6("::")), NO_EXIT);
}

TEST(an_index_gives_back_its_address)
{
	static const char *const texts[] = { "::ffff:203.0.113.10", "::ffff:203.0.113.11", "2001:db8::a",
					     "2001:db8::1:a" };
	struct address address;
	__u32 index;

	for (index = 0; index < EXITS; index++) {
		exit_address(index, &address);
		CHECK(!memcmp(&address, v6(texts[index]), sizeof(address)));
	}
	exit_address(EXITS, &address);
	CHECK(!memcmp(&address, v6("::"), sizeof(address)));
}

TEST(inside_is_within_one_of_the_networks)
{
	CHECK(is_inner_v4(v4("10.64.0.0")) && is_inner_v4(v4("10.64.255.255")) && is_inner_v4(v4("10.65.0.7")));
	CHECK(!is_inner_v4(v4("10.63.255.255")) && !is_inner_v4(v4("10.65.1.0")) && !is_inner_v4(v4("0.0.64.10")));
	CHECK(is_inner_v6(v6("fd00::")) && is_inner_v6(v6("fd00::ffff:ffff:ffff:ffff")));
	CHECK(!is_inner_v6(v6("fd00:0:0:1::")) && !is_inner_v6(v6("fc00::1")));
}

TEST(the_nodes_addresses_on_its_tunnels_are_known)
{
	CHECK(is_tunnel_v4(v4("10.64.0.1")) && !is_tunnel_v4(v4("10.64.0.2")));
	CHECK(is_tunnel_v6(v6("fd00::1")) && !is_tunnel_v6(v6("fd00::2")));
}
