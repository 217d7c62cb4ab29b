/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * TCP as a NAT sees it: RFC 6146, section 3.5.2.2, with sessions that begin inside only; RST as in RFC 7857,
 * section 2.
 */
#ifndef JETPLANE_TCP_STATE_H
#define JETPLANE_TCP_STATE_H

#include "types.h"
#include "abi.h"

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/*
 * The state after a packet from inside with these flags. @shared: the binding carries connections to several
 * remotes, so the end of one is not the end of it.
 */
static __always_inline enum binding_state tcp_after_out(enum binding_state state, __u8 flags, bool shared)
{
	if (flags & TCP_RST)
		return shared || state == BINDING_OPENING ? state : BINDING_RESET;
	if (flags & TCP_SYN)
		/* The same port again, after the last connection has ended. */
		return state == BINDING_CLOSING || state == BINDING_RESET ? BINDING_OPENING : state;
	if (flags & TCP_FIN && !shared) {
		if (state == BINDING_ESTABLISHED)
			return BINDING_FIN_OUT;
		return state == BINDING_FIN_IN ? BINDING_CLOSING : state;
	}
	return state == BINDING_RESET ? BINDING_ESTABLISHED : state;
}

/* The same for a packet from outside that has passed the filter. It never lengthens a life but by opening it. */
static __always_inline enum binding_state tcp_after_in(enum binding_state state, __u8 flags, bool shared)
{
	if (flags & TCP_RST)
		return shared || state == BINDING_OPENING ? state : BINDING_RESET;
	if (flags & TCP_SYN)
		return state == BINDING_OPENING ? BINDING_ESTABLISHED : state;
	if (flags & TCP_FIN && !shared) {
		if (state == BINDING_ESTABLISHED)
			return BINDING_FIN_IN;
		return state == BINDING_FIN_OUT ? BINDING_CLOSING : state;
	}
	return state;
}

/*
 * May a packet from outside lengthen the life of a connection that is in @state after it? Only while both ends
 * hold it open: who is outside must not keep what was never answered, reset or closed (RFC 4787, REQ-6).
 */
static __always_inline bool tcp_in_refreshes(enum binding_state state, __u8 flags)
{
	bool open = state == BINDING_ESTABLISHED || state == BINDING_FIN_OUT || state == BINDING_FIN_IN;

	return open && !(flags & TCP_RST);
}

#endif
