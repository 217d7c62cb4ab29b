/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whom a binding has addressed, and so whom it lets in (RFC 4787, section 5). Three remotes stand in the binding
 * itself, the oldest of them gives way to a new one and moves to a map that forgets what has long not been asked for.
 * Knows the maps only by the verbs of the program that includes it.
 */
#ifndef JETPLANE_REMOTES_H
#define JETPLANE_REMOTES_H

#include "binding.h"
#include "hash.h"

/* What the configured filter asks about a remote; ICMP knows no ports. */
static __always_inline __u64 remote_of(const struct secret *secret, const struct address *address, __be16 port,
				       __u8 protocol)
{
	if (NAT_FILTERING != FILTER_ADDRESS_AND_PORT || protocol == PROTOCOL_ICMP)
		port = 0;
	return remote_hash(secret, address, port);
}

static __always_inline bool remote_is_inline(const struct binding *binding, __u64 remote)
{
	return binding->remotes[0] == remote || binding->remotes[1] == remote || binding->remotes[2] == remote;
}

static __always_inline bool remote_is_known(const struct binding *binding, __u32 slot, __u64 life, __u64 remote)
{
	struct remote_key key = {
		.remote = remote,
		.slot = slot,
		.sequence = life_sequence(life),
	};

	return remote_is_inline(binding, remote) || remote_find(&key);
}

static __always_inline void remote_remember(struct binding *binding, __u32 slot, __u64 life, __u64 remote)
{
	__u32 place = binding->next_remote % REMOTES_PER_BINDING;
	struct remote_key key = {
		.slot = slot,
		.sequence = life_sequence(life),
	};
	__u64 *given;

	if (place == 0)
		given = &binding->remotes[0];
	else
		given = place == 1 ? &binding->remotes[1] : &binding->remotes[2];
	/* First into the map, then out of the binding: at no moment is it in neither. */
	key.remote = *given;
	if (key.remote)
		remote_add(&key);
	if (__sync_val_compare_and_swap(given, key.remote, remote) == key.remote) {
		binding->next_remote = place + 1;
		return;
	}
	/* Another CPU was here for another remote. */
	key.remote = remote;
	remote_add(&key);
}

/* All its connections have ended and a new one begins: it is about one remote again. */
static __always_inline void remotes_restart(struct binding *binding, __u64 remote)
{
	binding->remotes[0] = remote;
	binding->remotes[1] = 0;
	binding->remotes[2] = 0;
	binding->next_remote = 1;
}

/* Does it carry, as far as is known, connections to more than one remote? */
static __always_inline bool binding_is_shared(const struct binding *binding)
{
	return binding->remotes[1] != 0;
}

#endif
