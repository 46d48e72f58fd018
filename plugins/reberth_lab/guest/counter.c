/* The lab's container workload: it counts, holds memory, writes to its disk, and answers on a unix socket.
 *
 * counter MEBIBYTES DIRTY_MEBIBYTES_PER_SECOND
 *
 * Each beat (10 ms) appends its number to /var/log/beats, writes it over the one in /var/log/seconds/N (N: the second, of
 * 64) and rewrites a part of the memory. Whoever connects to /run/counter.sock gets one JSON line: is every word of the
 * memory, every line of the file and every second's last number what it must be? A copy that takes a file of the same
 * size and second for the same lacks that number. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BEAT_MS 10
#define PAGE_WORDS 512
#define LINE 16
#define FILE_NAME "/var/log/beats"
#define SECONDS_NAME "/var/log/seconds"
#define SECONDS 64

static uint64_t *memory, *generation, pages, beats, longest_ns, longest_beat, last_of[SECONDS];
static int file;

/* Wall clock: criu gives a restored tree a time namespace in which the others know of no gap. */
static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static uint64_t word(uint64_t page, uint64_t index) { return page * 1000003u + index * 97u + generation[page] * 7919u; }

static void fill(uint64_t page)
{
	for (uint64_t i = 0; i < PAGE_WORDS; i++)
		memory[page * PAGE_WORDS + i] = word(page, i);
}

static uint64_t bad_words(void)
{
	uint64_t bad = 0;
	for (uint64_t page = 0; page < pages; page++)
		for (uint64_t i = 0; i < PAGE_WORDS; i++)
			bad += memory[page * PAGE_WORDS + i] != word(page, i);
	return bad;
}

/* Lines that are missing or wrong on the disk, by the path and not by the open descriptor. */
static uint64_t bad_lines(void)
{
	char line[LINE + 1], want[LINE + 1];
	uint64_t bad = 0, n = 0;
	FILE *in = fopen(FILE_NAME, "r");
	while (in && fread(line, 1, LINE, in) == LINE) {
		snprintf(want, sizeof want, "%015llu\n", (unsigned long long)++n);
		bad += memcmp(line, want, LINE) != 0;
	}
	if (in)
		fclose(in);
	return bad + (n > beats ? n - beats : beats - n);
}

static int open_second(unsigned slot, int flags)
{
	char name[64];
	snprintf(name, sizeof name, SECONDS_NAME "/%02u", slot);
	return open(name, flags | O_CLOEXEC, 0644);
}

static void write_second(uint64_t ns, const char *line)
{
	unsigned slot = ns / 1000000000u % SECONDS;
	int fd = open_second(slot, O_WRONLY | O_CREAT);
	if (fd < 0)
		return;
	if (pwrite(fd, line, LINE, 0) == LINE)
		last_of[slot] = beats;
	close(fd);
}

static uint64_t bad_seconds(void)
{
	char line[LINE], want[LINE + 1];
	uint64_t bad = 0;
	for (unsigned slot = 0; slot < SECONDS; slot++) {
		if (!last_of[slot])
			continue;
		int fd = open_second(slot, O_RDONLY);
		snprintf(want, sizeof want, "%015llu\n", (unsigned long long)last_of[slot]);
		bad += fd < 0 || read(fd, line, LINE) != LINE || memcmp(line, want, LINE) != 0;
		if (fd >= 0)
			close(fd);
	}
	return bad;
}

static void answer(int listener)
{
	char text[512];
	int peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (peer < 0)
		return;
	uint64_t words = bad_words(), lines = bad_lines(), seconds = bad_seconds();
	int n = snprintf(text, sizeof text,
			 "{\"beats\": %llu, \"pid\": %d, \"memory_bytes\": %llu, \"bad_words\": %llu, \"bad_lines\": %llu, "
			 "\"bad_seconds\": %llu, \"longest_silence_s\": %.3f, \"after_beat\": %llu}\n",
			 (unsigned long long)beats, getpid(), (unsigned long long)pages * 4096, (unsigned long long)words,
			 (unsigned long long)lines, (unsigned long long)seconds, longest_ns / 1e9, (unsigned long long)longest_beat);
	(void)!write(peer, text, n);
	close(peer);
	longest_ns = 0;
}

static int listen_at(const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strcpy(name.sun_path, path);
	unlink(path);
	if (fd < 0 || bind(fd, (void *)&name, sizeof name) || listen(fd, 8)) {
		perror(path);
		exit(1);
	}
	return fd;
}

int main(int argc, char **argv)
{
	uint64_t mebibytes = argc > 1 ? strtoull(argv[1], NULL, 10) : 16, rate = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
	uint64_t at_once = rate * 256 * BEAT_MS / 1000, next = 0;
	if (rate && !at_once)
		at_once = 1;
	pages = mebibytes * 256;
	memory = mmap(NULL, pages * 4096 + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	generation = calloc(pages + 1, sizeof *generation);
	mkdir(SECONDS_NAME, 0755);
	file = open(FILE_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
	if (memory == MAP_FAILED || !generation || file < 0) {
		perror("counter");
		return 1;
	}
	for (uint64_t page = 0; page < pages; page++)
		fill(page);
	struct pollfd ready = { .fd = listen_at("/run/counter.sock"), .events = POLLIN };
	uint64_t last = now_ns();
	for (;;) {
		char line[LINE + 1];
		if (poll(&ready, 1, BEAT_MS) > 0) { /* a restore interrupts calls: -1 with EINTR is a beat as any other */
			answer(ready.fd);
			last = now_ns();
			continue;
		}
		for (uint64_t i = 0; i < at_once && pages; i++, next = (next + 1) % pages) {
			generation[next]++;
			fill(next);
		}
		snprintf(line, sizeof line, "%015llu\n", (unsigned long long)++beats);
		uint64_t now = now_ns();
		if (write(file, line, LINE) != LINE)
			beats--;
		else
			write_second(now, line);
		if (now - last > longest_ns) {
			longest_ns = now - last;
			longest_beat = beats;
		}
		last = now;
	}
}
