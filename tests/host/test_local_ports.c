/* SPDX-License-Identifier: GPL-2.0-only */
#include "local_ports.h"
#include "packet.h"
#include "runner.h"

TEST(each_port_has_a_bit_of_its_own)
{
	CHECK_EQUAL(port_place(IPPROTO_TCP, 0), 0);
	CHECK_EQUAL(port_place(IPPROTO_TCP, to_be16(65535)), 65535);
	CHECK_EQUAL(port_place(IPPROTO_UDP, 0), 65536);
	CHECK_EQUAL(port_place(IPPROTO_UDP, to_be16(65535)), PORT_WORDS * PORTS_PER_WORD - 1);
	CHECK_EQUAL(port_bit(65535), 1ull << 63);
	CHECK_EQUAL(port_bit(65536), 1);
}

TEST(a_port_is_used_while_either_half_says_so)
{
	struct local_ports ports = { .served = ~0ull };

	CHECK(!port_is_used(&ports, 70));
	port_remember(&ports, 0, 70);
	port_remember(&ports, 1, 71);
	port_remember(&ports, 1, 71);
	CHECK_EQUAL(ports.used[0], 1 << 6);
	CHECK_EQUAL(ports.used[1], 1 << 7);
	CHECK(port_is_used(&ports, 70) && port_is_used(&ports, 71) && !port_is_used(&ports, 72));
}

TEST(looks_come_back_with_time_and_no_more_than_there_were)
{
	const __u64 start = 0xffff0000; /* five minutes before 2^32, as in include/linux/jiffies.h */
	struct local_ports ports = {};
	__u64 tick, taken = 0;
	int i;

	for (i = 0; i < 1000; i++)
		taken += look_take(&ports, start);
	CHECK_EQUAL(taken, LOOKS_AT_ONCE);
	for (taken = 0, tick = start; tick < start + 100 * TICKS_PER_LOOK; tick++)
		for (i = 0; i < 1000; i++)
			taken += look_take(&ports, tick + 1);
	CHECK_EQUAL(taken, 100);
	for (taken = 0, i = 0; i < 1000; i++)
		taken += look_take(&ports, start + 0x10000);
	CHECK_EQUAL(taken, LOOKS_AT_ONCE);
	CHECK(!ports.served && !ports.used[0] && !ports.used[1]);
}
