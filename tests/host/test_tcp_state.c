/* SPDX-License-Identifier: GPL-2.0-only */
#include "runner.h"
#include "tcp_state.h"

#define ACK 0x10

enum direction { OUT, IN };

struct step {
	enum direction direction;
	__u8 flags;
	enum binding_state state; /* afterwards */
};

static enum binding_state next(enum binding_state state, enum direction direction, __u8 flags, bool shared)
{
	return direction == OUT ? tcp_after_out(state, flags, shared) : tcp_after_in(state, flags, shared);
}

static void walk(const struct step *steps, int count)
{
	enum binding_state state = BINDING_OPENING;
	int at;

	for (at = 0; at < count; at++) {
		state = next(state, steps[at].direction, steps[at].flags, false);
		CHECK_EQUAL(state, steps[at].state);
	}
}

#define WALK(steps) walk(steps, sizeof(steps) / sizeof((steps)[0]))

TEST(a_handshake_establishes)
{
	static const struct step steps[] = {
		{ OUT, TCP_SYN, BINDING_OPENING },          { OUT, TCP_SYN, BINDING_OPENING }, /* sent again */
		{ IN, TCP_SYN | ACK, BINDING_ESTABLISHED }, { OUT, ACK, BINDING_ESTABLISHED },
		{ IN, ACK, BINDING_ESTABLISHED },
	};

	WALK(steps);
}

TEST(both_ends_open_at_once)
{
	static const struct step steps[] = {
		{ OUT, TCP_SYN, BINDING_OPENING },
		{ IN, TCP_SYN, BINDING_ESTABLISHED },
		{ OUT, TCP_SYN | ACK, BINDING_ESTABLISHED },
		{ IN, TCP_SYN | ACK, BINDING_ESTABLISHED },
	};

	WALK(steps);
}

TEST(the_inside_closes_first)
{
	static const struct step steps[] = {
		{ IN, TCP_SYN | ACK, BINDING_ESTABLISHED },
		{ OUT, TCP_FIN | ACK, BINDING_FIN_OUT },
		{ OUT, TCP_FIN | ACK, BINDING_FIN_OUT },
		{ IN, ACK, BINDING_FIN_OUT }, /* half closed: data still comes */
		{ IN, TCP_FIN | ACK, BINDING_CLOSING },
		{ OUT, ACK, BINDING_CLOSING },
	};

	WALK(steps);
}

TEST(the_outside_closes_first)
{
	static const struct step steps[] = {
		{ IN, TCP_SYN | ACK, BINDING_ESTABLISHED }, { IN, TCP_FIN | ACK, BINDING_FIN_IN },
		{ IN, TCP_FIN | ACK, BINDING_FIN_IN },      { OUT, ACK, BINDING_FIN_IN },
		{ OUT, TCP_FIN | ACK, BINDING_CLOSING },    { IN, ACK, BINDING_CLOSING },
	};

	WALK(steps);
}

TEST(a_port_is_used_again_after_its_connection_has_ended)
{
	CHECK_EQUAL(tcp_after_out(BINDING_CLOSING, TCP_SYN, false), BINDING_OPENING);
	CHECK_EQUAL(tcp_after_out(BINDING_RESET, TCP_SYN, false), BINDING_OPENING);
	/* A SYN in the middle of a connection is a stray, or an attack: the connection's own timer stays. */
	CHECK_EQUAL(tcp_after_out(BINDING_ESTABLISHED, TCP_SYN, false), BINDING_ESTABLISHED);
	CHECK_EQUAL(tcp_after_out(BINDING_FIN_IN, TCP_SYN, false), BINDING_FIN_IN);
}

TEST(a_reset_is_believed_for_now_and_the_inside_may_show_that_it_lied)
{
	static const struct step steps[] = {
		{ IN, TCP_SYN | ACK, BINDING_ESTABLISHED },
		{ IN, TCP_RST, BINDING_RESET },
		{ IN, ACK, BINDING_RESET },
		{ IN, TCP_SYN, BINDING_RESET },
		{ OUT, ACK, BINDING_ESTABLISHED },
		{ OUT, TCP_RST | ACK, BINDING_RESET },
	};

	WALK(steps);
}

TEST(before_the_answer_a_reset_changes_nothing)
{
	CHECK_EQUAL(tcp_after_in(BINDING_OPENING, TCP_RST, false), BINDING_OPENING);
	CHECK_EQUAL(tcp_after_out(BINDING_OPENING, TCP_RST, false), BINDING_OPENING);
}

/* Everything that can happen, in every state: flags are FIN, SYN, RST and ACK in any combination. */

#define EACH(state, direction, flags, shared)                                             \
	for (enum binding_state state = BINDING_OPENING; state <= BINDING_RESET; state++) \
		for (enum direction direction = OUT; direction <= IN; direction++)        \
			for (int flags = 0; flags < 0x20; flags++)                        \
				for (int shared = 0; shared <= 1; shared++)

TEST(no_packet_frees_a_binding)
{
	EACH(state, direction, flags, shared)
	CHECK(next(state, direction, flags, shared) >= BINDING_OPENING &&
	      next(state, direction, flags, shared) <= BINDING_RESET);
}

TEST(plain_data_only_ever_revives_after_a_reset)
{
	EACH(state, direction, flags, shared)
	{
		if (flags & (TCP_SYN | TCP_FIN | TCP_RST))
			continue;
		CHECK_EQUAL(next(state, direction, flags, shared),
			    state == BINDING_RESET && direction == OUT ? BINDING_ESTABLISHED : state);
	}
}

TEST(the_end_of_one_connection_is_not_the_end_of_a_shared_binding)
{
	EACH(state, direction, flags, shared)
	{
		if (shared && state == BINDING_ESTABLISHED)
			CHECK_EQUAL(next(state, direction, flags, shared), BINDING_ESTABLISHED);
	}
}

TEST(the_outside_lengthens_a_life_by_answering_only)
{
	EACH(state, direction, flags, shared)
	{
		if (direction == IN && state != BINDING_ESTABLISHED &&
		    next(state, IN, flags, shared) == BINDING_ESTABLISHED)
			CHECK(state == BINDING_OPENING && flags & TCP_SYN && !(flags & TCP_RST));
	}
}

TEST(the_ends_are_told_apart)
{
	EACH(state, direction, flags, shared)
	{
		enum binding_state after = next(state, direction, flags, shared);

		if (after == state)
			continue;
		if (after == BINDING_FIN_OUT)
			CHECK(direction == OUT && state == BINDING_ESTABLISHED);
		if (after == BINDING_FIN_IN)
			CHECK(direction == IN && state == BINDING_ESTABLISHED);
		if (after == BINDING_CLOSING)
			CHECK(state == (direction == OUT ? BINDING_FIN_IN : BINDING_FIN_OUT));
	}
}
