/* SPDX-License-Identifier: GPL-2.0-only */
/* The parser. Every packet ends where the next page is forbidden, so that a byte read beyond it ends the program. */
#include "icmp.h"
#include "packet.h"
#include "runner.h"
#include "wireguard.h"

#define ETHERNET 14

/* Where bytes go that are read only to see that they may be. */
static volatile __u32 sink;

struct bytes {
	__u8 at[256];
	__u32 size;
};

static void put(struct bytes *bytes, const void *more, __u32 size)
{
	CHECK(bytes->size + size <= sizeof(bytes->at));
	memcpy(bytes->at + bytes->size, more, size);
	bytes->size += size;
}

static void put_ethernet(struct bytes *bytes, int tags, __u16 type)
{
	static const __u8 addresses[12] = { 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2 };
	__u8 number[2] = { type >> 8, type & 0xff };

	put(bytes, addresses, sizeof(addresses));
	while (tags--)
		put(bytes, "\x81\x00\x00\x07", 4);
	put(bytes, number, sizeof(number));
}

/* IPv4 with @options words of options and a payload that ends in ones. */
static void put_ipv4(struct bytes *bytes, __u32 options, __u8 protocol, __u16 fragment, __u32 payload)
{
	struct iphdr ip = {
		.version = 4,
		.ihl = 5 + options,
		.tot_len = BE16(20 + 4 * options + payload),
		.frag_off = BE16(fragment),
		.ttl = 61,
		.protocol = protocol,
		.saddr = BE32(0xc6336407),
		.daddr = BE32(0xcb00710a),
	};
	__u8 rest[128];

	memset(rest, 1, sizeof(rest)); /* as options these are NOPs */
	put(bytes, &ip, sizeof(ip));
	put(bytes, rest, 4 * options);
	put(bytes, rest, payload);
}

static void put_ipv6(struct bytes *bytes, __u8 next, __u32 payload)
{
	struct ipv6hdr ip = {
		.version = 6,
		.nexthdr = next,
		.payload_len = BE16(payload),
		.hop_limit = 61,
	};

	memset(&ip.saddr, 0x11, sizeof(ip.saddr));
	memset(&ip.daddr, 0x22, sizeof(ip.daddr));
	put(bytes, &ip, sizeof(ip));
}

/* An extension of 8 * (1 + @units) bytes. */
static void put_extension(struct bytes *bytes, __u8 next, __u8 units)
{
	__u8 extension[64] = { next, units };

	put(bytes, extension, 8 * (1 + units));
}

static void put_ipv6_fragment(struct bytes *bytes, __u8 next, __u16 offset_and_more)
{
	__u8 fragment[8] = { next, 0, offset_and_more >> 8, offset_and_more & 0xff, 0, 0, 0, 7 };

	put(bytes, fragment, sizeof(fragment));
}

static void put_ones(struct bytes *bytes, __u32 size)
{
	while (size--)
		put(bytes, "\x01", 1);
}

/* Parse the first @size bytes at a forbidden page, and read everything that the parser says is there. */
static enum parse parse(const struct bytes *bytes, __u32 size, struct packet *packet)
{
	__u8 *start = place(bytes->at, size);
	struct cursor cursor = { .position = start, .end = start + size };
	const struct icmp_header *icmp;
	const struct tcphdr *tcp;
	const struct udphdr *udp;
	struct address address;
	enum parse result;
	__be16 type;

	memset(packet, 0xee, sizeof(*packet));
	result = parse_ethernet(&cursor, &type);
	if (result != PARSE_OK)
		return result;
	result = parse_ip(&cursor, type, cursor.end - cursor.position, packet);
	if (result != PARSE_OK)
		return result;
	CHECK((__u8 *)packet->network >= start + ETHERNET && packet->transport <= packet->end);
	CHECK((__u8 *)packet->end == start + size);
	CHECK((__u8 *)packet->transport - (__u8 *)packet->network == packet->header_length);
	CHECK(packet->header_length <= packet->length);
	CHECK((__u8 *)packet->network + packet->length <= (__u8 *)packet->end);
	packet_source(packet, &address);
	packet_destination(packet, &address);
	tcp = packet_tcp(packet);
	udp = packet_udp(packet);
	icmp = packet_icmp(packet);
	if (tcp)
		sink = tcp->doff + tcp->urg_ptr;
	if (udp)
		sink = udp->check + is_wireguard_message(packet, udp);
	if (icmp)
		sink = icmp->sequence;
	return result;
}

/* The same packets, whole and cut short at every byte: whole they are read, cut they are malformed. */
static void parse_whole_and_cut(const struct bytes *bytes, struct packet *packet)
{
	__u32 size;

	for (size = 0; size < bytes->size; size++)
		CHECK_EQUAL(parse(bytes, size, packet), PARSE_MALFORMED);
	CHECK_EQUAL(parse(bytes, bytes->size, packet), PARSE_OK);
}

TEST(ipv4_is_read)
{
	struct bytes bytes = { .size = 0 };
	struct address source, destination;
	struct packet packet;

	put_ethernet(&bytes, 0, ETH_P_IP);
	put_ipv4(&bytes, 0, IPPROTO_UDP, 0x4000, 16);
	parse_whole_and_cut(&bytes, &packet);
	CHECK_EQUAL(packet.family, FAMILY_V4);
	CHECK_EQUAL(packet.length, 36);
	CHECK_EQUAL(packet.header_length, 20);
	CHECK_EQUAL(packet.protocol, IPPROTO_UDP);
	CHECK_EQUAL(packet.hop_limit, 61);
	CHECK_EQUAL(packet.fragment, FRAGMENT_NONE);
	CHECK_EQUAL(packet.options, 0);
	packet_source(&packet, &source);
	packet_destination(&packet, &destination);
	CHECK(!memcmp(&source, "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc6\x33\x64\x07", 16));
	CHECK(!memcmp(&destination, "\0\0\0\0\0\0\0\0\0\0\xff\xff\xcb\x00\x71\x0a", 16));
}

TEST(ipv6_is_read)
{
	struct bytes bytes = { .size = 0 };
	struct packet packet;
	struct address source;

	put_ethernet(&bytes, 0, ETH_P_IPV6);
	put_ipv6(&bytes, IPPROTO_UDP, 16);
	put_ones(&bytes, 16);
	parse_whole_and_cut(&bytes, &packet);
	CHECK_EQUAL(packet.family, FAMILY_V6);
	CHECK_EQUAL(packet.length, 56);
	CHECK_EQUAL(packet.header_length, 40);
	CHECK_EQUAL(packet.protocol, IPPROTO_UDP);
	CHECK_EQUAL(packet.hop_limit, 61);
	CHECK_EQUAL(packet.fragment, FRAGMENT_NONE);
	packet_source(&packet, &source);
	CHECK_EQUAL(source.bytes[0], 0x11);
	CHECK_EQUAL(source.bytes[15], 0x11);
}

TEST(up_to_two_vlan_tags_are_stepped_over)
{
	struct packet packet;
	int tags;

	for (tags = 0; tags <= 3; tags++) {
		struct bytes bytes = { .size = 0 };

		put_ethernet(&bytes, tags, ETH_P_IP);
		put_ipv4(&bytes, 0, IPPROTO_UDP, 0, 8);
		if (tags <= 2)
			parse_whole_and_cut(&bytes, &packet);
		else
			CHECK_EQUAL(parse(&bytes, bytes.size, &packet), PARSE_NOT_IP);
	}
}

TEST(every_length_of_ipv4_options_is_stepped_over)
{
	struct packet packet;
	__u32 options;

	for (options = 1; options <= 10; options++) {
		struct bytes bytes = { .size = 0 };

		put_ethernet(&bytes, 0, ETH_P_IP);
		put_ipv4(&bytes, options, IPPROTO_TCP, 0, 20);
		parse_whole_and_cut(&bytes, &packet);
		CHECK_EQUAL(packet.header_length, 20 + 4 * options);
		CHECK(packet.options);
	}
}

TEST(ipv4_fragments_are_told_apart)
{
	static const struct {
		__u16 field;
		__u8 fragment;
	} cases[] = {
		{ 0x0000, FRAGMENT_NONE },  { 0x4000, FRAGMENT_NONE },  { 0x2000, FRAGMENT_FIRST },
		{ 0x6000, FRAGMENT_FIRST }, { 0x2001, FRAGMENT_LATER }, { 0x0001, FRAGMENT_LATER },
		{ 0x1fff, FRAGMENT_LATER }, { 0x1000, FRAGMENT_LATER }, { 0x8000, FRAGMENT_NONE },
	};
	struct packet packet;
	unsigned int at;

	for (at = 0; at < sizeof(cases) / sizeof(cases[0]); at++) {
		struct bytes bytes = { .size = 0 };

		put_ethernet(&bytes, 0, ETH_P_IP);
		put_ipv4(&bytes, 0, IPPROTO_UDP, cases[at].field, 8);
		CHECK_EQUAL(parse(&bytes, bytes.size, &packet), PARSE_OK);
		CHECK_EQUAL(packet.fragment, cases[at].fragment);
	}
}

TEST(ipv6_extensions_are_walked_within_a_bound)
{
	struct packet packet;
	int count, at;

	for (count = 1; count <= MAX_IPV6_EXTENSIONS + 1; count++) {
		struct bytes bytes = { .size = 0 };

		put_ethernet(&bytes, 0, ETH_P_IPV6);
		put_ipv6(&bytes, IPPROTO_HOPOPTS, 16 * count + 8);
		for (at = 1; at <= count; at++)
			put_extension(&bytes, at == count ? IPPROTO_UDP : IPPROTO_DSTOPTS, 1);
		put_ones(&bytes, 8);
		parse_whole_and_cut(&bytes, &packet);
		at = count <= MAX_IPV6_EXTENSIONS ? count : MAX_IPV6_EXTENSIONS;
		CHECK_EQUAL(packet.header_length, 40 + 16 * at);
		CHECK_EQUAL(packet.protocol, count <= MAX_IPV6_EXTENSIONS ? IPPROTO_UDP : IPPROTO_DSTOPTS);
	}
}

TEST(ipv6_fragments_are_told_apart)
{
	static const struct {
		__u16 field;
		__u8 fragment;
	} cases[] = {
		{ 0x0000, FRAGMENT_NONE }, /* atomic, RFC 6946 */
		{ 0x0006, FRAGMENT_NONE }, /* reserved bits */
		{ 0x0001, FRAGMENT_FIRST }, { 0x0009, FRAGMENT_LATER }, { 0xfff8, FRAGMENT_LATER },
	};
	struct packet packet;
	unsigned int at;

	for (at = 0; at < sizeof(cases) / sizeof(cases[0]); at++) {
		struct bytes bytes = { .size = 0 };

		put_ethernet(&bytes, 0, ETH_P_IPV6);
		put_ipv6(&bytes, IPPROTO_FRAGMENT, 16);
		put_ipv6_fragment(&bytes, IPPROTO_UDP, cases[at].field);
		put_ones(&bytes, 8);
		parse_whole_and_cut(&bytes, &packet);
		CHECK_EQUAL(packet.fragment, cases[at].fragment);
		CHECK_EQUAL(packet.protocol, IPPROTO_UDP);
		CHECK_EQUAL(packet.header_length, 48);
	}
}

TEST(nothing_is_read_behind_the_header_of_a_later_ipv6_fragment)
{
	struct bytes bytes = { .size = 0 };
	struct packet packet;

	put_ethernet(&bytes, 0, ETH_P_IPV6);
	put_ipv6(&bytes, IPPROTO_FRAGMENT, 16);
	put_ipv6_fragment(&bytes, IPPROTO_DSTOPTS, 0x0009);
	put_ones(&bytes, 8); /* payload that would make an extension of 16 bytes */
	parse_whole_and_cut(&bytes, &packet);
	CHECK_EQUAL(packet.protocol, IPPROTO_DSTOPTS);
}

TEST(options_behind_a_fragment_header_are_walked_over_in_whole_packets_only)
{
	static const struct {
		__u16 field;
		__u8 protocol;
	} cases[] = { { 0x0000, IPPROTO_UDP }, { 0x0001, IPPROTO_DSTOPTS } };
	struct packet packet;
	unsigned int at;

	for (at = 0; at < sizeof(cases) / sizeof(*cases); at++) {
		struct bytes bytes = { .size = 0 };

		put_ethernet(&bytes, 0, ETH_P_IPV6);
		put_ipv6(&bytes, IPPROTO_FRAGMENT, 24);
		put_ipv6_fragment(&bytes, IPPROTO_DSTOPTS, cases[at].field);
		put_extension(&bytes, IPPROTO_UDP, 0);
		put_ones(&bytes, 8);
		parse_whole_and_cut(&bytes, &packet);
		CHECK_EQUAL(packet.protocol, cases[at].protocol);
	}
}

TEST(nothing_is_believed_behind_a_routing_header)
{
	struct bytes bytes = { .size = 0 };
	struct packet packet;

	put_ethernet(&bytes, 0, ETH_P_IPV6);
	put_ipv6(&bytes, IPPROTO_ROUTING, 16);
	put_extension(&bytes, IPPROTO_UDP, 0);
	put_ones(&bytes, 8);
	parse_whole_and_cut(&bytes, &packet);
	CHECK_EQUAL(packet.protocol, IPPROTO_ROUTING);
}

TEST(headers_that_contradict_themselves_are_malformed)
{
	static const struct {
		__u8 offset; /* into the IP header */
		__u8 value;
	} ipv4[] = { { 0, 0x44 }, { 0, 0x40 }, { 0, 0x55 }, { 0, 0x65 }, { 0, 0x05 },
		     { 0, 0x4f }, { 3, 19 },   { 3, 0 },    { 2, 1 } };
	struct bytes bytes = { .size = 0 }, six = { .size = 0 };
	struct packet packet;
	unsigned int at;

	put_ethernet(&bytes, 0, ETH_P_IP);
	put_ipv4(&bytes, 0, IPPROTO_UDP, 0, 8);
	for (at = 0; at < sizeof(ipv4) / sizeof(ipv4[0]); at++) {
		struct bytes wrong = bytes;

		wrong.at[ETHERNET + ipv4[at].offset] = ipv4[at].value;
		CHECK_EQUAL(parse(&wrong, wrong.size, &packet), PARSE_MALFORMED);
	}
	put_ethernet(&six, 0, ETH_P_IPV6);
	put_ipv6(&six, IPPROTO_DSTOPTS, 7); /* less than its extension */
	put_extension(&six, IPPROTO_UDP, 0);
	CHECK_EQUAL(parse(&six, six.size, &packet), PARSE_MALFORMED);
	six.at[ETHERNET] = 0x40;
	CHECK_EQUAL(parse(&six, six.size, &packet), PARSE_MALFORMED);
}

TEST(the_ip_length_bounds_the_transport_header_and_not_the_frame)
{
	static const struct {
		__u8 protocol;
		__u32 size;
	} cases[] = { { IPPROTO_TCP, 20 }, { IPPROTO_UDP, 8 }, { IPPROTO_ICMP, 8 } };
	struct packet packet;
	unsigned int at;
	__u32 payload;

	for (at = 0; at < sizeof(cases) / sizeof(cases[0]); at++) {
		for (payload = 0; payload <= cases[at].size; payload++) {
			struct bytes bytes = { .size = 0 };
			bool whole = payload == cases[at].size;

			put_ethernet(&bytes, 0, ETH_P_IP);
			put_ipv4(&bytes, 0, cases[at].protocol, 0, payload);
			bytes.at[ETHERNET + 20 + 12] = 0x50; /* TCP: a header of 20 bytes */
			bytes.size = 64;
			CHECK_EQUAL(parse(&bytes, bytes.size, &packet), PARSE_OK);
			if (cases[at].protocol == IPPROTO_TCP)
				CHECK_EQUAL(!!packet_tcp(&packet), whole);
			else if (cases[at].protocol == IPPROTO_UDP)
				CHECK_EQUAL(!!packet_udp(&packet), whole);
			else
				CHECK_EQUAL(!!packet_icmp(&packet), whole);
		}
	}
}

TEST(a_packet_inside_an_error_may_be_cut_short_behind_its_headers)
{
	struct bytes bytes = { .size = 0 };
	struct packet packet;
	struct cursor cursor;
	__u32 size;
	__u8 *start;

	put_ipv4(&bytes, 0, IPPROTO_UDP, 0, 100);
	bytes.at[20 + 12] = 0x50; /* as TCP: a header of 20 bytes */
	for (size = 0; size <= bytes.size; size++) {
		start = place(bytes.at, size);
		cursor = (struct cursor){ .position = start, .end = start + size };
		CHECK_EQUAL(parse_ip(&cursor, BE16(ETH_P_IP), LENGTH_UNKNOWN, &packet),
			    size < 20 ? PARSE_MALFORMED : PARSE_OK);
		if (size < 20)
			continue;
		CHECK_EQUAL(!!packet_udp(&packet), size >= 28);
		CHECK_EQUAL(!!packet_icmp(&packet), size >= 28);
		CHECK_EQUAL(!!packet_tcp(&packet), size >= 40);
	}
}

TEST(no_junk_leads_the_parser_out_of_the_packet)
{
	static const __u16 types[] = { ETH_P_IP, ETH_P_IPV6, ETH_P_8021Q, ETH_P_8021AD, ETH_P_ARP };
	static const __u8 next[] = { IPPROTO_HOPOPTS, IPPROTO_DSTOPTS, IPPROTO_FRAGMENT, IPPROTO_TCP, IPPROTO_UDP };
	__u32 round, at, size, seen[3] = { 0 };
	struct packet packet;

	for (round = 0; round < 100000; round++) {
		struct bytes bytes = { .size = 0 };

		size = chance() % 200;
		put_ethernet(&bytes, chance() % 3, types[chance() % 5]);
		for (at = bytes.size; at < sizeof(bytes.at); at++)
			bytes.at[at] = chance() % 4 ? chance() % 4 : chance();
		/* Let most of them begin well, or the deep parts are seldom reached. */
		at = bytes.size;
		if (chance() % 8)
			bytes.at[at] = chance() % 2 ? 0x45 + chance() % 3 : 0x60;
		if (chance() % 8) {
			bytes.at[at + 2] = bytes.at[at + 4] = 0;
			bytes.at[at + 3] = 20 + chance() % 100;
		}
		if (chance() % 2)
			bytes.at[at + 6] = next[chance() % 5];
		seen[parse(&bytes, size, &packet)]++;
	}
	CHECK(seen[PARSE_OK] > 5000 && seen[PARSE_MALFORMED] > 5000 && seen[PARSE_NOT_IP] > 1000);
}
