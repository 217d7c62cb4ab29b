/* SPDX-License-Identifier: GPL-2.0-only */
#include "binding.h"
#include "runner.h"

#define NOW 1000000u /* ticks */

TEST(a_life_gives_back_what_it_was_made_of)
{
	__u32 round, sequence, tick;
	enum binding_state state;
	__u64 life;

	for (round = 0; round < 100000; round++) {
		sequence = chance();
		tick = chance();
		state = chance() % (BINDING_RESET + 1);
		life = life_make(sequence, state, tick);
		CHECK_EQUAL(life_sequence(life), sequence & SEQUENCE_MASK);
		CHECK_EQUAL(life_state(life), state);
		CHECK_EQUAL(life_tick(life), tick);
	}
}

TEST(an_empty_slot_is_nobodys)
{
	CHECK(!life_is_taken(0));
	CHECK(!life_is_live(0, PROTOCOL_UDP, 0));
	CHECK(!life_is_taken(life_make(7, BINDING_DYING, NOW)));
}

/* Seconds that a binding surely lives, and from which on it is surely over: at most two ticks more. */
static void lives(enum binding_state state, __u32 protocol, __u32 seconds)
{
	const __u64 second = 1000000000ull, start = 123456789 * second;
	__u64 life = life_make(1, state, tick_of(start));

	CHECK(life_is_live(life, protocol, tick_of(start)));
	CHECK(life_is_live(life, protocol, tick_of(start + seconds * second)));
	CHECK(!life_is_live(life, protocol, tick_of(start + (seconds + 3) * second)));
}

TEST(no_timer_is_shorter_than_configured)
{
	lives(BINDING_ACTIVE, PROTOCOL_UDP, UDP_TIMEOUT_S);
	lives(BINDING_ACTIVE, PROTOCOL_ICMP, ICMP_TIMEOUT_S);
	lives(BINDING_OPENING, PROTOCOL_TCP, TCP_TRANSITORY_TIMEOUT_S);
	lives(BINDING_ESTABLISHED, PROTOCOL_TCP, TCP_ESTABLISHED_TIMEOUT_S);
	lives(BINDING_FIN_OUT, PROTOCOL_TCP, TCP_ESTABLISHED_TIMEOUT_S);
	lives(BINDING_FIN_IN, PROTOCOL_TCP, TCP_ESTABLISHED_TIMEOUT_S);
	lives(BINDING_CLOSING, PROTOCOL_TCP, TCP_CLOSING_TIMEOUT_S);
	lives(BINDING_RESET, PROTOCOL_TCP, TCP_CLOSING_TIMEOUT_S);
}

TEST(a_clock_that_is_behind_ends_nothing)
{
	CHECK(life_is_live(life_make(1, BINDING_ACTIVE, NOW), PROTOCOL_UDP, NOW - 1));
}

/* 32 bits of ticks last 146 years, but the arithmetic must not care where they start. */
TEST(the_clock_may_wrap_around)
{
	__u64 life = life_make(1, BINDING_ACTIVE, 0xfffffff0);

	CHECK(life_is_live(life, PROTOCOL_UDP, 5));
	CHECK(!life_is_live(life, PROTOCOL_UDP, 0xfffffff0 + TICKS(UDP_TIMEOUT_S) + 1));
}
