/* SPDX-License-Identifier: GPL-2.0-only */
#include "hash.h"
#include "runner.h"

#define WORDS_MOST 4

/* The hash of the bytes 0, 1, 2… */
static __u64 hash_counting(const struct secret *secret, __u32 words, __u32 rest)
{
	__u8 bytes[WORDS_MOST * sizeof(__u64)];
	struct sip sip;
	__u64 word;
	__u32 at;

	for (at = 0; at < sizeof(bytes); at++)
		bytes[at] = at;
	sip_begin(&sip, secret);
	for (at = 0; at < words; at++) {
		memcpy(&word, bytes + at * sizeof(word), sizeof(word));
		sip_take(&sip, word);
	}
	word = 0;
	memcpy(&word, bytes + words * sizeof(word), rest);
	return sip_end_with(&sip, word, rest);
}

/* CPython 3.11 hashes bytes with SipHash-1-3, and PYTHONHASHSEED=0 makes its key zero: hash(bytes(range(8))) and so on. */
TEST(it_is_siphash_1_3_with_a_key_of_zeros)
{
	const struct secret secret = { { 0, 0 } };

	CHECK_EQUAL(hash_counting(&secret, 1, 0), 0xead411e67ebe2eea);
	CHECK_EQUAL(hash_counting(&secret, 2, 0), 0x8972188433a5c5b7);
	CHECK_EQUAL(hash_counting(&secret, 3, 0), 0x31185a47af932f3a);
	CHECK_EQUAL(hash_counting(&secret, 0, 6), 0xe3c25f87624f1cdb);
	CHECK_EQUAL(hash_counting(&secret, 2, 2), 0xadc2c0b63044067d);
}

/* The key of the paper's appendix, bytes 0 to 15; values from an implementation that agrees with those above. */
TEST(it_is_siphash_1_3_with_a_key)
{
	const struct secret secret = { { 0x0706050403020100, 0x0f0e0d0c0b0a0908 } };

	CHECK_EQUAL(hash_counting(&secret, 0, 0), 0xabac0158050fc4dc);
	CHECK_EQUAL(hash_counting(&secret, 1, 0), 0x369095118d299a8e);
	CHECK_EQUAL(hash_counting(&secret, 2, 0), 0xcc4fdd1a7d908b66);
	CHECK_EQUAL(hash_counting(&secret, 3, 0), 0xf464aeb267349c8c);
}

TEST(a_remote_is_hashed_as_its_address_and_port)
{
	const struct secret secret = { { 0, 0 } };
	struct address v4 = { { [10] = 0xff, [11] = 0xff, [12] = 0, [13] = 1, [14] = 2, [15] = 3 } }, v6;
	__u32 at;

	for (at = 0; at < sizeof(v6); at++)
		v6.bytes[at] = at;
	CHECK_EQUAL(remote_hash(&secret, &v4, 0x0504), 0xe3c25f87624f1cdb);
	CHECK_EQUAL(remote_hash(&secret, &v6, 0x1110), 0xadc2c0b63044067d);
}

/* Flip every bit of address, port and secret in turn: on average half of the hash must change. */
TEST(every_bit_of_a_remote_and_of_the_secret_counts)
{
	struct {
		struct secret secret;
		struct address address;
		__be16 port;
	} base, other;
	const __u32 bits = 8 * (sizeof(base.secret) + sizeof(base.address) + sizeof(base.port)), rounds = 50;
	__u32 round, bit, changed = 0;
	__u64 before, after;

	for (round = 0; round < rounds; round++) {
		base.secret.key[0] = chance();
		base.secret.key[1] = chance();
		base.port = 0xaaaa;
		for (bit = 0; bit < sizeof(base.address); bit++)
			base.address.bytes[bit] = chance();
		before = remote_hash(&base.secret, &base.address, base.port);
		for (bit = 0; bit < bits; bit++) {
			other = base;
			((__u8 *)&other)[bit / 8] ^= 1 << bit % 8;
			after = remote_hash(&other.secret, &other.address, other.port);
			CHECK(after != before);
			changed += __builtin_popcountll(before ^ after);
		}
	}
	CHECK(changed > rounds * bits * 31 && changed < rounds * bits * 33);
}

TEST(without_a_port_only_the_address_counts)
{
	const struct secret secret = { { 1, 2 } };
	const struct address one = { { 1 } }, two = { { 2 } };

	CHECK(remote_hash(&secret, &one, 0) != remote_hash(&secret, &two, 0));
	CHECK(remote_hash(&secret, &one, 0) != remote_hash(&secret, &one, 1));
	CHECK_EQUAL(remote_hash(&secret, &one, 0), remote_hash(&secret, &one, 0));
}
