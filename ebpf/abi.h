/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What C and Python share. Python takes these layouts from what the compiler reports
 * when it loads the programs; nothing here is written down a second time.
 */
#ifndef JETPLANE_ABI_H
#define JETPLANE_ABI_H

#include <linux/types.h>

/* Drop reasons first, then the other counters: one index space, one per-CPU array. */
enum counter {
#define X(name, text) DROP_##name,
#include "drop_reasons.def"
#undef X
#define X(name, text) COUNT_##name,
#include "counters.def"
#undef X
	COUNTERS,
};

/* The protocols that are translated; the index of each in every per-protocol array. */
enum protocol { PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ICMP, PROTOCOLS };

enum family { FAMILY_V4, FAMILY_V6, FAMILIES };

/* Whose packets a binding lets in (RFC 4787, section 5). */
enum filtering {
	FILTER_ENDPOINT_INDEPENDENT,
	FILTER_ADDRESS,
	FILTER_ADDRESS_AND_PORT,
};

/*
 * An external port is one bit: PORTS_PER_BLOCK ports are one 64-bit word, so that taking
 * or freeing a port is one atomic operation, and finding a free one is arithmetic.
 */
#define PORTS_PER_BLOCK   64
#define BLOCKS_PER_POOL   1024 /* 65,536 ports of one protocol on one exit address */
#define BLOCK_WORDS       (BLOCKS_PER_POOL / 64)
#define SYSTEM_BLOCKS     16 /* ports 0-1023, kept apart (RFC 4787, REQ-3) */
#define MAX_BLOCK_QUOTA   32
#define SYSTEM_PORT_QUOTA 64 /* of one peer, family and protocol: others need some of the 1,024 too */
#define NO_EXIT           0xffffu

/*
 * With tcp_reuse, one word of every TCP pool is put aside: its ports are shared by many connections, each to another
 * remote (reuse.h).
 */
#define REUSE_WORD       1    /* of `taken` in struct pool */
#define REUSE_FIRST_PORT 4096 /* REUSE_WORD * 64 * PORTS_PER_BLOCK */
#define REUSE_PORTS      4096

/*
 * How far a peer may run ahead of its rate. 50 ms keeps TCP at its rate over the usual round trip. A super-packet
 * may overdraw it: the next ones wait.
 */
#define BURST_NS 50000000ull

/*
 * skb->mark of what nat_out and nat_in hand to the node's own stack (TTL spent, too big, who asks for an exit address).
 * Routing rules discard everything else that would be forwarded from a tunnel or the uplink: without programs,
 * nothing is.
 */
#define HANDOVER_MARK 0x6a657401

/*
 * skb->mark of what there is no port for. A routing rule prohibits it, so the stack answers "communication
 * administratively prohibited" from the tunnel's own address (RFC 5508, REQ-8); without the rule it is discarded.
 */
#define PROHIBIT_MARK 0x6a657402

/* How many such answers a peer may cause. Beyond it there is silence; the kernel has limits of its own. */
#define ANSWERS_PER_SECOND 50

/* An address of either family; IPv4 as ::ffff:a.b.c.d (RFC 4291, section 2.5.5.2). */
struct address {
	__u8 bytes[16];
};

_Static_assert(sizeof(struct address) == 16, "a map key");

/* A token bucket told by one word, so that CPUs spend from it with one compare-and-swap (bucket.h). */
struct bucket {
	__u64 paid_until_ns; /* what was let through is paid for at this time */
};

/* What a CPU remembers of the time (clock.h). */
struct clock {
	__u64 tick; /* of the kernel's clock, jiffies: when it asked */
	__u64 now_ns;
};

/* One peer, at its index. The controller writes it; the data path spends the buckets and says where the peer was seen. */
struct peer {
	__u32 tunnel_ifindex;       /* 0: there is no such peer */
	__u32 generation;           /* bindings of an earlier generation are dead */
	__u16 exit_index[FAMILIES]; /* NO_EXIT: none of this family */
	__u32 statistics;           /* its index + 1; 0: it objects, nothing of it counts in what is released */
	__u64 rate_up;              /* bytes per second, 0: not limited */
	__u64 rate_down;
	struct bucket up;
	struct bucket down;
	struct bucket answers; /* not bytes: one for each "prohibited" */
	__u32 next_ifindex;    /* where the peer may be as well, while the node's key changes; 0: nowhere else */
	__u32 seen_ifindex;    /* where its newest packet came in, by the data path; 0: at tunnel_ifindex */
};

_Static_assert(sizeof(struct peer) == 64, "one cache line");

/* What is summed up for released figures; two sums of each, by the parity of its epoch's number. */
enum quantity {
#define X(name, text) QUANTITY_##name,
#include "quantities.def"
#undef X
	QUANTITIES,
};

/* The running epochs: their numbers, as in the words below. The controller alone writes them. */
struct epochs {
	__u64 active;
	__u64 volume;
};

#define EPOCH_SHIFT 40           /* the number's place in a word; below it, what was used of the clip */
#define USED_UP     0x8000000000 /* more than any clip: nothing counts until the next epoch */

/*
 * What a peer has used of its clips (statistics.h), at its index. The data path alone writes it while the entry is the
 * same peer's. A new entry begins used up, so that leaving and coming back renews no clip.
 */
struct peer_statistics {
	__u64 active;
	__u64 up;
	__u64 down;
	__u64 reserved;
};

_Static_assert(sizeof(struct peer_statistics) == 32, "a shift finds it");

/* Handshakes in one epoch of volume. The controller alone writes and reads it; here it outlives the controller. */
struct handshakes {
	__u64 slot;  /* the last one that was looked at */
	__u64 looks; /* how many were */
	__u64 peers; /* how many peers were found to have made one, over all looks */
};

/*
 * What a peer holds, of one family and protocol. 64-bit for compare-and-swap. Only the data path writes it: it
 * outlives the peer, and the sweep clears it when the last binding is gone.
 */
struct peer_blocks {
	__u64 slot[MAX_BLOCK_QUOTA]; /* block index + 1, or 0 */
	__u64 system_ports;          /* ports held in the shared system blocks */
	__u64 reuses;                /* TCP: connections at reused ports */
};

/* The blocks of one exit address and protocol that are taken or reserved: one bit each. */
struct pool {
	__u64 taken[BLOCK_WORDS];
};

/* One block: who holds it, and which of its ports are in use. */
struct block {
	__u64 owner; /* peer index + 1, 0: nobody, or a system block */
	__u64 used;  /* bit n: port n of the block */
};

/* TCP's are those of RFC 6146, section 3.5.2.2, seen from inside; a session begins inside or not at all. */
enum binding_state {
	BINDING_FREE,
	BINDING_DYING,   /* one CPU is taking it apart; nobody else may touch it */
	BINDING_ACTIVE,  /* UDP and ICMP */
	BINDING_OPENING, /* TCP: nothing has come back yet */
	BINDING_ESTABLISHED,
	BINDING_FIN_OUT, /* FIN seen from inside */
	BINDING_FIN_IN,  /* FIN seen from outside */
	BINDING_CLOSING, /* FIN seen both ways */
	BINDING_RESET,   /* RST seen; any other packet from inside revives it */
};

#define REMOTES_PER_BINDING 3

/*
 * Inner address and port at one external port. Its place in the array is
 * (exit index * PROTOCOLS + protocol) * 65536 + external port, so the way back needs no search.
 * `life` packs state, sequence and last use (binding.h) and changes by compare-and-swap alone; what stands
 * before it changes only while it says FREE or DYING.
 */
struct binding {
	struct address inner;
	__be16 inner_port; /* ICMP: the query identifier */
	__u16 reused_port; /* the external port where its place does not tell; else 0 */
	__u32 peer;
	__u32 generation;  /* of the peer when it was made */
	__u32 next_remote; /* which of `remotes` gives way */
	__u64 life;
	__u64 remotes[REMOTES_PER_BINDING]; /* keyed hashes of remotes addressed; 0: none */
};

_Static_assert(sizeof(struct binding) == 64, "one cache line");

/* Key of the way out. */
struct inner_endpoint {
	struct address address;
	__be16 port;
	__u8 protocol; /* enum protocol */
	__u8 reserved;
};

_Static_assert(sizeof(struct inner_endpoint) == 20, "no padding in a map key");

/* A connection at a reused port, as it is known from inside. */
struct reuse_inner {
	struct address address;
	__u64 remote; /* keyed hash of its address and port */
	__be16 port;
	__u16 reserved[3];
};

_Static_assert(sizeof(struct reuse_inner) == 32, "no padding in a map key");

/* And from outside. */
struct reuse_outer {
	__u64 remote;
	__u32 exit_index;
	__u16 port; /* host order */
	__u16 reserved;
};

_Static_assert(sizeof(struct reuse_outer) == 16, "no padding in a map key");

/* A remote that did not fit into its binding. */
struct remote_key {
	__u64 remote;   /* keyed hash */
	__u32 slot;     /* of the binding */
	__u32 sequence; /* of the binding's life, so that the next holder of the slot inherits nothing */
};

_Static_assert(sizeof(struct remote_key) == 16, "no padding in a map key");

/*
 * skb->mark of a later fragment that has come before its first one and goes round once more. How many may do so, on
 * each CPU: a flood of strays takes this from others, and nothing else.
 */
#define FRAGMENT_AGAIN_MARK        0x6a657403
#define FRAGMENTS_AGAIN_PER_SECOND 10000

#define FRAGMENTS_PER_PEER 8
#define FRAGMENT_NO_END    (1ull << 32)

/*
 * A datagram from outside of which the first fragment has been let in. Its key is a keyed hash of the remote, the exit
 * address and the datagram's identification.
 */
struct fragmented {
	__u64 balance; /* bytes that have come, less those of the whole; FRAGMENT_NO_END more until its length is known */
	__u32 slot;    /* of the binding; NO_SLOT: two have claimed it */
	__u32 sequence; /* of the binding's life */
	__u32 peer;     /* whose entry it is */
	__u32 tick;     /* of the first fragment */
};

_Static_assert(sizeof(struct fragmented) == 24, "no padding in a map value");

/* The keys of a peer's entries. The oldest gives way to a new one: a flood to one peer costs no other anything. */
struct peer_fragments {
	__u64 next;                    /* counts up */
	__u64 key[FRAGMENTS_PER_PEER]; /* 0: none */
};

/*
 * What a subscriber asked of others than the node's resolver, which answers in their place (dns.h). Of each peer, so many
 * ports of its address stand for such a flow of one protocol and family.
 */
#define DNS_FIRST_PORT 61696
#define DNS_PORTS      256   /* a byte names one */
#define MAX_STEERED    65536 /* of all peers together */

struct steered_key {
	__u32 peer;
	__u32 what; /* the port, its protocol and family; or the identification of an answer in fragments (dns.h) */
};

_Static_assert(sizeof(struct steered_key) == 8, "no padding in a map key");

struct steered {
	struct address inner;
	struct address asked; /* with which the answer leaves */
	__u64 waiting;        /* UDP: for so many answers */
	__u64 closed;         /* TCP: by which ends */
	__u32 generation;     /* of the peer */
	__u32 tick;           /* of the last packet */
	__be16 port;          /* the subscriber's own */
	__u16 reserved[3];
};

_Static_assert(sizeof(struct steered) == 64, "no padding in a map value");

/* A service of the node itself and who may reach it; protocol and port are always part of the match. */
struct service_key {
	__u32 prefix_bits; /* 32 + bits of the source prefix in its 16-byte form */
	__u8 protocol;     /* IP protocol number */
	__u8 reserved;
	__be16 port; /* ICMP: 0 */
	struct address source;
};

_Static_assert(sizeof(struct service_key) == 24, "no padding in a map key");

#define SERVICE_FIXED_BITS 32

/* What is known of PORTS_PER_WORD local ports, one bit for each (local_ports.h). */
#define PORTS_PER_WORD 64
#define PORT_WORDS     2048 /* first those of TCP, then those of UDP */
#define OWN_PORTS_S    300

struct local_ports {
	__u64 served;  /* a service may be open to somebody; the controller alone writes it */
	__u64 used[2]; /* the node itself has lately used it: two halves */
	__u64 paid_until;
};

_Static_assert(sizeof(struct local_ports) == 32, "a shift finds it");

/*
 * How many looks for a socket there are for those of them that are not known to be used, and how many ticks of the
 * kernel's clock (100 to 1,000 a second) it takes to have one more: enough for connections that have been idle, and for a
 * flood at all ports together no more than a few hundredths of a CPU.
 */
#define LOOKS_AT_ONCE  16
#define TICKS_PER_LOOK 4

/*
 * Lists of sources (source_list.h): two bits for each of the 2^24 IPv4 /24s, 32 of them in a word.
 */
#define SOURCE_WORDS        524288
#define SOURCE_FILTER_BITS  20
#define SOURCE_FILTER_WORDS 32768

_Static_assert(SOURCE_FILTER_WORDS * 32 == 1 << SOURCE_FILTER_BITS, "every field has its word");

/* What a field of two bits says. */
#define SOURCE_UNLISTED 0
#define SOURCE_BLOCKED  1 /* on a blocklist */
#define SOURCE_BOGON    2 /* an address that nobody on the internet has */
#define SOURCE_IN_PART  3 /* some of the /24 is blocked: its entries or its leaf say what; so of a /48 the trie */

/* One bit for each address of an IPv4 /24: set when it is blocked. The key is half << 32 | the first 24 bits. */
struct source_leaf {
	__u64 listed[4];
};

/* What a field of two bits says of the IPv6 /32s that share it: where something of them may be listed. */
#define SOURCE_IN_LINES 1 /* prefixes of 44 bits and more: their /48s have entries */
#define SOURCE_IN_TRIE  2 /* shorter ones */

/*
 * Entries with one hash, filled from the front, 0 is free; what a full line has no room for is in the leaves or the trie.
 * Of an IPv6 /48: its 48 bits above 16 bits that say SOURCE_BLOCKED, SOURCE_BOGON or SOURCE_IN_PART.
 * Of 32 IPv4 addresses: a bit for each that is blocked, above the 27 bits they share and SOURCE_ENTRY_V4.
 */
#define SOURCE_ENTRY_V4      8
#define SOURCE_LINE_ENTRIES  8
#define SOURCE_LINE_SHORTEST 44 /* a shorter prefix would fill too many */

struct source_line {
	__u64 entry[SOURCE_LINE_ENTRIES];
};

_Static_assert(sizeof(struct source_line) == 64, "one cache line");

/* An IPv6 prefix of a list; which half is always part of the match. The value is SOURCE_BLOCKED or SOURCE_BOGON. */
struct source_prefix {
	__u32 prefix_bits; /* 32 + bits of the prefix */
	__u32 half;
	struct address source;
};

_Static_assert(sizeof(struct source_prefix) == 24, "no padding in a map key");

#define SOURCE_PREFIX_FIXED_BITS 32

/* Which half, 0 or 1, of a doubled map is the current one; the controller alone writes it. */
#define HALF_SOURCES 0
#define HALF_KNOWN   1
#define HALF_PORTS   2
#define HALVES       3

/*
 * What own_addresses says of all addresses whose last words have one hash (own.h), so that hardly any packet needs a
 * look into it.
 */
#define OWN_SLOTS 256
#define OWN_ASK   0 /* the map knows */
#define OWN_NONE  1 /* none of them is the node's */
#define OWN_ONE   2 /* this one is, and no other */

struct own_slot {
	struct address address;
	__u64 state;
};

_Static_assert(sizeof(struct own_slot) == 24, "no padding in a map value");

/*
 * Handshake budgets of source prefixes (prefix_budgets.h): lines of words, each the tag of a prefix and a time. Known
 * sources: a Bloom filter of KNOWN_WORDS words (known_sources.h).
 */
#define BUDGET_LINES    131072
#define BUDGET_WAYS     8
#define BUDGETS_SWEPT   64 /* lines that one run of sweep_budgets looks at */
#define KNOWN_WORDS     16384
#define KNOWN_SOURCES_S 100

struct budget_line {
	__u64 word[BUDGET_WAYS];
};

_Static_assert(sizeof(struct budget_line) == 64, "one cache line");

/* A session of a relay (relay.h): who stands behind RELAY_FIRST_PORT + its index. */
#define RELAY_IDLE_S  180
#define RELAY_INDICES 65536
#define RELAY_SWEPT   64 /* sessions that one run of sweep_relays looks at */
#define RELAY_PIECES  4096

struct relay_session {
	struct address client;
	struct address own; /* of this node, to which the client sends */
	__be16 client_port;
	__u16 relay; /* the port where this node listens for it, host order */
	__u32 reserved;
	__u64 life; /* as a binding's */
};

_Static_assert(sizeof(struct relay_session) == 48, "no padding in a map value");

/* Key of the way out. */
struct relay_client {
	struct address address;
	__be16 port;
	__u16 relay;
};

_Static_assert(sizeof(struct relay_client) == 20, "no padding in a map key");

/* Random per node, made once, kept with the maps. */
struct secret {
	__u64 key[2];
};

#define NEXT_HOP_TABLES 16
#define NEXT_HOPS       1024 /* of one table: as large as the kernel lets a value of a per-CPU map be */
#define NEIGHBOURS      16

/* What the kernel has said about the way to one destination. */
struct next_hop {
	__u64 key;       /* of the destination (next_hop.h); 0: none */
	__u32 tick;      /* in which it was said, and is believed */
	__u32 header[3]; /* the hardware addresses of an Ethernet header */
	__u64 reserved;
};

_Static_assert(sizeof(struct next_hop) == 32, "two in a cache line");

struct next_hops {
	struct next_hop hop[NEXT_HOPS];
};

/* When the kernel itself last sent a packet to a neighbour. */
struct neighbour {
	__u32 address[2]; /* the hardware address */
	__u32 tick;
};

/* One run of sweep_remotes: this many bytes that mean nothing, as many keys as come, up to this number. */
#define SWEPT_HEADER  16
#define SWEPT_REMOTES 192 /* with the header, what kernels before 6.16 take as one packet (net/bpf/test_run.c) */

#define SWEPT_STEERED 192 /* the same of sweep_steered */

/* Where the sweep stands; it takes one block a run. */
struct sweep_cursor {
	__u64 next_block;
	__u64 expired;  /* bindings removed since the controller last wrote here */
	__u64 released; /* blocks returned to the pool */
	__u64 live;     /* bindings found alive */
};

#endif
