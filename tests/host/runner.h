/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * All that a C test here needs: TEST(name) { … } with CHECK and CHECK_EQUAL inside. The program runs the one test
 * that its argument names; test_c.py finds the names in the sources.
 */
#ifndef JETPLANE_RUNNER_H
#define JETPLANE_RUNNER_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct test {
	const char *name;
	void (*run)(void);
	struct test *next;
};

static struct test *tests;

#define TEST(title)                                                \
	static void title(void);                                   \
	__attribute__((constructor)) static void add_##title(void) \
	{                                                          \
		static struct test self = { #title, title, NULL }; \
		self.next = tests;                                 \
		tests = &self;                                     \
	}                                                          \
	static void title(void)

#define CHECK(condition)        check(condition, #condition, __FILE__, __LINE__)
#define CHECK_EQUAL(is, wanted) check_equal(is, wanted, #is, __FILE__, __LINE__)

static inline void check(int holds, const char *what, const char *file, int line)
{
	if (holds)
		return;
	fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
	exit(1);
}

static inline void check_equal(uint64_t is, uint64_t wanted, const char *what, const char *file, int line)
{
	if (is == wanted)
		return;
	fprintf(stderr, "%s:%d: %s is %#llx, not %#llx\n", file, line, what, (unsigned long long)is,
		(unsigned long long)wanted);
	exit(1);
}

/* Chance that is the same in every run (splitmix64, Steele, Lea and Flood 2014). */
static inline uint64_t chance(void)
{
	static uint64_t state = 4;
	uint64_t word = (state += 0x9e3779b97f4a7c15);

	word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
	word = (word ^ word >> 27) * 0x94d049bb133111eb;
	return word ^ word >> 31;
}

#define PLACE_ROOM 65536

/* Copy bytes to where the next page is forbidden: reading one byte too many, or 60,000, ends the program. */
static inline uint8_t *place(const void *bytes, size_t size)
{
	static uint8_t *room;

	if (!room) {
		room = mmap(NULL, 2 * PLACE_ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		check(room != MAP_FAILED, "mmap", __FILE__, __LINE__);
		check(!mprotect(room + PLACE_ROOM, PLACE_ROOM, PROT_NONE), "mprotect", __FILE__, __LINE__);
	}
	return memcpy(room + PLACE_ROOM - size, bytes, size);
}

int main(int count, char **arguments)
{
	struct test *test;

	for (test = tests; test; test = test->next) {
		if (count == 2 && !strcmp(test->name, arguments[1])) {
			test->run();
			return 0;
		}
	}
	fprintf(stderr, "%s: name one test\n", arguments[0]);
	return 2;
}

#endif
