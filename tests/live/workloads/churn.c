/* A tree of processes that fork, unmap, madvise and mremap all the time, over memory of which every page is known.

   churn DIR PROCESSES MIB PAUSE_US: the first process and every second one have little memory, the others share MIB.
   SIGUSR1 to the first: each compares all of its pages, DIR/result says what was found. It ends with its first process. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, HALF = 16, CHUNK = 2 * HALF, MOST = 256, SMALL_CHUNKS = 2 };

struct stamp { uint64_t process, chunk, page, version; };
/* What is done is done to a half: over two mappings, one of them still waiting for pages, mremap(2) is refused. */
struct chunk { unsigned char *at[2]; uint64_t version[2]; };
struct board {
	volatile long asked, wrong, turns[MOST], answered[MOST];
	volatile struct stamp found, expected;
};

static volatile sig_atomic_t ask;
static struct board *board;
static struct chunk *chunks;
static int me, chunk_count;
static uint64_t chance;

static void on_ask(int number) { (void)number; ask = 1; }

static unsigned pick(unsigned below)
{
	chance = chance * 6364136223846793005ULL + 1442695040888963407ULL;
	return (unsigned)(chance >> 33) % below;
}

static unsigned char *place_of(int number, int page)
{
	return chunks[number].at[page / HALF] + (size_t)(page % HALF) * PAGE;
}

static void fill(int number, int half)
{
	for (int page = half * HALF; page < (half + 1) * HALF; page++) {
		unsigned char *at = place_of(number, page);
		struct stamp stamp = { me + 1, number + 1, page + 1, chunks[number].version[half] };
		memset(at, 0x5a ^ page, PAGE);
		memcpy(at, &stamp, sizeof stamp);
		memcpy(at + PAGE - sizeof stamp, &stamp, sizeof stamp);
	}
}

static long check(int number)
{
	long wrong = 0;
	for (int page = 0; page < CHUNK; page++) {
		unsigned char *at = place_of(number, page);
		struct stamp stamp = { me + 1, number + 1, page + 1, chunks[number].version[page / HALF] };
		if (memcmp(at, &stamp, sizeof stamp) || memcmp(at + PAGE - sizeof stamp, &stamp, sizeof stamp)
		    || at[PAGE / 2] != (unsigned char)(0x5a ^ page)) {
			if (!wrong++ && !board->wrong) {
				memcpy((void *)&board->found, at, sizeof stamp);
				memcpy((void *)&board->expected, &stamp, sizeof stamp);
			}
		}
	}
	if (wrong)
		__sync_fetch_and_add(&board->wrong, wrong);
	return wrong;
}

static void zero_then_fill(int number, int half)
{
	unsigned char *at = chunks[number].at[half];
	for (size_t i = 0; i < (size_t)HALF * PAGE; i += PAGE)
		if (at[i] || at[i + PAGE - 1])
			__sync_fetch_and_add(&board->wrong, 1);
	chunks[number].version[half]++;
	fill(number, half);
}

static void turn(void)
{
	int number = pick(chunk_count), half = pick(2);
	unsigned char *at = chunks[number].at[half], *place;
	const size_t size = (size_t)HALF * PAGE;
	switch (pick(4)) {
	case 0: {
		pid_t child = fork();
		if (!child) {
			usleep(pick(4) * 1000);
			_exit(pick(2) ? check(number) != 0 : 0);
		}
		int status = 0;
		if (child < 0 || waitpid(child, &status, 0) != child || status)
			__sync_fetch_and_add(&board->wrong, 1);
		break;
	}
	case 1:
		if (madvise(at, size, MADV_DONTNEED))
			__sync_fetch_and_add(&board->wrong, 1);
		zero_then_fill(number, half);
		break;
	case 2:
		place = mmap(0, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (mremap(at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, place) != place)
			__sync_fetch_and_add(&board->wrong, 1);
		chunks[number].at[half] = place;
		if (pick(2))
			check(number);
		break;
	default:
		munmap(at, size);
		if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != at)
			__sync_fetch_and_add(&board->wrong, 1);
		zero_then_fill(number, half);
	}
	board->turns[me]++;
}

static void build(int count)
{
	chunk_count = count;
	chance = me * 7919 + 17;
	chunks = calloc(count, sizeof *chunks);
	for (int i = 0; i < count; i++) {
		chunks[i].at[0] = mmap(0, CHUNK * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		chunks[i].at[1] = chunks[i].at[0] + HALF * PAGE;
		fill(i, 0);
		fill(i, 1);
	}
}

static void note(const char *directory, const char *name, int count)
{
	char now[400], then[400], text[400];
	long total = 0, least = -1;
	for (int i = 0; i < count; i++) {
		total += board->turns[i];
		if (least < 0 || board->turns[i] < least)
			least = board->turns[i];
	}
	volatile struct stamp *f = &board->found, *e = &board->expected;
	snprintf(text, sizeof text, "{\"processes\": %d, \"wrong\": %ld, \"turns\": %ld, \"least\": %ld, "
		 "\"found\": [%lu, %lu, %lu, %lu], \"expected\": [%lu, %lu, %lu, %lu]}\n", count, board->wrong, total, least,
		 (unsigned long)f->process, (unsigned long)f->chunk, (unsigned long)f->page, (unsigned long)f->version,
		 (unsigned long)e->process, (unsigned long)e->chunk, (unsigned long)e->page, (unsigned long)e->version);
	snprintf(now, sizeof now, "%s/.%s", directory, name);
	snprintf(then, sizeof then, "%s/%s", directory, name);
	int fd = open(now, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return;
	close(fd);
	rename(now, then);
}

static void live(int pause_us, pid_t parent)
{
	while (getppid() == parent) {
		if (board->answered[me] != board->asked) {
			long asked = board->asked;
			for (int i = 0; i < chunk_count; i++)
				check(i);
			board->answered[me] = asked;
		}
		turn();
		usleep(pause_us);
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	int count = atoi(argv[2]), pause_us = atoi(argv[4]), large = 0, answered = 0;
	if (count < 2 || count > MOST)
		return 2;
	board = mmap(0, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int i = 1; i < count; i += 2)
		large++;
	int each = atoi(argv[3]) * 256 / CHUNK / large;
	signal(SIGUSR1, on_ask);
	pid_t self = getpid();
	for (int i = 1; i < count; i++)
		if (!fork()) {
			signal(SIGUSR1, SIG_DFL);
			me = i;
			build(i % 2 ? each : SMALL_CHUNKS);
			board->answered[me] = -1;
			live(pause_us, self);
		}
	build(SMALL_CHUNKS);
	board->asked = ask = 1;
	for (;;) {
		if (ask && answered == 0) {
			ask = 0;
			board->asked++;
			for (int i = 0; i < chunk_count; i++)
				check(i);
			answered = 1;
		}
		if (answered) {
			int missing = 0;
			for (int i = 1; i < count; i++)
				missing += board->answered[i] != board->asked;
			if (!missing) {
				answered = 0;
				note(argv[1], "result", count);
			}
		}
		turn();
		usleep(pause_us);
	}
}
