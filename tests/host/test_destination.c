/* SPDX-License-Identifier: GPL-2.0-only */
#include <arpa/inet.h>

#include "destination.h"
#include "runner.h"

static enum destination v4(const char *text)
{
	__be32 word;

	CHECK(inet_pton(AF_INET, text, &word) == 1);
	return destination_v4(word);
}

static enum destination v6(const char *text)
{
	__be32 words[4];

	CHECK(inet_pton(AF_INET6, text, words) == 1);
	return destination_v6(words);
}

TEST(what_the_policy_denies_is_denied_up_to_its_last_address)
{
	CHECK_EQUAL(v4("9.255.255.255"), DESTINATION_INTERNET);
	CHECK_EQUAL(v4("10.0.0.0"), DESTINATION_DENIED);
	CHECK_EQUAL(v4("10.255.255.255"), DESTINATION_DENIED);
	CHECK_EQUAL(v4("11.0.0.0"), DESTINATION_INTERNET);
	CHECK_EQUAL(v4("192.0.2.77"), DESTINATION_DENIED);
	CHECK_EQUAL(v6("2001:db8:4:ffff::1"), DESTINATION_INTERNET);
	CHECK_EQUAL(v6("2001:db8:5::"), DESTINATION_DENIED);
	CHECK_EQUAL(v6("2001:db8:5:ffff:ffff:ffff:ffff:ffff"), DESTINATION_DENIED);
	CHECK_EQUAL(v6("2001:db8:6::"), DESTINATION_INTERNET);
}

TEST(what_it_allows_is_reached_in_spite_of_that)
{
	CHECK_EQUAL(v4("10.1.2.3"), DESTINATION_INTERNET);
	CHECK_EQUAL(v4("10.2.0.0"), DESTINATION_DENIED);
	CHECK_EQUAL(v6("2001:db8:5:1::9"), DESTINATION_INTERNET);
	CHECK_EQUAL(v6("2001:db8:5:2::9"), DESTINATION_DENIED);
}

TEST(the_node_itself_subscribers_and_exits_are_what_they_are)
{
	CHECK_EQUAL(v4("192.0.2.1"), DESTINATION_INNER);
	CHECK_EQUAL(v6("2001:db8:5::1"), DESTINATION_INNER);
	CHECK_EQUAL(v4("10.64.0.1"), DESTINATION_NODE);
	CHECK_EQUAL(v4("10.64.9.9"), DESTINATION_INNER);
	CHECK_EQUAL(v4("203.0.113.10"), DESTINATION_EXIT);
	CHECK_EQUAL(v4("169.254.169.254"), DESTINATION_UNROUTABLE);
}

TEST(an_ipv4_address_inside_an_ipv6_one_is_judged_as_itself)
{
	CHECK_EQUAL(v6("2002:a00:1::5"), DESTINATION_DENIED); /* 10.0.0.1 */
	CHECK_EQUAL(v6("64:ff9b::10.0.0.1"), DESTINATION_DENIED);
	CHECK_EQUAL(v6("64:ff9b::169.254.169.254"), DESTINATION_DENIED);
	CHECK_EQUAL(v6("2002:a9fe:a9fe::1"), DESTINATION_DENIED);
	CHECK_EQUAL(v6("64:ff9b::127.0.0.1"), DESTINATION_DENIED);
	CHECK_EQUAL(v6("64:ff9b::10.64.9.9"), DESTINATION_DENIED);
	CHECK_EQUAL(v6("64:ff9b::192.0.2.1"), DESTINATION_DENIED);
	CHECK_EQUAL(v6("64:ff9b::10.1.0.1"), DESTINATION_INTERNET);
	CHECK_EQUAL(v6("64:ff9b::198.51.100.7"), DESTINATION_INTERNET);
	CHECK_EQUAL(v6("2002:c633:6407::1"), DESTINATION_INTERNET);
	CHECK_EQUAL(v6("::ffff:10.0.0.1"), DESTINATION_UNROUTABLE);
}

TEST(a_port_is_denied_in_its_own_protocol)
{
	CHECK(is_denied_port(PROTOCOL_TCP, 25));
	CHECK(!is_denied_port(PROTOCOL_UDP, 25));
	CHECK(!is_denied_port(PROTOCOL_ICMP, 25));
	CHECK(!is_denied_port(PROTOCOL_TCP, 24));
	CHECK(!is_denied_port(PROTOCOL_TCP, 26));
	CHECK(!is_denied_port(PROTOCOL_UDP, 6880));
	CHECK(is_denied_port(PROTOCOL_UDP, 6881));
	CHECK(is_denied_port(PROTOCOL_UDP, 6999));
	CHECK(!is_denied_port(PROTOCOL_UDP, 7000));
}
