/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Two CPUs on the same tables, one step at a time: whatever one does, the other does something whole in front of each of
 * its atomic operations and look-ups, one after the other. What must hold afterwards is what the headers promise.
 * Threads on real CPUs hardly ever meet in these places (tests/bpf/test_nat_concurrency.py); here they meet in each.
 */
#include "types.h"
#include "stepping.h"

#include "abi.h"
#include "node.h"
#include "runner.h"

#define NO_REASON COUNTERS
#define PEERS     2
#define TUNNEL    7
#define NOW       1000000u /* ticks */
#define FIRST     20       /* the only blocks that are in no other's hands: this one and the next two */
#define FREE      3
#define ENTRIES   256

struct __sk_buff {
	__u32 ifindex;
	__u32 kept;
};

static struct peer peers[PEERS];
static struct peer_blocks lists[PEERS * FAMILIES * PROTOCOLS];
static struct pool pools[EXITS * PROTOCOLS];
static struct block blocks[EXITS * PROTOCOLS * BLOCKS_PER_POOL];
static struct binding bindings[EXITS * PROTOCOLS * 65536 + EXITS * MAX_REUSES];
static __u64 reuse_words[EXITS * MAX_REUSES / 64];
static __u32 hint_words[HINTS];
static struct secret secret = { { 1, 2 } };

static __u32 bpf_get_prandom_u32(void)
{
	step();
	return chance();
}

static void count(enum counter what, __u64 amount)
{
	(void)what;
	(void)amount;
}

/* A preallocated hash: a place that is freed is the next one's, under the eyes of who still looks at it. */
#define TABLE(name, type)                                                                                \
	static struct {                                                                                  \
		type key;                                                                                \
		__u32 slot;                                                                              \
		bool there;                                                                              \
	} name##_table[ENTRIES];                                                                         \
	static int name##_top; /* no place from here on was ever used */                                 \
	static __u32 *name##_seek(const type *key)                                                       \
	{                                                                                                \
		int at;                                                                                  \
		for (at = 0; at < name##_top; at++)                                                      \
			if (name##_table[at].there && !memcmp(&name##_table[at].key, key, sizeof(*key))) \
				return &name##_table[at].slot;                                           \
		return NULL;                                                                             \
	}                                                                                                \
	static inline __u32 *name##_find(type *key)                                                      \
	{                                                                                                \
		__u32 *found = name##_seek(key);                                                         \
		step();                                                                                  \
		return found;                                                                            \
	}                                                                                                \
	static int name##_add(type *key, __u32 slot)                                                     \
	{                                                                                                \
		int at;                                                                                  \
		step();                                                                                  \
		if (name##_seek(key))                                                                    \
			return -17;                                                                      \
		for (at = 0; name##_table[at].there; at++)                                               \
			;                                                                                \
		name##_table[at].key = *key;                                                             \
		name##_table[at].slot = slot;                                                            \
		name##_table[at].there = true;                                                           \
		if (name##_top <= at)                                                                    \
			name##_top = at + 1;                                                             \
		return 0;                                                                                \
	}                                                                                                \
	static void name##_remove(type *key)                                                             \
	{                                                                                                \
		int at;                                                                                  \
		step();                                                                                  \
		for (at = 0; at < name##_top; at++)                                                      \
			if (!memcmp(&name##_table[at].key, key, sizeof(*key)))                           \
				name##_table[at].there = false;                                          \
	}                                                                                                \
	static void name##_clear(void)                                                                   \
	{                                                                                                \
		memset(name##_table, 0, name##_top * sizeof(name##_table[0]));                           \
		name##_top = 0;                                                                          \
	}

TABLE(endpoint, struct inner_endpoint)
TABLE(reuse_inner, struct reuse_inner)
TABLE(reuse_outer, struct reuse_outer)

#define ARRAY(verb, type, array)                                                            \
	static type *verb(__u32 index)                                                      \
	{                                                                                   \
		return index < sizeof(array) / sizeof((array)[0]) ? &(array)[index] : NULL; \
	}

ARRAY(peer_at, struct peer, peers)
ARRAY(peer_blocks_at, struct peer_blocks, lists)
ARRAY(pool_at, struct pool, pools)
ARRAY(block_at, struct block, blocks)
ARRAY(binding_at, struct binding, bindings)
ARRAY(reuse_used_at, __u64, reuse_words)

static __u32 *hint_at(__u32 place)
{
	step();
	return &hint_words[place];
}

/* The last byte of an inner address tells whose it is. */
static __u32 *address_find(struct address *address)
{
	static __u32 owners[PEERS] = { 0, 1 };

	return &owners[address->bytes[15]];
}

static bool address_is_own(struct address *address)
{
	(void)address;
	return false;
}

struct remote_key;

static bool remote_find(struct remote_key *key)
{
	(void)key;
	return false;
}

static void remote_add(struct remote_key *key)
{
	(void)key;
}

static struct secret *secret_get(void)
{
	return &secret;
}

static void keep(struct __sk_buff *skb, __u32 value)
{
	skb->kept = value;
}

static __u32 kept(struct __sk_buff *skb)
{
	return skb->kept;
}

#include "held.h"
#include "sweep.h"

/* What the other CPU does, and in front of which step of this one. */
static void (*other)(void);
static int before;

static void step(void)
{
	void (*now)(void) = other;

	if (!now || before--)
		return;
	other = NULL;
	now();
}

static void clear(enum protocol protocol)
{
	__u32 pool = pool_index(0, protocol), first = (pool * BLOCKS_PER_POOL + FIRST) * PORTS_PER_BLOCK, at;

	memset(lists, 0, sizeof(lists));
	memset(blocks, 0, sizeof(blocks));
	endpoint_clear();
	memset(hint_words, 0, sizeof(hint_words));
	reuse_inner_clear();
	reuse_outer_clear();
	memset(reuse_words, 0, sizeof(reuse_words));
	memset(&bindings[first], 0, FREE * PORTS_PER_BLOCK * sizeof(bindings[0]));
	memset(&bindings[REUSE_SLOT], 0, EXITS * MAX_REUSES * sizeof(bindings[0]));
	memset(pools, 0xff, sizeof(pools));
	pools[pool].taken[0] &= ~(7ull << FIRST);
	if (protocol == PROTOCOL_TCP)
		pools[pool].taken[REUSE_WORD] = 0;
	for (at = 0; at < PEERS; at++)
		peers[at] = (struct peer){ .tunnel_ifindex = TUNNEL, .generation = 1, .exit_index = { 0, NO_EXIT } };
}

/* A packet of a peer's from @port to one remote; whether it would leave. */
static bool send(enum protocol protocol, __u32 peer, __u16 port, __u32 tick)
{
	struct __sk_buff skb = { .ifindex = TUNNEL };
	struct flow flow = { .protocol = protocol, .source_port = to_be16(port), .destination_port = to_be16(443) };
	struct inner_endpoint inner = { .port = to_be16(port), .protocol = protocol };
	struct held held = {};

	flow.destination.bytes[15] = 9;
	inner.address.bytes[15] = peer;
	flow.source = inner.address;
	if (binding_hold(&skb, &inner, &flow, FAMILY_V4, tick, &held) != NO_REASON)
		return false;
	/* Whatever has happened to it since, it was the sender's own. */
	if (held.binding->life == held.life) {
		CHECK(!memcmp(&held.binding->inner, &inner.address, sizeof(inner.address)));
		CHECK_EQUAL(held.binding->inner_port, inner.port);
	}
	return life_update(&held, life_state(held.life), tick);
}

static void sweep_all(enum protocol protocol, __u32 tick)
{
	__u32 first = pool_index(0, protocol) * BLOCKS_PER_POOL + FIRST;
	struct sweep_cursor cursor = {};
	__u32 at;

	for (at = 0; at < FREE; at++)
		sweep_place(&cursor, first + at, tick);
	sweep_place(&cursor, SWEPT_BLOCKS, tick);
}

/* All that the headers promise of both blocks and of the connections at reused ports. */
static void verify(enum protocol protocol)
{
	__u32 first = pool_index(0, protocol) * BLOCKS_PER_POOL + FIRST, named = 0, used = 0, at, bit, listed;
	__u64 reused[PEERS] = {};

	for (at = 0; at < ENTRIES; at++) {
		__u32 slot = endpoint_table[at].slot;

		if (!endpoint_table[at].there)
			continue;
		named++;
		CHECK(life_is_taken(bindings[slot].life));
		CHECK(!memcmp(&bindings[slot].inner, &endpoint_table[at].key.address, 16));
		CHECK_EQUAL(bindings[slot].inner_port, endpoint_table[at].key.port);
		CHECK(!!(blocks[slot_block(slot)].used & slot_bit(slot)));
		CHECK_EQUAL(blocks[slot_block(slot)].owner, bindings[slot].peer + 1);
	}
	for (at = first; at < first + FREE; at++) {
		used += count_bits(blocks[at].used);
		CHECK_EQUAL(!!blocks[at].owner, pools[pool_index(0, protocol)].taken[0] >> (at % 1024) & 1);
		for (listed = bit = 0; bit < PEERS * MAX_BLOCK_QUOTA; bit++)
			if (lists[peer_blocks_index(bit / MAX_BLOCK_QUOTA, FAMILY_V4, protocol)]
				    .slot[bit % MAX_BLOCK_QUOTA] == at + 1) {
				CHECK_EQUAL(blocks[at].owner, bit / MAX_BLOCK_QUOTA + 1);
				listed++;
			}
		CHECK_EQUAL(listed, !!blocks[at].owner);
	}
	CHECK_EQUAL(used, named);
	for (at = used = 0; at < MAX_REUSES; at++) {
		struct binding *one = &bindings[REUSE_SLOT + at];
		struct reuse_inner inner = { .address = one->inner,
					     .port = one->inner_port,
					     .remote = one->remotes[0] };
		struct reuse_outer outer = reuse_outer_key(0, one->reused_port, one->remotes[0]);

		CHECK_EQUAL(life_is_taken(one->life), reuse_words[0] >> at & 1);
		if (!life_is_taken(one->life))
			continue;
		used++;
		reused[one->peer]++;
		CHECK(reuse_inner_seek(&inner) && *reuse_inner_seek(&inner) == REUSE_SLOT + at);
		CHECK(reuse_outer_seek(&outer) && *reuse_outer_seek(&outer) == REUSE_SLOT + at);
	}
	for (at = 0; at < PEERS; at++)
		CHECK_EQUAL(lists[peer_blocks_index(at, FAMILY_V4, PROTOCOL_TCP)].reuses, reused[at]);
	for (at = named = 0; at < ENTRIES; at++)
		named += reuse_inner_table[at].there;
	CHECK_EQUAL(named, used);
	for (at = named = 0; at < ENTRIES; at++)
		named += reuse_outer_table[at].there;
	CHECK_EQUAL(named, used);
}

static enum protocol protocol;

static bool left; /* the last packet of `same`, translated */

static void same(void)
{
	left = send(protocol, 0, 5000, NOW);
}

static void another_port(void)
{
	send(protocol, 0, 5001, NOW);
}

static void another_peer(void)
{
	send(protocol, 1, 5000, NOW);
}

static void sweeps(void)
{
	sweep_all(protocol, NOW);
}

static void revokes_and_sweeps(void)
{
	peers[0].generation++;
	sweep_all(protocol, NOW);
}

static void ends_and_begins(void)
{
	sweep_all(protocol, NOW);
	send(protocol, 1, 5001, NOW);
}

/* The block is emptied, given back and another's by the time the first CPU goes on. */
static void moves_the_blocks(void)
{
	__u16 port;

	peers[0].generation++;
	sweep_all(protocol, NOW);
	for (port = 7000; port < 7000 + PORTS_PER_BLOCK + 1; port++)
		send(protocol, 1, port, NOW);
}

static void (*const acts[])(void) = {
	same, another_port, another_peer, sweeps, revokes_and_sweeps, ends_and_begins, moves_the_blocks
};

/* Of these one is interrupted; the others would only be longer. */
#define INTERRUPTED 4

/* What stands in the tables when the two begin. */
static void empty(void)
{
}

static void idle(void)
{
	send(protocol, 0, 5000, NOW - TICKS(100000));
}

static void live(void)
{
	send(protocol, 0, 5000, NOW);
}

static void idle_beside_another(void)
{
	send(protocol, 0, 5000, NOW - TICKS(100000));
	send(protocol, 1, 5000, NOW);
}

static void one_block_left(void)
{
	__u16 port;

	for (port = 6000; port < 6000 + PORTS_PER_BLOCK; port++)
		send(protocol, 0, port, NOW);
}

static void one_port_left(void)
{
	__u16 port;

	for (port = 6000; port < 6000 + BLOCK_QUOTA * PORTS_PER_BLOCK - 1; port++)
		send(protocol, 0, port, NOW);
}

static void all_idle(void)
{
	__u16 port;

	for (port = 6000; port < 6000 + BLOCK_QUOTA * PORTS_PER_BLOCK + 2; port++)
		send(protocol, 0, port, NOW - TICKS(100000));
}

static void (*const beginnings[])(void) = { empty,          idle,          live,    idle_beside_another,
					    one_block_left, one_port_left, all_idle };

#define EACH_OF(list, at) for (at = 0; at < sizeof(list) / sizeof((list)[0]); at++)

static void meet_in_every_step(void)
{
	size_t beginning, one, two;
	int at, met, runs = 0;

	EACH_OF(beginnings, beginning)
	for (one = 0; one < INTERRUPTED; one++)
		EACH_OF(acts, two)
	for (met = 1, at = 0; met; at++, runs++) {
		clear(protocol);
		beginnings[beginning]();
		verify(protocol);
		before = at;
		other = acts[two];
		acts[one]();
		met = !other;
		other = NULL;
		verify(protocol);
	}
	CHECK(runs > 1000);
}

TEST(bindings_stay_sound_wherever_two_cpus_meet)
{
	protocol = PROTOCOL_UDP;
	meet_in_every_step();
}

TEST(connections_at_reused_ports_stay_sound_wherever_two_cpus_meet)
{
	protocol = PROTOCOL_TCP;
	meet_in_every_step();
}

static bool lives(__u32 peer, __u16 port)
{
	struct inner_endpoint inner = { .port = to_be16(port), .protocol = protocol };
	__u32 *slot;

	inner.address.bytes[15] = peer;
	slot = endpoint_seek(&inner);
	return slot && life_is_taken(bindings[*slot].life) && bindings[*slot].peer == peer;
}

/* A look-up that was overtaken names another's binding, which must not suffer. */
TEST(a_live_binding_of_another_is_never_ended)
{
	int at, met;

	protocol = PROTOCOL_UDP;
	for (met = 1, at = 0; met; at++) {
		clear(protocol);
		idle_beside_another();
		before = at;
		other = ends_and_begins;
		same();
		met = !other;
		other = NULL;
		CHECK(lives(1, 5000));
		CHECK(!met || lives(1, 5001));
	}
	CHECK(at > 5);
}

/* All ports are taken, one by what has idled: whoever comes next gets that one. */
static void full_but_for_an_idle_one(void)
{
	__u16 port;

	for (port = 6000; port < 6000 + BLOCK_QUOTA * PORTS_PER_BLOCK - 1; port++)
		send(protocol, 0, port, NOW);
	send(protocol, 0, 5000, NOW - TICKS(100000));
}

TEST(a_sweep_never_ends_what_a_packet_has_just_made)
{
	int at, met;

	protocol = PROTOCOL_UDP;
	for (met = 1, at = 0; met; at++) {
		clear(protocol);
		full_but_for_an_idle_one();
		before = at;
		other = same;
		sweeps();
		met = !other;
		other = NULL;
		verify(protocol);
		/* One that comes while the port is being freed is refused. */
		CHECK(!met || !left || lives(0, 5000));
		CHECK(lives(0, 6000));
	}
}
